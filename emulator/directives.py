"""The directives: how a request tells the emulator to misbehave.

A directive stands in the text of the last message, `[[wait=2,reset=middle]]`, because that
passes through any proxy unchanged. `faults` has what each of them does.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

_DIRECTIVE = re.compile(r"\s*\[\[\s*([A-Za-z][^\[\]]*)\]\]")  # not [[1, 2], [3, 4]]


class WrongDirectiveError(Exception):
    """A directive whose name is known and whose value is wrong."""

    def __init__(self, directive: str) -> None:
        known = ", ".join(sorted(_READERS))
        super().__init__(f"the emulator cannot follow [[{directive}]]; it knows {known}")


@dataclass(frozen=True)
class Faults:
    """The directives of one request. Seconds are floats; counts and bytes are ints."""

    wait: float = 0.0
    first: float = 0.0
    gap: float | None = None
    words: int | None = None
    drip_headers: float = 0.0
    drip_body: float = 0.0
    silent: bool = False
    stall: int | None = None
    reset: str | None = None
    close: str | None = None
    no_done: bool = False
    no_end: bool = False
    junk: bool = False
    garbage: bool = False
    redirect: int | None = None
    huge: int | None = None
    gzip: int | None = None
    endless: bool = False
    status: int | None = None
    code: int | None = None
    retry_after: int | None = None
    sample: str | None = None
    framing: str | None = None
    json_for_stream: bool = False
    sse_for_whole: bool = False


def _seconds(value: str) -> float:
    seconds = float(value)
    if not 0 <= seconds < math.inf:
        raise ValueError
    return seconds


def _number(low: int, high: float = math.inf) -> Callable[[str], int]:
    def number(value: str) -> int:
        if not low <= int(value) <= high:
            raise ValueError
        return int(value)

    return number


def _one_of(*names: str) -> Callable[[str], str]:
    return lambda value: names[names.index(value)]


def _flag(value: str) -> bool:
    if value:
        raise ValueError
    return True


_PLACE = _one_of("before", "headers", "middle")
_FLAGS: tuple[str, ...] = ("silent", "no_done", "no_end", "junk", "garbage", "endless")
_FLAGS += ("json_for_stream", "sse_for_whole")
_READERS: dict[str, Callable[[str], Any]] = {
    **dict.fromkeys(("wait", "first", "gap", "drip_headers", "drip_body"), _seconds),
    **dict.fromkeys(_FLAGS, _flag),
    **dict.fromkeys(("stall", "huge", "gzip", "retry_after"), _number(0)),
    **dict.fromkeys(("words", "code"), _number(1)),
    **dict.fromkeys(("reset", "close"), _PLACE),
    "redirect": _number(300, 399),
    "status": _number(200, 599),
    "sample": str,
    "framing": _one_of("chunked", "length", "close"),
}


def read(text: str) -> tuple[Faults, str]:
    """The directives in a text, and the text without them.

    Brackets that hold anything else are text. A directive that is known, but cannot be followed,
    is a `WrongDirectiveError`.
    """
    directives: list[str] = []

    def take(found: re.Match[str]) -> str:
        parts = [part.strip() for part in found[1].split(",")]
        if not _are_directives(parts):
            return found[0]
        directives.extend(parts)
        return ""

    rest = _DIRECTIVE.sub(take, text)
    return _faults(directives), rest.strip() if directives else text


def _are_directives(parts: list[str]) -> bool:
    """Whether one of them gives a value to a known name, or all are known words without value."""
    valued = any("=" in part and part.partition("=")[0] in _READERS for part in parts)
    return valued or all(part in _FLAGS for part in parts)


def _faults(directives: list[str]) -> Faults:
    values = {}
    for directive in directives:
        name, _, value = directive.partition("=")
        try:
            values[name] = _READERS[name](value)
        except (KeyError, ValueError):
            raise WrongDirectiveError(directive) from None
    faults = Faults(**values)
    if faults.endless and faults.framing == "length":
        raise WrongDirectiveError("endless with framing=length")
    if faults.code and not faults.status:
        raise WrongDirectiveError(f"code={faults.code} without status")
    return faults
