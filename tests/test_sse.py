"""Server-sent events, by WHATWG's rules, however the bytes were cut."""

from collections.abc import Iterable, Iterator
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy import sse


def told(pieces: Iterable[bytes]) -> list[bytes]:
    """The events that say something."""
    return [data for data in sse.events(pieces) if data != sse.PAUSE]


quick = settings(max_examples=80, derandomize=True, deadline=None, database=None)

RULES = {
    "one event": (b"data: a\n\n", [b"a"]),
    "lines end at CRLF": (b"data: a\r\n\r\ndata: b\r\n\r\n", [b"a", b"b"]),
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
each_rule = pytest.mark.parametrize(("stream", "data"), RULES.values(), ids=RULES.keys())


@each_rule
def test_whole(stream: bytes, data: list[bytes]) -> None:
    assert told([stream]) == data


@each_rule
def test_cut_at_every_place(stream: bytes, data: list[bytes]) -> None:
    """In two, with a piece of no bytes between them."""
    for place in range(len(stream) + 1):
        assert told([stream[:place], b"", stream[place:]]) == data


@quick
@given(
    stream=st.lists(
        st.sampled_from([b"\n", b"\r", b"\r\n", b"data:", b" ", b":", b"a", b"\xef\xbb\xbf", b"id"])
    ).map(b"".join),
    places=st.lists(st.integers(0, 60)),
)
def test_cuts_mean_nothing(stream: bytes, places: list[int]) -> None:
    edges = sorted(min(place, len(stream)) for place in (0, *places, len(stream)))
    pieces = [stream[start:end] for start, end in pairwise(edges)]
    assert b"".join(pieces) == stream
    assert told(pieces) == told([stream])


@quick
@given(st.lists(st.binary().map(lambda data: data.replace(b"\n", b"").replace(b"\r", b""))))
def test_what_is_written_is_read_again(data: list[bytes]) -> None:
    stream = b"".join(map(sse.event, data))
    assert told([stream]) == [*filter(None, data)]


def test_a_pause_follows_what_a_piece_brought() -> None:
    """Also where it brought no event: nothing more has come."""
    pieces = [b"data: a\n\ndata: b\n\nda", b"ta: c\n", b"\n"]
    told = [b"a", b"b", sse.PAUSE, sse.PAUSE, b"c", sse.PAUSE]
    assert list(sse.events(pieces))[: len(told)] == told


def test_an_event_as_it_is_sent() -> None:
    assert sse.event(b"{}") == b"data: {}\n\n"
    assert sse.event(sse.DONE) == b"data: [DONE]\n\n"


@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n", b"\r\r"], ids=["LF", "CRLF", "CR"])
def test_an_event_is_given_as_soon_as_its_last_byte_has_come(end: bytes) -> None:
    """A token must not wait for the next one. (CRLF: its CR ends the line already.)"""
    asked_for_more = []

    def pieces() -> Iterator[bytes]:
        yield b"data: a" + end
        asked_for_more.append(True)
        yield b"data: b" + end

    events = sse.events(pieces())
    assert next(events) == b"a"
    assert not asked_for_more


LONGEST = b"data: " + b"a" * (sse.MAX_EVENT - 6)


@pytest.mark.parametrize(
    "pieces",
    [
        [LONGEST + b"a\n\n"],
        [LONGEST, b"a\n\n"],
        [LONGEST, b"a"],
        [b"data: "] + [b"a" * 65536] * 17,
        [b"data: " + b"a" * 65536 + b"\n"] * 17,
        [b": "] + [b"a" * 65536] * 17,
    ],
    ids=["whole", "two pieces", "no end", "many pieces", "many lines", "a comment"],
)
def test_an_event_that_is_too_long(pieces: list[bytes]) -> None:
    """Memory is bounded, also against a line that never ends."""
    with pytest.raises(sse.EventTooLong):
        list(sse.events(pieces))


@pytest.mark.parametrize("pieces", [[LONGEST + b"\n\n"], [LONGEST, b"\n\n"]])
def test_the_longest_event(pieces: list[bytes]) -> None:
    assert told(pieces) == [LONGEST[6:]]


def test_the_limit_is_for_one_event() -> None:
    stream = [b"data: " + b"a" * 65536 + b"\n\n"] * 20
    assert sum(map(len, sse.events(stream))) > sse.MAX_EVENT


def test_a_long_line_in_single_bytes_is_linear() -> None:
    """Many bytes, one at a time: seconds if each byte copied the line."""
    pieces = [b"data: ", *[b"a"] * 200_000, b"\n\n"]
    assert [len(data) for data in told(pieces)] == [200_000]
