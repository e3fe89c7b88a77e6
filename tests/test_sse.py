"""Server-sent events, by WHATWG's rules, however the bytes were cut."""

from collections.abc import Iterable

import pytest

from proxy import sse


def told(pieces: Iterable[bytes]) -> list[bytes]:
    """The events that say something."""
    return [data for data in sse.events(pieces) if data != sse.PAUSE]


RULES = {
    "one event": (b"data: a\n\n", [b"a"]),
    "lines end at CRLF": (b"data: a\r\n\r\ndata: b\r\n\r\n", [b"a", b"b"]),
    "CRLF in an event": (b"data: a\r\ndata: b\r\n\r\n", [b"a\nb"]),
    "lines end at CR": (b"data: a\r\rdata: b\r\r", [b"a", b"b"]),
    "lines end as each likes": (b"data: a\r\n\ndata: b\n\r\ndata: c\r\r\n", [b"a", b"b", b"c"]),
    "LF CR is two ends": (b"data: a\n\rdata: b\n\n", [b"a", b"b"]),
    "no blank after the colon": (b"data:a\n\n", [b"a"]),
    "one blank is taken away": (b"data:  a \n\n", [b" a "]),
    "a tab is no blank": (b"data:\ta\n\n", [b"\ta"]),
    "several data lines are joined": (b"data: a\ndata:b\ndata: c\n\n", [b"a\nb\nc"]),
    "an empty data line counts": (b"data: a\ndata:\ndata: b\n\n", [b"a\n\nb"]),
    "colons in the data": (b"data: a:b: c\n\n", [b"a:b: c"]),
    "comments say nothing": (b": ping\n\n:\n\ndata: a\n: in between\ndata: b\n\n", [b"a\nb"]),
    "other fields say nothing": (b"event: x\nid: 7\nretry: 10\ndata: a\n\n", [b"a"]),
    "an event without data is none": (b"event: x\nid: 7\n\ndata: a\n\n", [b"a"]),
    "names are exact": (b"Data: x\ndatas: x\n data: x\ndata : x\n\ndata: a\n\n", [b"a"]),
    "a data line without a colon": (b"data: a\ndata\ndata: b\n\n", [b"a\n\nb"]),
    "blank lines say nothing": (b"\n\n\ndata: a\n\n\n\ndata: b\n\n\n", [b"a", b"b"]),
    "a byte order mark goes": (b"\xef\xbb\xbfdata: a\n\n", [b"a"]),
    "only the first one": (b"\xef\xbb\xbf\xef\xbb\xbfdata: x\n\ndata: a\n\n", [b"a"]),
    "only at the start": (b"data: a\n\n\xef\xbb\xbfdata: x\n\n", [b"a"]),
    "no other character ends a line": (
        "data: a\u2028b\u2029c\x85d\x0be\x0cf\x1cg\n\n".encode(),
        ["a\u2028b\u2029c\x85d\x0be\x0cf\x1cg".encode()],
    ),
    "characters of many bytes": ("data: é👋🏽世\n\n".encode(), ["é👋🏽世".encode()]),
    "bytes that are no UTF-8 are let be": (b"data: \xff\x00\n\n", [b"\xff\x00"]),
    "the end leaves an event open": (b"data: a\n\ndata: b\n", [b"a", b"b"]),
    "the end leaves a line open": (b"data: a\n\ndata: [DONE]", [b"a", b"[DONE]"]),
    "the end comes after a CR": (b"data: a\n\ndata: b\r", [b"a", b"b"]),
    "nothing at all": (b"", []),
    "only a mark": (b"\xef\xbb\xbf", []),
    "only an end": (b"\r\n", []),
}


@pytest.mark.parametrize(("stream", "data"), RULES.values(), ids=RULES)
def test_rules(stream: bytes, data: list[bytes]) -> None:
    """Whole, and in two with a piece of no bytes between them."""
    assert told([stream]) == data
    for place in range(len(stream) + 1):
        assert told([stream[:place], b"", stream[place:]]) == data


def test_a_pause_follows_what_a_piece_brought() -> None:
    """Also where it brought no event: nothing more has come."""
    pieces = [b"data: a\n\ndata: b\n\nda", b"ta: c\n", b"\n"]
    told = [b"a", b"b", sse.PAUSE, sse.PAUSE, b"c", sse.PAUSE]
    assert list(sse.events(pieces))[: len(told)] == told


def test_an_event_as_it_is_sent_and_read_again() -> None:
    assert sse.event(b"{}") == b"data: {}\n\n"
    data = [b"{}", b" a ", b":", b"data: a", b"\xef\xbb\xbf", "é\x85".encode(), sse.DONE]
    assert told(map(sse.event, data)) == data


@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n", b"\r\r"], ids=["LF", "CRLF", "CR"])
def test_an_event_is_given_as_soon_as_its_last_byte_has_come(end: bytes) -> None:
    """A token must not wait for the next one. (CRLF: its CR ends the line already.)"""
    pieces = iter([b"data: a" + end, b"data: b" + end])
    assert next(sse.events(pieces)) == b"a"
    assert len([*pieces]) == 1


LONGEST = b"data: " + b"a" * (sse.MAX_EVENT - 6)
TOO_LONG = {
    "whole": [LONGEST + b"a\n\n"],
    "two pieces": [LONGEST, b"a\n\n"],
    "many lines": [b"data: " + b"a" * 65536 + b"\n"] * 17,
    "a line without an end": [b": "] + [b"a" * 65536] * 20,
}


@pytest.mark.parametrize("pieces", TOO_LONG.values(), ids=TOO_LONG)
def test_an_event_that_is_too_long(pieces: list[bytes]) -> None:
    """Memory is bounded: what comes after it is not read."""
    read = iter([*pieces, b"data: b\n\n"])
    with pytest.raises(sse.EventTooLong):
        list(sse.events(read))
    assert next(read)


def test_the_limit_is_for_one_event() -> None:
    for pieces in ([LONGEST + b"\n\n"], [LONGEST, b"\n\n"], [LONGEST + b"\n\n" + LONGEST]):
        assert set(told(pieces)) == {LONGEST[6:]}


def test_a_long_line_in_single_bytes_is_linear() -> None:
    """Many bytes, one at a time: seconds if each byte copied the line."""
    pieces = [b"data: ", *[b"a"] * 200_000, b"\n\n"]
    assert [len(data) for data in told(pieces)] == [200_000]
