"""Clients that leave, and clients that do not move: neither costs money or a place for long."""

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import crowd
import pytest
import serving
from conftest import Serve
from crowd import SLACK, answer_to, deaf, opened, post
from serving import DEADLINE, Server, read_to_end, read_until, wait_until

from emulator import Emulator

PATIENCE = 1.0  # seconds for a client, in the copy that has no more


def left_after(emulator: Emulator, started: float, number: int = 1) -> float:
    """Seconds until the provider saw so many connections closed, all of them."""
    for received in emulator.requests[:number]:
        assert received.gone.wait(DEADLINE)
    return time.monotonic() - started


LEAVE: dict[str, Callable[[socket.socket], object]] = {
    "closes": socket.socket.close,
    "resets": crowd.reset,
    "half-closes": lambda connection: connection.shutdown(socket.SHUT_WR),
    "sends on and closes": lambda connection: (connection.sendall(b"next"), connection.close()),
}
WHILE = {
    "it streams": ("[[endless,gap=0.05]]", True, "closes"),
    "it streams more than is read": ("[[endless]]", True, "resets"),
    "the provider is silent": ("[[silent]]", True, "half-closes"),
    "the provider has fallen silent": ("[[stall=1]]", True, "half-closes"),
    "the provider is silent, without streaming": ("[[silent]]", False, "resets"),
    "the provider drips, without streaming": ("[[drip_headers=0.2]]", False, "sends on and closes"),
}


@pytest.mark.parametrize(("directive", "stream", "how"), WHILE.values(), ids=WHILE)
def test_a_client_that_leaves_ends_the_providers_answer(
    shipped: Server, emulator: Emulator, directive: str, stream: bool, how: str
) -> None:
    """Within a second. An answer nobody reads is money."""
    with deaf(shipped) as connection:
        connection.sendall(post(directive, stream=stream))
        wait_until(lambda: emulator.requests)
        if "endless" in directive or "stall" in directive:
            read_until(connection, crowd.FIRST_WORD)
        if directive == "[[endless]]":
            time.sleep(1)  # the buffers fill, and the proxy is blocked in sending
        started = time.monotonic()
        LEAVE[how](connection)
        assert left_after(emulator, started) < 1 + SLACK
        if how == "half-closes":
            read_to_end(connection)


def test_a_hundred_clients_leave_at_once(shipped: Server, emulator: Emulator) -> None:
    """100 of 100 are noticed; half of them were being told something."""
    with ExitStack() as stack:
        spoken_to = crowd.streaming(shipped, "[[stall=1]]", 50, stack)
        waiting = opened(shipped, post("[[silent]]", stream=True), 50, stack)
        wait_until(lambda: len(emulator.requests) == 100)
        started = time.monotonic()
        for connection in (*spoken_to, *waiting):
            connection.close()
        assert left_after(emulator, started, 100) < 1 + SLACK
    assert crowd.outcome(answer_to(shipped, post("Hi"))) == "done"


# --- clients that do not move -----------------------------------------------------------------


@pytest.fixture(scope="module")
def impatient(
    serve: Serve, running_emulator: Emulator, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """The project as shipped but for how long it waits for a client, which no setting says."""
    folder: Path = serving.copy_project(tmp_path_factory.mktemp("impatient"))
    for name, line in {"watchdog": "CLIENT_TIMEOUT = 60.0", "worker": "_PATIENCE = 5.0"}.items():
        file = folder / "proxy" / f"{name}.py"
        text = file.read_text()
        assert text.count(line) == 1
        file.write_text(text.replace(line, f"{line.partition(' =')[0]} = {PATIENCE}"))
    with serve(serving.settings(running_emulator.url), folder=folder) as server:
        yield server


UNFINISHED = crowd.asking("Hi")[:-20]


@pytest.mark.parametrize(
    ("sent", "drip"),
    [
        pytest.param(crowd.request(UNFINISHED, length=999), b"", id="it stands still"),
        pytest.param(crowd.chunked(b"ff\r\n", UNFINISHED, end=b""), b" ", id="it drips, in chunks"),
    ],
)
def test_a_body_that_does_not_come_to_an_end(
    impatient: Server, emulator: Emulator, sent: bytes, drip: bytes
) -> None:
    """It has its time in all, and then it is told so; nothing is asked of the provider."""
    with impatient.connect() as connection:
        started = time.monotonic()
        connection.sendall(sent)
        connection.settimeout(0.2)
        received = b""
        while not received:
            assert time.monotonic() < started + PATIENCE + SLACK
            with suppress(TimeoutError):
                connection.sendall(drip)
                received = connection.recv(65536)
        connection.settimeout(DEADLINE)
        (answer,) = serving.answers(received + read_to_end(connection))
    assert crowd.error_of(answer) == (400, "invalid_json")
    assert time.monotonic() - started > PATIENCE - 0.1
    assert emulator.requests == []


def test_a_client_that_never_reads_loses_its_connection(
    impatient: Server, emulator: Emulator
) -> None:
    """And the provider's with it; nothing stays in the worker."""
    (worker,) = crowd.workers(impatient)
    before = crowd.descriptors(worker)
    with deaf(impatient) as connection:
        started = time.monotonic()
        connection.sendall(post("[[endless,gap=0.001]]", stream=True))
        wait_until(lambda: emulator.requests)
        assert left_after(emulator, started) < PATIENCE + 2 * SLACK
        wait_until(lambda: crowd.descriptors(worker) <= before)
        assert b"[DONE]" not in read_to_end(connection)
