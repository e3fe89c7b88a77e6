"""`python -m proxy usage`: the log's lines, summed up by day, key and model."""

import json
import sys
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from proxy.request_log import CLIENT_GONE, DONE
from proxy.routes import PATHS

_Group = tuple[str, str, str]
_GROUP = ("day", "key", "model")
_SUMS = ("requests", "errors", "prompt_tokens", "completion_tokens", "total_tokens")


def run(lines: Iterable[str], *, as_json: bool) -> int:
    """Print the sums of what `lines` say. The exit status is 0."""
    rows, others = summed(lines)
    print(json.dumps(rows, indent=2) if as_json else _table(rows))
    if others:
        print(f"{others} lines told of no chat completion", file=sys.stderr)
    return 0


def summed(lines: Iterable[str]) -> tuple[list[dict[str, Any]], int]:
    """A row for each day (UTC), key and model, in that order, and how many lines told of none.

    What a platform puts before a line is passed over. A request whose caller left is no error.
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
    """Its group, and what it adds to the sums; None where the line tells of no chat completion."""
    try:
        told = json.loads(line[line.find("{") :])
        if told["path"] not in PATHS or told.get("method", "POST") != "POST":
            return None
        failed = told["ended"] not in (DONE, CLIENT_GONE)
        prompt, answer = told["prompt_tokens"] or 0, told["completion_tokens"] or 0
        group = (told["time"][:10], told["key"] or "-", told["model"] or "-")
        return group, [1, int(failed), prompt, answer, prompt + answer]
    except (ValueError, LookupError, TypeError):
        return None


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
