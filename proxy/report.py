"""The request log, summed up by day, key and model."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable

from proxy.request_log import CLIENT_GONE, DONE
from proxy.routes import PATHS
from proxy.strict_json import JSON

_GROUP = ("day", "key", "model")
_SUMS = ("requests", "errors", "prompt_tokens", "completion_tokens", "total_tokens")


def summed(lines: Iterable[str]) -> tuple[list[JSON], int]:
    """A row for each day (UTC), key and model, in that order, and the number of other lines."""
    sums: defaultdict[tuple[str, ...], Counter[str]] = defaultdict(Counter)
    others = 0
    for line in lines:
        try:
            group, counts = _counts(_fields(line))
            sums[group].update(counts)
        except (ValueError, LookupError, TypeError):
            others += 1
    rows = [dict(zip(_GROUP, group, strict=True)) | sums[group] for group in sorted(sums)]
    return rows, others


def _fields(line: str) -> JSON:
    """The JSON object in a line. Platforms put text before it, or wrap it: {"log": "{…}"}."""
    fields: JSON = json.JSONDecoder().raw_decode(line, line.index("{"))[0]
    wrapped = [text for text in fields.values() if isinstance(text, str) and text.startswith("{")]
    return _fields(wrapped[0]) if wrapped and "ended" not in fields else fields


def _counts(fields: JSON) -> tuple[tuple[str, ...], dict[str, int]]:
    """The row of a request, and what it adds. Raises ValueError if it asked for something else.

    A request whose client disconnected is not an error.
    """
    if fields["path"] not in PATHS or fields["method"] != "POST":
        raise ValueError
    group = (fields["time"][:10], fields["key"] or "-", fields["model"] or "-")
    failed = int(fields["ended"] not in (DONE, CLIENT_GONE))
    prompt, completion = fields["prompt_tokens"] or 0, fields["completion_tokens"] or 0
    counts = (1, failed, prompt, completion, prompt + completion)
    return group, dict(zip(_SUMS, counts, strict=True))


def table(rows: list[JSON]) -> str:
    """The rows as text: words to the left, numbers to the right."""
    columns = []
    for name in (*_GROUP, *_SUMS):
        cells = [name, *(str(row[name]) for row in rows)]
        side, width = "<" if name in _GROUP else ">", max(map(len, cells))
        columns.append([f"{cell:{side}{width}}" for cell in cells])
    return "\n".join(map("  ".join, zip(*columns, strict=True)))
