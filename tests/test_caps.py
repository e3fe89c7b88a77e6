"""What a provider sends is bounded: too much of anything is an error, and costs little memory."""

from collections.abc import Iterator

import pytest
import serving
from conftest import Serve
from crowd import Play, Wire, answer_to, forget_peak, memory, outcome, post, workers
from serving import Server

MB = 1_000_000
MIB = 1024**2
MOST = 30  # MiB that a worker may take for what is too much

STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
WHOLE = STREAM.replace(b"text/event-stream", b"application/json")
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"


def pour(head: bytes, block: bytes) -> Play:
    """60 MB of the same, after a head."""
    return lambda: [head, *[block] * (60 * MB // len(block))]


PLAYS = {
    "a line without an end": pour(STREAM + b"\r\ndata: ", b"x" * 65536),
    "an event without an end": pour(STREAM + b"\r\n", b"data: xxxxxxxx\n" * 4000),
    "an event of empty lines' worth": pour(STREAM + b"\r\n", b"data:\n" * 10_000),
    "JSON without an end": pour(WHOLE + b'\r\n{"result":"', b"x" * 65536),
    "a header without an end": pour(WHOLE + b"X-A: ", b"x" * 65536),
    "headers without an end": pour(WHOLE, b"X-A: xxxxxxxx\r\n" * 4000),
    "a status line without an end": pour(b"HTTP/1.1 200 ", b"x" * 65536),
    "a chunk size without an end": pour(STREAM + CHUNKED, b"0" * 65536),
    "a chunk extension without an end": pour(STREAM + CHUNKED + b"5;", b"x" * 65536),
    "trailers without an end": pour(
        WHOLE + CHUNKED + b"2\r\n{}\r\n0\r\n", b"X-A: xxxxxxxx\r\n" * 4000
    ),
}


@pytest.fixture(scope="module")
def behind_wire(serve: Serve) -> Iterator[Server]:
    limits = {"LLAMA_PROVIDER_TIMEOUT": "20", "LLAMA_PROVIDER_TOTAL_TIMEOUT": "20"}
    with Wire(PLAYS) as wire, serve(serving.settings(wire.url, **limits)) as server:
        answer_to(server, post("a status line without an end"))  # what is loaded once, is
        yield server


def assert_cheap(server: Server, sent: bytes, *expected: str) -> None:
    """It ends as expected; for an error the worker took at no time more than MOST."""
    (worker,) = workers(server)
    forget_peak(worker)
    before = memory(worker)
    found = outcome(answer_to(server, sent))
    taken = memory(worker, "VmHWM") - before
    print(f"{found}, and {taken:.1f} MiB at the most, {memory(worker) - before:.1f} afterwards")
    assert found in expected
    assert taken < MOST or found == "done"
    assert workers(server) == [worker]


BAD = "provider_bad_answer"
SIZES = {
    "over 8 MiB, whole": (f"[[huge={8 * MIB + 1}]]", False, BAD),
    "over 8 MiB, in chunks": (f"[[huge={8 * MIB + 1},framing=chunked]]", False, BAD),
    "an event over 1 MiB": (f"[[huge={MIB + 100}]]", True, BAD),
    "60 MB, until it closes": (f"[[huge={60 * MB},framing=close]]", False, BAD),
    "gzip bomb, whole": (f"[[gzip={60 * MB}]]", False, BAD),
    "gzip bomb, in a stream": (f"[[gzip={60 * MB}]]", True, BAD),
    "7 MiB": (f"[[huge={7 * MIB}]]", False, "done"),
    "an event under 1 MiB": (f"[[huge={MIB - 1000}]]", True, "done"),
}


@pytest.mark.parametrize(("directive", "stream", "expected"), SIZES.values(), ids=SIZES)
def test_too_much_is_an_error(shipped: Server, directive: str, stream: bool, expected: str) -> None:
    assert_cheap(shipped, post(directive, stream=stream), expected)


@pytest.mark.parametrize("name", PLAYS)
def test_what_has_no_end_is_an_error(behind_wire: Server, name: str) -> None:
    stream = next(iter(PLAYS[name]())).startswith(STREAM)
    assert_cheap(behind_wire, post(name, stream=stream), BAD, "provider_failed")
