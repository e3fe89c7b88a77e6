"""Bytes <-> the data of server-sent events.

The rules are WHATWG's, https://html.spec.whatwg.org/multipage/server-sent-events.html: a line ends
at LF, CRLF or CR and nowhere else (so not at U+2028, as str.splitlines has it).
"""

import codecs
from collections.abc import Iterable, Iterator
from itertools import chain

DONE = b"[DONE]"
MAX_EVENT = 1024 * 1024  # bytes


class EventTooLong(ValueError):
    """An event of more than MAX_EVENT bytes."""


def event(data: bytes) -> bytes:
    """One event, ready to send; `data` holds no line break."""
    return b"data: " + data + b"\n\n"


def events(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The data of each event, as soon as its last byte has come, however the bytes were cut.

    An event that the end of the stream leaves open is given too: each is one JSON object or
    [DONE], so a torn one cannot pass for whole. Raises EventTooLong.
    """
    data: list[bytes] = []
    size = 0
    lines = _lines(pieces)
    first = next(lines, b"").removeprefix(codecs.BOM_UTF8)
    for line in chain([first], lines):
        if not line:
            if data:
                yield b"\n".join(data)
            data, size = [], 0
            continue
        field, _, value = line.partition(b":")
        if field == b"data":
            data.append(value.removeprefix(b" "))
            size += len(line)
            if size > MAX_EVENT:
                raise EventTooLong
    if data:
        yield b"\n".join(data)


def _lines(pieces: Iterable[bytes]) -> Iterator[bytes]:
    r"""The lines without their ends. A CR at the end of a piece may be half a CRLF."""
    open_line: list[bytes] = []  # joined once: a line that comes in many pieces stays linear
    size = 0
    after_cr = False
    for piece in pieces:
        if after_cr:
            piece, after_cr = piece.removeprefix(b"\n"), not piece
        if piece:
            after_cr = piece.endswith(b"\r")
        *whole, rest = piece.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        for line in whole:
            yield b"".join((*open_line, line)) if open_line else line
            open_line, size = [], 0
        if rest:
            open_line.append(rest)
            size += len(rest)
            if size > MAX_EVENT:
                raise EventTooLong
    if open_line:
        yield b"".join(open_line)
