"""`python -m proxy usage`: the log's lines, summed up by day, key and model."""

import json
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import TextIO

from proxy.request_log import CLIENT_GONE, DONE
from proxy.routes import PATHS
from proxy.strict_json import JSON

_GROUP = ("day", "key", "model")
_SUMS = ("requests", "errors", "prompt_tokens", "completion_tokens", "total_tokens")


def run(log: TextIO, *, as_json: bool) -> int:
    """Print the sums of the log's lines. The exit status is 0."""
    if log.isatty():
        print("Reading the log from stdin; end it with Ctrl-D.", file=sys.stderr)
    rows, others = summed(log)
    print(json.dumps(rows, indent=2) if as_json else _table(rows))
    if others:
        print(f"{others} lines are not about a chat completion", file=sys.stderr)
    return 0


def summed(lines: Iterable[str]) -> tuple[list[JSON], int]:
    """A row for each day (UTC), key and model, in that order, and the number of other lines."""
    sums: defaultdict[tuple[str, ...], Counter[str]] = defaultdict(Counter)
    others = 0
    for line in lines:
        try:
            fields = _fields(line)
            counts = _counts(fields)
            group = (fields["time"][:10], fields["key"] or "-", fields["model"] or "-")
            sums[group].update(counts)
        except (ValueError, LookupError, TypeError):
            others += 1
    names = (*_GROUP, *_SUMS)
    rows = [(*group, *(sums[group][name] for name in _SUMS)) for group in sorted(sums)]
    return [dict(zip(names, row, strict=True)) for row in rows], others


def _fields(line: str) -> JSON:
    """The JSON object in a line. Platforms put text before it, or wrap it: {"log": "{…}"}."""
    fields: JSON = json.JSONDecoder().raw_decode(line, line.index("{"))[0]
    wrapped = [text for text in fields.values() if isinstance(text, str) and text.startswith("{")]
    return _fields(wrapped[0]) if wrapped and "ended" not in fields else fields


def _counts(fields: JSON) -> dict[str, int]:
    """What a request adds. Raises ValueError if it did not ask for a chat completion.

    A request whose client disconnected is not an error.
    """
    if fields["path"] not in PATHS or fields["method"] != "POST":
        raise ValueError
    failed = int(fields["ended"] not in (DONE, CLIENT_GONE))
    prompt, completion = fields["prompt_tokens"] or 0, fields["completion_tokens"] or 0
    return dict(zip(_SUMS, (1, failed, prompt, completion, prompt + completion), strict=True))


def _table(rows: list[JSON]) -> str:
    """Words to the left, numbers to the right."""
    head = dict(zip((*_GROUP, *_SUMS), (*_GROUP, *_SUMS), strict=True))
    widths = {name: max(len(str(row[name])) for row in (head, *rows)) for name in head}
    return "\n".join(
        "  ".join(
            f"{row[name]:{'<' if name in _GROUP else '>'}{width}}" for name, width in widths.items()
        )
        for row in (head, *rows)
    )
