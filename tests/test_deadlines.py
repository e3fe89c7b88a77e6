"""Deadlines hold, whatever the provider does: at most a second late, and one POST each."""

import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count

import crowd
import pytest
import serving
from conftest import Serve
from crowd import EVENTS, SLACK, Play, Provider, Wire, answer_to, dripped, outcome, post
from serving import Server, wait_until

from emulator import Emulator

FIRST_BYTE, IDLE, TOTAL = 1.0, 2.0, 4.0  # seconds
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
    "[[framing=chunked,stall=1]]": IDLE,
    "[[framing=close,stall=1]]": IDLE,
    "[[framing=close,drip_body=0.1]]": TOTAL,
}

EVENT = b'19\r\ndata: {"response":"Hi"}\n\n\r\n'
WHOLE = EVENTS.replace(b"text/event-stream", b"application/json")
PLAYS: dict[str, tuple[Play, float]] = {
    "endless 100 Continue": (
        lambda: (step for _ in count() for step in (b"HTTP/1.1 100 Continue\r\n\r\n", 0.1)),
        FIRST_BYTE,
    ),
    "dripping status line": (lambda: dripped(b"HTTP/1.1 200 " + b"x" * 999, 0.1), FIRST_BYTE),
    "dripping chunk size": (lambda: [EVENTS, *dripped(b"0" * 999, 0.1)], FIRST_BYTE),
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

# What is asked for, in which mode, with which timeout of the SDK's own -> when it must be over;
# None: it comes to its end.
CASES: dict[tuple[str, str, str], float | None] = {
    **{(directive, mode, ""): ends for directive, ends in DIRECTIVES.items() for mode in MODES},
    **{(name, mode, ""): ends for name, (_, ends) in PLAYS.items() for mode in MODES},
    ("[[silent]]", "stream", "x-stainless-read-timeout: 0.5"): 0.45,
    ("[[silent]]", "whole", "x-stainless-timeout: 0.5"): 0.45,
    ("[[framing=chunked,stall=1]]", "stream", "x-stainless-timeout: 1"): 0.9,
    ("[[framing=chunked,drip_body=0.1]]", "whole", "x-stainless-timeout: 2.5"): 2.25,
    ("[[wait=0.5]]", "whole", "x-stainless-timeout: 0"): None,
    ("[[gap=0.3,words=9]]", "stream", "x-stainless-timeout: 2.5"): None,
}


Seen = tuple[str, float, int]


def seen(server: Server, provider: Emulator | Wire, prompt: str, sent: bytes) -> Seen:
    """How it ended, after how many seconds, and the POSTs; `prompt` is for this request alone."""
    started = time.monotonic()
    ended = outcome(answer_to(server, sent))
    seconds = time.monotonic() - started
    sent_on = [asked if isinstance(asked, bytes) else asked.body for asked in provider.requests]
    return ended, seconds, sum(f'"{prompt}"'.encode() in body for body in sent_on)


@pytest.fixture(scope="module")
def results(serve: Serve) -> Iterator[dict[tuple[str, str, str], Seen]]:
    """All cases at once, since each takes its time; on providers of their own."""
    plays = {f"{name}, {mode}, ": play for name, (play, _) in PLAYS.items() for mode in MODES}
    with (
        Emulator() as emulator,
        Wire(plays) as wire,
        serve(serving.settings(emulator.url, **LIMITS)) as limited,
        serve(serving.settings(wire.url, **LIMITS)) as behind_wire,
        ThreadPoolExecutor(100) as pool,
    ):
        found = {}
        for case in CASES:
            asked, mode, header = case
            way = (behind_wire, wire) if asked in PLAYS else (limited, emulator)
            sent = post(prompt := ", ".join(case), *filter(None, [header]), stream=MODES[mode])
            found[case] = pool.submit(seen, *way, prompt, sent)
        yield {case: future.result() for case, future in found.items()}


@pytest.mark.parametrize("case", CASES, ids=", ".join)
def test_a_call_ends_at_its_deadline(
    results: dict[tuple[str, str, str], Seen], case: tuple[str, str, str]
) -> None:
    """Bytes that are no progress do not help. A caller's own timeout holds less a tenth: after it
    the answer would be asked for, and paid, again. A stream's total is not told."""
    (ended, seconds, posts), deadline = results[case], CASES[case]
    print(f"deadline {deadline} s, over after {seconds:.2f} s")
    assert (ended, posts) == ("provider_timeout" if deadline else "done", 1)
    assert not deadline or deadline - 0.1 < seconds < deadline + SLACK


def test_a_handshake_that_is_reset_or_does_not_end(serve: Serve) -> None:
    """Nothing was sent: a reset one is tried twice, and no third time; the other ends with its
    client, within a second, and leaves no descriptor."""

    def talk(connection: socket.socket) -> None:
        connection.recv(1)
        if len(provider.connections) <= 2:
            crowd.reset(connection)
        else:
            serving.read_to_end(connection)
            is_over.set()

    is_over = threading.Event()
    with Provider(talk) as provider:
        url = provider.url.replace("http:", "https:")
        with serve(serving.settings(url)) as server:
            assert outcome(answer_to(server, post("Hi"))) == "provider_unreachable"
            assert len(provider.connections) == 2
            (worker,) = crowd.workers(server)
            before = crowd.descriptors(worker)
            with server.connect() as client:
                client.sendall(post("Hi"))
                wait_until(lambda: len(provider.connections) == 3)
            assert is_over.wait(1 + SLACK)
            wait_until(lambda: crowd.descriptors(worker) <= before)
