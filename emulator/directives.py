"""The directives: how a request tells the emulator to misbehave.

A directive stands in the text of the last message, `[[wait=2,reset=middle]]`, because that
passes through any proxy unchanged. What each of them does is told in `faults`.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

_DIRECTIVE = re.compile(r"\s*\[\[\s*([A-Za-z][^\[\]]*)\]\]")  # not [[1, 2], [3, 4]]: just text


class WrongDirectiveError(Exception):
    """A directive that cannot be followed: an error, so that no typing mistake goes unseen."""

    def __init__(self, directive: str) -> None:
        known = ", ".join(sorted(_READERS))
        super().__init__(f"the emulator cannot follow [[{directive}]]; it knows {known}")


@dataclass(frozen=True)
class Faults:
    """The directives of one request: seconds are floats, counts and bytes are ints."""

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
_READERS: dict[str, Callable[[str], Any]] = {
    **dict.fromkeys(("wait", "first", "gap", "drip_headers", "drip_body"), _seconds),
    **dict.fromkeys(("silent", "no_done", "no_end", "junk", "garbage", "endless"), _flag),
    **dict.fromkeys(("json_for_stream", "sse_for_whole"), _flag),
    **dict.fromkeys(("stall", "huge", "gzip", "retry_after"), _number(0)),
    **dict.fromkeys(("words", "code"), _number(1)),
    **dict.fromkeys(("reset", "close"), _PLACE),
    "redirect": _number(300, 399),
    "status": _number(200, 599),
    "sample": str,
    "framing": _one_of("chunked", "length", "close"),
}


def read(text: str) -> tuple[Faults, str]:
    """The directives in a text, and the text without them; or a `WrongDirectiveError`."""
    directives = [part.strip() for found in _DIRECTIVE.findall(text) for part in found.split(",")]
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
    return faults, _DIRECTIVE.sub("", text).strip() if directives else text
