"""A log that nobody reads: lines are dropped and counted, and the proxy goes on serving."""

import json
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest
import serving
from crowd import answer_to, request
from serving import DEADLINE, Server, answers_http, free_port, wait_until

from proxy.log_handler import NonBlockingHandler

LINE = "x" * 99  # and its line break: a hundred bytes
NOTE = "{} log lines were dropped, because nothing read the log."


class Log:
    """A handler that writes into a pipe or a socket, and what its reader gets."""

    def __init__(self, writer: IO[str], reader: int) -> None:
        self.handler = NonBlockingHandler(writer)
        self.reader = reader
        os.set_blocking(reader, False)

    def write(self, text: str = LINE) -> None:
        self.handler.emit(logging.LogRecord("proxy", logging.INFO, "", 0, text, None, None))

    def read(self) -> list[str]:
        received = b""
        try:
            while piece := os.read(self.reader, 1 << 20):
                received += piece
        except BlockingIOError:
            assert received.endswith(b"\n")
        return received.decode().splitlines()


@pytest.fixture(params=["pipe", "socket", "non-blocking pipe"])
def log(request: pytest.FixtureRequest) -> Iterator[Log]:
    """journald gives a socket; Docker, a shell and most supervisors a pipe."""
    if request.param == "socket":
        ours, theirs = socket.socketpair()
        with ours, theirs, ours.makefile("w") as writer:
            yield Log(writer, theirs.fileno())
        return
    reading, writing = os.pipe()
    os.set_blocking(writing, request.param == "pipe")
    with open(reading, "rb", buffering=0), open(writing, "w") as writer:
        yield Log(writer, reading)


def test_lines_without_room_are_dropped_and_counted(log: Log) -> None:
    for _ in range(10_000):
        log.write()
    kept = log.read()
    assert {*kept} == {LINE}
    log.write("after")
    log.write("later")
    assert log.read() == [NOTE.format(10_000 - len(kept)), "after", "later"]
    while not log.handler._dropped:
        log.write()
    log.read()
    log.handler.flush()
    assert log.read() == [NOTE.format(1)]


def test_a_line_never_exceeds_what_a_pipe_takes_at_once(log: Log) -> None:
    log.write("y" * 1_000_000)
    log.write("next \ud800")
    assert log.read() == ["y" * 4095, "next \\ud800"]


def test_a_reader_that_has_gone_is_no_error(capfd: pytest.CaptureFixture[str]) -> None:
    reading, writing = os.pipe()
    with open(writing, "w") as writer:
        log = Log(writer, reading)
        os.close(reading)
        log.write()
        log.write()
    assert capfd.readouterr().err == ""


# --- of the proxy as shipped ------------------------------------------------------------------


@contextmanager
def unread(env: dict[str, str], *command: str) -> Iterator[tuple[Server, IO[bytes]]]:
    """A server whose stdout is a pipe that nobody reads, and that pipe."""
    port = str(free_port())
    ports = {"PORT": port, "FLASK_RUN_PORT": port, "WEB_CONCURRENCY": "1"}
    with subprocess.Popen(
        [sys.executable, "-m", *command],
        cwd=serving.ROOT,
        env={**serving.system_environment(), **env, **ports},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        try:
            wait_until(lambda: process.poll() is not None or answers_http(int(port)))
            assert process.stdout
            yield Server(int(port), process, Path()), process.stdout
        finally:
            process.kill()


def refuse(server: Server, times: int) -> None:
    """Requests with a wrong key, one after the other."""
    for _ in range(times):
        assert answer_to(server, request(key="wrong")).status == 401


REFUSED = b'"invalid_api_key"'


def test_a_log_that_nobody_reads_does_not_stop_serving(env: dict[str, str]) -> None:
    with unread(env, "gunicorn", "app:app") as (server, output):
        refuse(server, 500)
        os.set_blocking(output.fileno(), False)
        kept = (output.read() or b"").count(REFUSED)
        os.set_blocking(output.fileno(), True)
        refuse(server, 1)
        note, line = json.loads(output.readline()), output.readline()
        assert (note["level"], note["message"]) == ("warning", NOTE.format(500 - kept))
        assert REFUSED in line
        assert kept < 400
        refuse(server, 3)
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(DEADLINE) == 0
        assert output.read().count(REFUSED) == 3  # the last line is there


def test_the_last_line_is_there_after_flask_run(env: dict[str, str]) -> None:
    with unread(env, "flask", "run") as (server, output):
        refuse(server, 3)
        server.process.send_signal(signal.SIGINT)
        assert output.read().count(REFUSED) == 3
