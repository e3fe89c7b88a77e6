"""`python -m proxy usage`: the log's lines, summed up by day, key and model."""

import json
import sys
from collections import defaultdict
from collections.abc import Iterable
from typing import Any, TextIO

from proxy.request_log import CLIENT_GONE, DONE
from proxy.routes import PATHS
from proxy.strict_json import JSON

_Group = tuple[str, str, str]
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


def summed(lines: Iterable[str]) -> tuple[list[dict[str, Any]], int]:
    """A row for each day (UTC), key and model, in that order, and the number of other lines.

    A request whose client disconnected is not an error.
    """
    sums: dict[_Group, list[int]] = defaultdict(lambda: [0] * len(_SUMS))
    others = 0
    for line in lines:
        request = _request(line)
        if request is None:
            others += 1
            continue
        group, counts = request
        sums[group] = [sum(pair) for pair in zip(sums[group], counts, strict=True)]
    names = (*_GROUP, *_SUMS)
    rows = [dict(zip(names, (*group, *counts), strict=True)) for group, counts in sums.items()]
    return sorted(rows, key=lambda row: [row[name] for name in _GROUP]), others


def _request(line: str) -> tuple[_Group, list[int]] | None:
    """Its group, and what it adds to the sums; None if the line is not about a chat completion."""
    try:
        fields = _fields(line)
        if fields["path"] not in PATHS or fields.get("method", "POST") != "POST":
            return None
        failed = fields["ended"] not in (DONE, CLIENT_GONE)
        prompt, completion = fields["prompt_tokens"] or 0, fields["completion_tokens"] or 0
        group = (fields["time"][:10], fields["key"] or "-", fields["model"] or "-")
        return group, [1, int(failed), prompt, completion, prompt + completion]
    except (ValueError, LookupError, TypeError):
        return None


def _fields(text: str) -> JSON:
    """The JSON object in a line. Platforms put text before it, or wrap it: {"log": "{…}"}."""
    fields: JSON = json.JSONDecoder().raw_decode(text, text.index("{"))[0]
    wrapped = [text for text in fields.values() if isinstance(text, str) and text.startswith("{")]
    return _fields(wrapped[0]) if wrapped and "ended" not in fields else fields


def _table(rows: list[dict[str, Any]]) -> str:
    """Words to the left, numbers to the right."""
    names = (*_GROUP, *_SUMS)
    cells = [names, *(tuple(str(row[name]) for name in names) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if number < len(_GROUP) else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in cells
    )
