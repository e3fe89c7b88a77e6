"""Deadlines hold, whatever the provider does: at most a second late, and one POST each."""

import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import count
from typing import NamedTuple

import pytest
import serving
from conftest import Serve
from crowd import (
    SLACK,
    Play,
    Provider,
    Wire,
    answer_to,
    dripped,
    full_listener,
    outcome,
    post,
    reset,
)
from serving import HOST, Server

from emulator import Emulator

FIRST_BYTE, IDLE, TOTAL = 1.0, 2.0, 3.0  # seconds
LIMITS = {
    "LLAMA_PROVIDER_TIMEOUT": str(FIRST_BYTE),
    "LLAMA_PROVIDER_IDLE_TIMEOUT": str(IDLE),
    "LLAMA_PROVIDER_TOTAL_TIMEOUT": str(TOTAL),
}
MODES = {"whole": False, "stream": True}

# What the emulator is told -> when it must be over.
DIRECTIVES = {
    "[[silent]]": FIRST_BYTE,
    "[[drip_headers=0.1]]": FIRST_BYTE,
    "[[first=60]]": FIRST_BYTE,  # headers, and no body
    "[[framing=length,stall=0]]": FIRST_BYTE,
    "[[framing=chunked,stall=1]]": IDLE,
    "[[framing=close,stall=1]]": IDLE,
    "[[framing=close,drip_body=30]]": IDLE,
    "[[framing=chunked,drip_body=0.1]]": TOTAL,
    "[[framing=close,drip_body=0.1]]": TOTAL,
    "[[framing=close,gap=0.1,endless,words=50]]": TOTAL,
}

EVENTS = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
EVENT = b'19\r\ndata: {"response":"Hi"}\n\n\r\n'
WHOLE = EVENTS.replace(b"text/event-stream", b"application/json")
PLAYS: dict[str, tuple[Play, float]] = {
    "endless 100 Continue": (
        lambda: (step for _ in count() for step in (b"HTTP/1.1 100 Continue\r\n\r\n", 0.1)),
        FIRST_BYTE,
    ),
    "dripping 100 Continue": (
        lambda: (step for _ in count() for step in dripped(b"HTTP/1.1 100 OK\r\n\r\n", 0.05)),
        FIRST_BYTE,
    ),
    "dripping status line": (lambda: dripped(b"HTTP/1.1 200 " + b"x" * 999, 0.1), FIRST_BYTE),
    "dripping chunk size": (lambda: [EVENTS, *dripped(b"0" * 999, 0.1)], FIRST_BYTE),
    "dripping chunk extension": (lambda: [EVENTS, *dripped(b"5;" + b"x" * 999, 0.1)], FIRST_BYTE),
    "dripping chunk extension, later": (
        lambda: [EVENTS, EVENT, *dripped(b"5;" + b"x" * 999, 0.1)],
        IDLE,
    ),
    "dripping trailers": (lambda: [WHOLE, b"2\r\n{}\r\n0\r\n", *dripped(b"X: " * 999, 0.1)], IDLE),
    "dripping comments": (
        lambda: [EVENTS, *(step for _ in range(99) for step in (b"2\r\n:\n\r\n", 0.1))],
        TOTAL,
    ),
}

# What the SDK tells of its own timeout, and what the emulator is told, in which mode -> when it
# must be over; None: it comes to its end.
TOLD = {
    ("x-stainless-read-timeout: 2.5", "[[silent]]", "whole"): 2.25,
    ("x-stainless-read-timeout: 2.5", "[[silent]]", "stream"): 2.25,
    ("x-stainless-timeout: 2.5", "[[silent]]", "whole"): 2.25,
    ("x-stainless-timeout: 2.5", "[[silent]]", "stream"): 2.25,
    ("x-stainless-timeout: 2.5", "[[framing=chunked,stall=1]]", "whole"): 2.25,
    ("x-stainless-timeout: 2.5", "[[framing=chunked,stall=1]]", "stream"): 2.25,
    ("x-stainless-timeout: 2.5", "[[framing=chunked,drip_body=0.1]]", "whole"): 2.25,
    ("x-stainless-timeout: 0.5", "[[silent]]", "whole"): 0.45,
    ("x-stainless-timeout: 0.6", "[[wait=0.3]]", "whole"): None,
    ("x-stainless-timeout: 0", "[[wait=1]]", "whole"): None,
    ("x-stainless-timeout: nonsense", "[[wait=2]]", "whole"): None,
    ("x-stainless-timeout: 2.5", "[[gap=0.2]]", "stream"): None,
}


class Seen(NamedTuple):
    outcome: str
    seconds: float
    posts: int


def seen(server: Server, provider: Emulator | Wire, said: str, sent: bytes) -> Seen:
    """How it ended, and when; `said` is for this request alone."""
    started = time.monotonic()
    answer = answer_to(server, sent)
    seconds = time.monotonic() - started
    if isinstance(provider, Wire):
        return Seen(outcome(answer), seconds, provider.posts(said))
    asked = [received for received in provider.requests if said.encode() in received.body]
    return Seen(outcome(answer), seconds, len(asked))


@pytest.fixture(scope="module")
def results(serve: Serve) -> Iterator[dict[tuple[str, ...], Seen]]:
    """All cases at once, since each takes its time; on providers of their own."""
    plays = {f"{name}, {mode}": play for name, (play, _) in PLAYS.items() for mode in MODES}
    with ExitStack() as stack:
        emulator = stack.enter_context(Emulator())
        wire = stack.enter_context(Wire(plays))
        limited = stack.enter_context(serve(serving.settings(emulator.url, **LIMITS)))
        behind_wire = stack.enter_context(serve(serving.settings(wire.url, **LIMITS)))
        patient = stack.enter_context(serve(serving.settings(emulator.url)))
        pool = stack.enter_context(ThreadPoolExecutor(100))
        found = {}
        for mode, stream in MODES.items():
            for directive in DIRECTIVES:
                said = f"{directive} limited {mode}"
                sent = post(said, stream=stream)
                found[directive, mode] = pool.submit(seen, limited, emulator, said, sent)
            for name in PLAYS:
                said = f"{name}, {mode}"
                sent = post(said, stream=stream)
                found[name, mode] = pool.submit(seen, behind_wire, wire, said, sent)
        for header, directive, mode in TOLD:
            said = f"{directive} told {mode} {header}"
            sent = post(said, header, stream=MODES[mode])
            found[header, directive, mode] = pool.submit(seen, patient, emulator, said, sent)
        yield {case: future.result() for case, future in found.items()}


def assert_on_time(seen: Seen, deadline: float) -> None:
    print(f"deadline {deadline} s, over after {seen.seconds:.2f} s")
    assert seen.outcome == "provider_timeout"
    assert deadline - 0.1 < seen.seconds < deadline + SLACK
    assert seen.posts == 1


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("directive", DIRECTIVES)
def test_a_slow_provider_ends_with_a_timeout(
    results: dict[tuple[str, ...], Seen], directive: str, mode: str
) -> None:
    assert_on_time(results[directive, mode], DIRECTIVES[directive])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", PLAYS)
def test_bytes_that_are_no_progress_do_not_help(
    results: dict[tuple[str, ...], Seen], name: str, mode: str
) -> None:
    assert_on_time(results[name, mode], PLAYS[name][1])


@pytest.mark.parametrize("told", TOLD, ids=" ".join)
def test_the_callers_own_timeout_less_a_tenth_is_kept(
    results: dict[tuple[str, ...], Seen], told: tuple[str, str, str]
) -> None:
    """An answer after that would be asked for, and paid, again. A stream's total is not told."""
    found, deadline = results[told], TOLD[told]
    if deadline is None:
        assert (found.outcome, found.posts) == ("done", 1)
    else:
        assert_on_time(found, deadline)


# --- no connection ----------------------------------------------------------------------------


def test_a_connection_that_never_comes_is_given_up_after_three_seconds(serve: Serve) -> None:
    with full_listener() as port, serve(serving.settings(f"http://{HOST}:{port}")) as server:
        started = time.monotonic()
        assert outcome(answer_to(server, post("Hi"))) == "provider_unreachable"
        seconds = time.monotonic() - started
    print(f"given up after {seconds:.2f} s")
    assert 2.9 < seconds < 3 + SLACK


def test_a_connection_that_is_reset_while_connecting_is_tried_twice(serve: Serve) -> None:
    """In the TLS handshake: nothing of the request was sent. No third time."""

    def talk(connection: socket.socket) -> None:
        connection.recv(1)
        reset(connection)

    with Provider(talk) as provider:
        with serve(serving.settings(provider.url.replace("http:", "https:"))) as server:
            assert outcome(answer_to(server, post("Hi"))) == "provider_unreachable"
        assert len(provider.connections) == 2
