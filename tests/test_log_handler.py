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
from itertools import islice
from typing import IO, Any

import pytest
import serving
from serving import DEADLINE, HOST, answers_http, free_port, read_to_end, wait_until

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
    assert log.read() == [NOTE.format(10_000 - len(kept)), "after"]
    log.write("later")
    assert log.read() == ["later"]
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
def unread(env: dict[str, str], *command: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A server whose stdout is a pipe that nobody reads, and its port."""
    port = free_port()
    env = {**serving.system_environment(), **env, "WEB_CONCURRENCY": "1", "PORT": str(port)}
    full = [sys.executable, *(part.format(port=port) for part in command)]
    with subprocess.Popen(
        full, cwd=serving.ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        try:
            wait_until(lambda: process.poll() is not None or answers_http(port))
            yield process, port
        finally:
            process.kill()


def refuse(port: int, times: int) -> None:
    """Requests without a key, one after the other."""
    for _ in range(times):
        with socket.create_connection((HOST, port), timeout=DEADLINE) as connection:
            connection.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert b" 401 " in read_to_end(connection)


def lines(output: IO[bytes]) -> Iterator[dict[str, Any]]:
    return (json.loads(line) for line in output if line.startswith(b"{"))


def refusals(output: IO[bytes]) -> list[dict[str, Any]]:
    return [line for line in lines(output) if line.get("code") == "invalid_api_key"]


def test_a_log_that_nobody_reads_does_not_stop_serving(env: dict[str, str]) -> None:
    with unread(env, "-m", "gunicorn", "app:app") as (process, port):
        assert process.stdout
        refuse(port, 500)
        os.set_blocking(process.stdout.fileno(), False)
        kept = (process.stdout.read() or b"").count(b'"invalid_api_key"')
        os.set_blocking(process.stdout.fileno(), True)
        refuse(port, 1)
        note, line = islice(lines(process.stdout), 2)
        assert (note["level"], note["message"]) == ("warning", NOTE.format(500 - kept))
        assert line["code"] == "invalid_api_key"
        assert kept < 400
        refuse(port, 3)
        process.send_signal(signal.SIGINT)
        assert process.wait(DEADLINE) == 0
        assert len(refusals(process.stdout)) == 3  # the last line is there


def test_the_last_line_is_there_after_flask_run(env: dict[str, str]) -> None:
    with unread(env, "-m", "flask", "run", "--port", "{port}") as (process, port):
        assert process.stdout
        refuse(port, 3)
        process.send_signal(signal.SIGINT)
        assert len(refusals(process.stdout)) == 3
