"""Ends of the process: asked for, forced, or killed. What can be told is told, nothing is torn."""

import os
import signal
import time
from contextlib import ExitStack

import serving
from conftest import Serve
from crowd import (
    SLACK,
    Traffic,
    answer_to,
    descriptors,
    opened,
    outcome,
    outcome_of,
    post,
    read_all,
    workers,
)
from serving import DEADLINE, read_until, wait_until

from emulator import Emulator

STREAMS = 100
FIRST_WORD = b'"content":"This "'


HALF_BODIES = {
    "with a length": post("Hi")[:-5],
    "in chunks": post("Hi").partition(b"Content-Length")[0]
    + b"Transfer-Encoding: chunked\r\n\r\n5\r\n{",
    "with 100-continue": post("Hi", "Expect: 100-continue").partition(b"\r\n\r\n")[0] + b"\r\n\r\n",
}


def test_sigterm_lets_a_hundred_streams_finish(serve: Serve, emulator: Emulator) -> None:
    """It does not wait for bodies: their callers hear that they may try again."""
    with serve(serving.settings(emulator.url)) as server, ExitStack() as stack:
        streams = opened(server, post("[[gap=0.5,words=6]]", stream=True), STREAMS, stack)
        heads = [read_until(stream, FIRST_WORD) for stream in streams]
        bodies = [stack.enter_context(server.connect()) for _ in HALF_BODIES]
        for connection, sent in zip(bodies, HALF_BODIES.values(), strict=True):
            connection.sendall(sent)
        read_until(bodies[-1], b"100 Continue\r\n\r\n")
        started = time.monotonic()
        server.process.terminate()
        rest = read_all([*streams, *bodies])
        outcomes = [outcome_of(h + r) for h, r in zip(heads, rest[:STREAMS], strict=True)]
        stack.close()
        server.process.wait(DEADLINE)
        seconds = time.monotonic() - started
        for (answer,) in map(serving.answers, rest[STREAMS:]):
            assert (answer.status, outcome(answer)) == (500, "internal_error")
            assert answer.headers["X-Should-Retry"] == "true"
        assert server.log.count('"code":"internal_error"') == len(HALF_BODIES)
        assert '"ended":"client_gone"' not in server.log
    print(f"{outcomes.count('done')} of {STREAMS} done, exit after {seconds:.2f} s")
    assert outcomes == ["done"] * STREAMS
    assert seconds < 2 + 2 + SLACK / 2
    assert len(emulator.requests) == STREAMS


def test_what_outlives_the_grace_is_told(serve: Serve, emulator: Emulator) -> None:
    """Two seconds before its end: an error event, or an error, and never a torn body."""
    grace = 3
    env = serving.settings(emulator.url, GRACEFUL_TIMEOUT=str(grace))
    with serve(env) as server, ExitStack() as stack:
        streams = opened(server, post("[[endless,gap=0.2]]", stream=True), 30, stack)
        heads = [read_until(connection, FIRST_WORD) for connection in streams]
        waiting = opened(server, post("[[silent]]"), 10, stack)
        wait_until(lambda: len(emulator.requests) == 40)
        started = time.monotonic()
        server.process.terminate()
        rest = read_all([*streams, *waiting])
        seconds = time.monotonic() - started
        heads += [b""] * len(waiting)
        outcomes = [outcome_of(h + r) for h, r in zip(heads, rest, strict=True)]
        assert all(received.gone.wait(DEADLINE) for received in emulator.requests)
        server.process.wait(DEADLINE)
    print(f"told after {seconds:.2f} s of {grace}: {set(outcomes)}")
    assert outcomes == ["internal_error"] * 40
    assert grace - 2 - 0.1 < seconds < grace + SLACK


def test_sighup_under_load_fails_none(serve: Serve, emulator: Emulator) -> None:
    """The old worker ends what it has, a new one takes the rest; an open stream lives on."""
    with serve(serving.settings(emulator.url)) as server, ExitStack() as stack:
        old = workers(server)
        (stream,) = opened(server, post("[[gap=0.3,words=8]]", stream=True), 1, stack)
        head = read_until(stream, FIRST_WORD)
        with Traffic(server) as traffic:
            for _ in range(2):
                before = len(traffic.outcomes)
                server.process.send_signal(signal.SIGHUP)
                wait_until(lambda number=before: len(traffic.outcomes) > number + 30)
            (rest,) = read_all([stream])
            wait_until(lambda: not set(old) & set(workers(server)))
    print(f"{len(traffic.outcomes)} requests, p99 {traffic.slowest(0.99):.3f} s")
    assert set(traffic.outcomes) == {"done"}
    assert outcome_of(head + rest) == "done"


def test_a_killed_worker_costs_its_own_streams_only(serve: Serve, emulator: Emulator) -> None:
    """And is replaced."""
    env = serving.settings(emulator.url, WEB_CONCURRENCY="2")
    with serve(env) as server, ExitStack() as stack:
        wait_until(lambda: len(workers(server)) == 2 and server.log.count("Booting") == 2)
        one, other = workers(server)
        wait_until(lambda: min(descriptors(one), descriptors(other)) > 5)
        answer_to(server, post("Hi"))
        held = descriptors(one), descriptors(other)
        sent = post("[[gap=0.3,words=10]]", stream=True)
        connections, heads = [], []
        while descriptors(one) < held[0] + 4 or descriptors(other) < held[1] + 4:
            assert len(connections) < 500, "all went to one of the two"
            connections += opened(server, sent, 10, stack)
            heads += [read_until(connection, FIRST_WORD) for connection in connections[-10:]]
        os.kill(one, signal.SIGKILL)
        rest = read_all(connections)
        outcomes = [outcome_of(h + r) for h, r in zip(heads, rest, strict=True)]
        wait_until(lambda: len(workers(server)) == 2)
        assert other in workers(server)
        assert one not in workers(server)
        assert outcome(answer_to(server, post("Hi"))) == "done"
    torn = len([found for found in outcomes if found.startswith("torn")])
    print(f"{torn} torn, {outcomes.count('done')} done")
    assert torn > 0
    assert outcomes.count("done") == len(outcomes) - torn > 0
