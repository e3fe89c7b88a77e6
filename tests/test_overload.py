"""More than is good: many at once, clients that only hold a place, and no descriptors left."""

import time
from collections.abc import Iterator
from contextlib import ExitStack

import crowd
import pytest
import serving
from conftest import Serve
from crowd import EVENTS, SLACK, Traffic, answer_to, descriptors, memory, opened, post, workers
from serving import Server, wait_until

EACH = 200  # connections of each kind
SPARE = 20  # descriptors: the provider's connections that are kept, more on a busy machine
GROWTH = 40  # MiB


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    log_file = tmp_path_factory.mktemp("emulator") / "log"
    with crowd.many_descriptors(), crowd.emulator_process(log_file) as emulator:
        yield emulator


def test_five_hundred_slow_requests_at_once(serve: Serve, provider: Server) -> None:
    """One worker has them all in hand: together they take little longer than one."""
    with serve(serving.settings(provider.url)) as server, ExitStack() as stack:
        started = time.monotonic()
        calls = opened(server, post("[[wait=1]]"), 250, stack)
        calls |= opened(server, post("[[wait=1]]", stream=True), 250, stack)
        outcomes = crowd.ends(calls)
        seconds = time.monotonic() - started
    print(f"all answered after {seconds:.2f} s")
    assert outcomes == ["done"] * 500
    assert seconds < 1 + 4 * SLACK  # one after the other would take 500


def pour(head: bytes, block: bytes) -> crowd.Play:
    """As fast as it is read, for longer than anyone should listen."""

    def steps() -> Iterator[bytes]:
        end = time.monotonic() + 3 * SLACK
        yield head
        while time.monotonic() < end:
            yield block

    return steps


EVENT = b'19\r\ndata: {"response":"Hi"}\n\n\r\n'
POURS = {
    "events": pour(EVENTS, EVENT * 100),
    "comments": pour(EVENTS, b"2\r\n:\n\r\n" * 400),
    "interim answers": pour(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 100),
    "trailers": pour(EVENTS + EVENT + b"0\r\n", b"X: y\r\n" * 400),
}
HELLO = b'HTTP/1.1 200 OK\r\nContent-Length: 28\r\n\r\n{"result":{"response":"Hi"}}'


def test_providers_that_pour_have_not_the_worker_to_themselves(serve: Serve) -> None:
    """They end at their deadlines, too, and others are served meanwhile."""
    limits = {f"LLAMA_PROVIDER_{name}": "1.5" for name in ("TIMEOUT", "TOTAL_TIMEOUT")}
    with (
        crowd.Wire({**POURS, "Hi": lambda: [HELLO]}) as wire,
        serve(serving.settings(wire.url, **limits)) as server,
        ExitStack() as stack,
    ):
        started = time.monotonic()
        with Traffic(server, threads=1) as traffic:
            calls: crowd.Calls = {}
            for name in POURS:
                calls |= opened(server, post(name, stream=True), 1, stack)
            outcomes = crowd.ends(calls)
            seconds = time.monotonic() - started
            served = [*traffic.outcomes]
    print(f"over after {seconds:.2f} s, {len(served)} served, p99 {traffic.slowest(0.99):.3f} s")
    assert outcomes == ["provider_timeout"] * len(POURS)
    assert seconds < 1.5 + SLACK
    assert "done" in served
    assert set(served) <= {"done", "provider_timeout"}  # the latter on a busy machine


def test_clients_that_hold_a_place_cost_others_nothing(serve: Serve, provider: Server) -> None:
    """A thousand of five kinds; afterwards the worker holds what it held before.

    (Connections to the provider are kept, unless it says otherwise: so it does here.)
    """
    request = post("[[framing=close]] Hi")
    held = {
        "idle": b"",
        "half-sent": request[:60],
        "body-less": request.partition(b"\r\n\r\n")[0] + b"\r\n\r\n",
        "lingering": request,  # it says "Connection: close", and the client does not
    }
    with serve(serving.settings(provider.url)) as server, ExitStack() as stack:
        (worker,) = workers(server)
        with Traffic(server) as traffic:
            wait_until(lambda: len(traffic.outcomes) > 20)
        before, memory_before = descriptors(worker), memory(worker)
        most = 0
        with Traffic(server) as traffic:
            for _ in range(20):
                for sent in held.values():
                    opened(server, sent, EACH // 20, stack)
                for _ in range(EACH // 20):
                    sent = post("[[huge=100000,framing=close]]")
                    stack.enter_context(crowd.deaf(server)).sendall(sent)
                most = max(most, descriptors(worker))
            after = len(traffic.outcomes)
            while len(traffic.outcomes) < after + 20:
                most = max(most, descriptors(worker))
                time.sleep(0.02)
        print(f"p99 {traffic.slowest(0.99):.3f} s of {len(traffic.seconds)}, {most} descriptors")
        assert set(traffic.outcomes) == {"done"}
        assert traffic.slowest(0.99) < SLACK
        assert most > 2 * EACH
        stack.close()  # those that were closed here are still open there until it looks
        wait_until(lambda: descriptors(worker) <= before + SPARE)
        print(f"memory {memory_before:.1f} MiB before, {memory(worker):.1f} after")
        assert memory(worker) < memory_before + GROWTH
        assert workers(server) == [worker]


def test_without_descriptors_it_recovers(serve: Serve, env: dict[str, str]) -> None:
    """64 of them, and 100 connections: some wait, or are told, and none brings the worker down."""
    with serve(env, prefix=["sh", "-c", 'ulimit -n 64 && exec "$0" "$@"']) as server:
        (worker,) = workers(server)
        before = descriptors(worker)
        for held in (b"", post("Hi")[:-9]):  # idle; body-less
            with ExitStack() as stack:
                opened(server, held, 100, stack)
                wait_until(lambda: descriptors(worker) >= 60)
            assert crowd.outcome(answer_to(server, post("Hi"))) == "done"
            wait_until(lambda: descriptors(worker) <= before + SPARE)
        assert workers(server) == [worker]
    assert server.log.count("Booting worker") == 1
    assert env["LLAMA_PROVIDER_API_KEY"] not in server.log
