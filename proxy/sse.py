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
    """The data of an event that is named `error`, or what an `error` field has."""


class EventTooLong(ValueError):
    """An event of more than MAX_EVENT bytes."""


def event(data: bytes) -> bytes:
    """One event, ready to send; `data` holds no line break."""
    return b"data: " + data + b"\n\n"


def events(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The data of each event, as soon as its last byte has arrived, and PAUSE after each piece.

    An event that the end of the stream leaves open is yielded too: each is one JSON object or
    [DONE], so half of one is not mistaken for it. Raises EventTooLong.
    """
    mark = codecs.BOM_UTF8  # may stand before the first event
    rest = bytearray()
    for piece in chain(_with_lf(pieces), [b"\n\n"]):  # at the end, what is open is closed
        first_new = max(len(rest) - 1, 0)
        rest += piece
        end = rest.rfind(b"\n\n", first_new)
        if end >= 0:
            for block in bytes(rest[:end]).split(b"\n\n"):
                yield _data(block.removeprefix(mark))
                mark = b""
            del rest[: end + 2]
        if len(rest) > MAX_EVENT:
            raise EventTooLong
        yield PAUSE


def _with_lf(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The pieces, with LF for CRLF and CR. A CR at the end of a piece may be half a CRLF."""
    after_cr = False
    for piece in pieces:
        if after_cr:
            piece, after_cr = piece.removeprefix(b"\n"), not piece
        if b"\r" in piece:
            after_cr = piece.endswith(b"\r")
            piece = piece.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        yield piece


def _data(block: bytes) -> bytes:
    """The data of one event; PAUSE if it has none."""
    if len(block) > MAX_EVENT:
        raise EventTooLong
    data = []
    is_error = False
    for line in block.split(b"\n"):
        field, _, value = line.partition(b":")
        if field == b"data":
            data.append(value.removeprefix(b" "))
        elif field == b"event":
            is_error = value.strip().lower() == b"error"
        elif field == b"error":  # llama.cpp's, and its [DONE] follows
            return ErrorData(value)
    return ErrorData(b"\n".join(data)) if is_error else b"\n".join(data)
