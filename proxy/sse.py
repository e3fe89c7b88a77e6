"""Bytes <-> the data of server-sent events.

The rules are WHATWG's, https://html.spec.whatwg.org/multipage/server-sent-events.html: a line ends
at LF, CRLF or CR and nowhere else (so not at U+2028, as str.splitlines has it).
"""

import codecs
from collections.abc import Iterable, Iterator
from itertools import chain

DONE = b"[DONE]"
PAUSE = b""  # all that has arrived was yielded; an empty event means as little
MAX_EVENT = 1024 * 1024  # bytes


class ErrorData(bytes):
    """The data of an event that is named `error`."""


class EventTooLong(ValueError):
    """An event of more than MAX_EVENT bytes."""


BEFORE, AFTER = b"data: ", b"\n\n"  # what stands round the data of an event


def event(data: bytes) -> bytes:
    """One event, ready to send; `data` holds no line break."""
    return BEFORE + data + AFTER


def events(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The data of each event, as soon as its last byte has arrived, and PAUSE after each piece.

    An event that the end of the stream leaves open is yielded too: each is one JSON object or
    [DONE], so half of one is not mistaken for it. Raises EventTooLong.
    """
    data: list[bytes] = []
    size = 0
    is_error = False
    for lines in _lines(chain(pieces, [b"\n\n"])):  # at the end, what is open is closed
        for line in lines:
            if not line:
                if data or is_error:
                    joined = b"\n".join(data)
                    yield ErrorData(joined) if is_error else joined
                data, size, is_error = [], 0, False
                continue
            field, _, value = line.partition(b":")
            if field == b"data":
                data.append(value.removeprefix(b" "))
                size += len(line)
                if size > MAX_EVENT:
                    raise EventTooLong
            elif field == b"event":
                is_error = value.strip() == b"error"
        yield PAUSE


def _lines(pieces: Iterable[bytes]) -> Iterator[list[bytes]]:
    """The lines without their ends, as the pieces bring them. A CR at the end of a piece may be
    half a CRLF."""
    open_line: list[bytes] = []  # joined once: a line that comes in many pieces stays linear
    size = 0
    after_cr = False
    is_first = True
    for piece in pieces:
        if after_cr:
            piece, after_cr = piece.removeprefix(b"\n"), not piece
        if b"\r" in piece:
            after_cr = piece.endswith(b"\r")
            piece = piece.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *lines, rest = piece.split(b"\n")
        if lines:
            lines[0] = b"".join((*open_line, lines[0]))
            open_line, size = [], 0
            if is_first:
                lines[0], is_first = lines[0].removeprefix(codecs.BOM_UTF8), False
            yield lines
        if rest:
            open_line.append(rest)
            size += len(rest)
            if size > MAX_EVENT:
                raise EventTooLong
