"""Ends of the process: asked for, forced, or killed. What can be told is told, nothing is torn."""

import os
import signal
import time
from contextlib import ExitStack

import crowd
import serving
from conftest import Serve
from crowd import SLACK, descriptors, ends, outcome, post, streaming, workers
from serving import DEADLINE, read_to_end, read_until, wait_until

from emulator import Emulator

HALF_BODIES = [
    post("Hi")[:-5],
    crowd.chunked(b"5\r\n{", end=b""),
    post("Hi", "Expect: 100-continue").partition(b"{")[0],
]


def test_sigterm_lets_a_hundred_streams_finish(serve: Serve, emulator: Emulator) -> None:
    """It does not wait for bodies: their callers hear that they may try again."""
    with serve(serving.settings(emulator.url)) as server, ExitStack() as stack:
        streams = streaming(server, "[[gap=0.5,words=6]]", 100, stack)
        bodies = [stack.enter_context(server.connect()) for _ in HALF_BODIES]
        for connection, sent in zip(bodies, HALF_BODIES, strict=True):
            connection.sendall(sent)
        read_until(bodies[-1], b"100 Continue\r\n\r\n")
        started = time.monotonic()
        server.process.terminate()
        assert ends(streams) == ["done"] * 100
        for connection in bodies:
            (answer,) = serving.answers(read_to_end(connection))
            assert (answer.status, outcome(answer)) == (500, "internal_error")
            assert answer.headers["X-Should-Retry"] == "true"
        stack.close()
        server.process.wait(DEADLINE)
        seconds = time.monotonic() - started
        assert server.log.count('"code":"internal_error"') == len(HALF_BODIES)
        assert '"ended":"client_gone"' not in server.log
    print(f"exit after {seconds:.2f} s")
    assert seconds < 2 + 2 + SLACK / 2
    assert len(emulator.requests) == 100


def test_what_outlives_the_grace_is_told(serve: Serve, emulator: Emulator) -> None:
    """Two seconds before its end: an error event, or an error, and never a torn body."""
    grace = 3
    env = serving.settings(emulator.url, GRACEFUL_TIMEOUT=str(grace))
    with serve(env) as server, ExitStack() as stack:
        calls = streaming(server, "[[endless,gap=0.2]]", 30, stack)
        calls |= crowd.opened(server, post("[[silent]]"), 10, stack)
        wait_until(lambda: len(emulator.requests) == 40)
        started = time.monotonic()
        server.process.terminate()
        assert ends(calls) == ["internal_error"] * 40
        seconds = time.monotonic() - started
        assert all(received.gone.wait(DEADLINE) for received in emulator.requests)
        server.process.wait(DEADLINE)
    print(f"told after {seconds:.2f} s of {grace}")
    assert grace - 2 - 0.1 < seconds < grace + SLACK


def test_sighup_under_load_fails_none(serve: Serve, emulator: Emulator) -> None:
    """The old worker ends what it has, a new one takes the rest; an open stream lives on."""
    with serve(serving.settings(emulator.url)) as server, ExitStack() as stack:
        old = workers(server)
        stream = streaming(server, "[[gap=0.3,words=8]]", 1, stack)
        with crowd.Traffic(server) as traffic:
            for _ in range(2):
                before = len(traffic.outcomes)
                server.process.send_signal(signal.SIGHUP)
                wait_until(lambda number=before: len(traffic.outcomes) > number + 30)
            assert ends(stream) == ["done"]
            wait_until(lambda: not set(old) & set(workers(server)))
    print(f"{len(traffic.outcomes)} requests, p99 {traffic.slowest(0.99):.3f} s")
    assert set(traffic.outcomes) == {"done"}


def test_a_killed_worker_costs_its_own_streams_only(serve: Serve, emulator: Emulator) -> None:
    """And is replaced."""
    env = serving.settings(emulator.url, WEB_CONCURRENCY="2")
    with serve(env) as server, ExitStack() as stack:
        wait_until(lambda: len(workers(server)) == 2 and server.log.count("Booting") == 2)
        one, other = workers(server)
        wait_until(lambda: min(descriptors(one), descriptors(other)) > 5)
        crowd.answer_to(server, post("Hi"))
        enough = descriptors(one) + 4, descriptors(other) + 4
        streams: crowd.Calls = {}
        while descriptors(one) < enough[0] or descriptors(other) < enough[1]:
            assert len(streams) < 500, "all went to one of the two"
            streams |= streaming(server, "[[gap=0.3,words=10]]", 10, stack)
        os.kill(one, signal.SIGKILL)
        outcomes = ends(streams)
        wait_until(lambda: len({*workers(server)} - {one}) == 2)
        assert other in workers(server)
        assert outcome(crowd.answer_to(server, post("Hi"))) == "done"
    torn = len([found for found in outcomes if found.startswith("torn")])
    print(f"{torn} torn, {outcomes.count('done')} done")
    assert torn > 0
    assert outcomes.count("done") == len(outcomes) - torn > 0
