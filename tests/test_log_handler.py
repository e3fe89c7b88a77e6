"""A log that nobody reads: lines are dropped and counted, and the proxy goes on serving."""

import io
import json
import logging
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

import gevent
import pytest
import serving
from serving import DEADLINE, HOST, answers_http, free_port, read_to_end, wait_until

from proxy.log_handler import NonBlockingHandler

LINE = "x" * 99  # and its line break: a hundred bytes


class Log:
    """A handler that writes into a pipe or a socket, and what its reader gets."""

    def __init__(self, writer: IO[str], reader: int) -> None:
        self.handler = NonBlockingHandler(writer)
        self.reader = reader
        self.written = 0
        self.done = threading.Event()
        os.set_blocking(reader, False)

    def write(self, text: str = LINE, times: int = 1) -> None:
        for _ in range(times):
            self.written += 1
            self.handler.emit(logging.LogRecord("proxy", logging.INFO, "", 0, text, None, None))

    def fill(self) -> int:
        """Lines until there is no more room, and none to wait."""
        while not self.handler._dropped:
            self.write()
        return self.written

    def read(self, most: int = 1 << 20) -> str:
        try:
            return os.read(self.reader, most).decode()
        except BlockingIOError:
            return ""

    def read_all(self, *, patient: bool = False) -> str:
        """All that was written and waits; if `patient`, until it is done."""
        received = ""
        while (
            (piece := self.read()) or self.handler._waiting or (patient and not self.done.is_set())
        ):
            received += piece
            if not patient:
                self.handler.flush()
        return received + self.read()


@pytest.fixture(params=["pipe", "socket", "non-blocking pipe", "terminal"])
def log(request: pytest.FixtureRequest) -> Iterator[Log]:
    """journald gives a socket; Docker, a shell and most supervisors a pipe."""
    if request.param == "socket":
        ours, theirs = socket.socketpair()
        with ours, theirs, ours.makefile("w") as writer:
            yield Log(writer, theirs.fileno())
        return
    reading, writing = pty.openpty() if request.param == "terminal" else os.pipe()
    if request.param == "terminal":
        tty.setraw(writing)  # it would write \r\n for \n
    os.set_blocking(writing, request.param != "non-blocking pipe")
    with open(reading, "rb", buffering=0), open(writing, "w") as writer:
        yield Log(writer, reading)


def test_a_line_is_there_at_once(log: Log) -> None:
    log.write("one")
    assert log.read() == "one\n"
    log.write("two")
    log.write("three \ud800")
    assert log.read() == "two\nthree \\ud800\n"


NOTE = "{} log lines were dropped, because nothing read the log.\n"


def test_what_finds_no_room_is_dropped_and_counted(log: Log) -> None:
    written = log.fill() - 1
    log.write(times=1000)
    kept = log.read_all()
    assert kept == f"{LINE}\n" * written + NOTE.format(1001)
    log.write("after")
    assert log.read() == "after\n"


def test_a_burst_is_kept_until_there_is_room(log: Log) -> None:
    while not log.handler._waiting:
        log.write("first")
    log.write("kept", times=1000)
    assert log.read_all().endswith("first\n" + "kept\n" * 1000)


def test_a_slow_reader_gets_whole_lines(log: Log) -> None:
    log.fill()
    received = ""
    for _ in range(300):
        received += log.read(1000)
        log.write()
    received += log.read_all()
    assert set(re.sub("[0-9]+", "{}", received).splitlines()) == {LINE, NOTE.strip()}
    dropped = sum(map(int, re.findall("([0-9]+) log", received)))
    assert dropped + received.count(LINE) == log.written


def test_at_exit_the_reader_has_time_to_read(log: Log) -> None:
    log.fill()
    received: list[str] = []
    reader = threading.Thread(target=lambda: received.append(log.read_all(patient=True)))
    reader.start()
    log.handler.close()
    log.done.set()
    reader.join()
    assert received[0] == f"{LINE}\n" * (log.written - 1) + NOTE.format(1)


def test_workers_that_share_a_pipe_write_whole_lines() -> None:
    reading, writing = os.pipe()
    with open(reading, "rb", buffering=0), open(writing, "w") as writer:
        logs = [Log(writer, reading) for _ in range(3)]
        for log in logs:
            log.fill()
        received = ""
        while any(log.handler._waiting for log in logs):
            received += logs[0].read(8192)
            logs.append(logs.pop(0))
            for log in logs:
                log.handler.flush()
        received += logs[0].read()
    assert {*received.splitlines()} == {LINE, NOTE.strip().format(1)}


def test_a_long_line_is_finished_before_the_next(log: Log) -> None:
    """A traceback may be longer than the room that is left."""
    long = "y" * 1_000_000
    log.write(long)
    log.write("dropped")
    assert log.read_all() == f"{long}\n" + NOTE.format(1)


def test_in_a_greenlet_what_waits_is_written_without_another_line(log: Log) -> None:
    """The hub tries again: nobody may ask for anything for a long time."""

    def served() -> str:
        log.fill()
        received = ""
        while "dropped" not in received:
            received += log.read()
            gevent.sleep(0.01)
        return received

    received = gevent.spawn(served).get(timeout=DEADLINE)
    assert received == f"{LINE}\n" * (log.written - 1) + NOTE.format(1)
    assert log.handler._timer is None


def test_a_terminal_without_room_for_a_line_is_tried_again(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says that it is writable, and takes nothing."""
    with monkeypatch.context() as patch:
        patch.setattr(log.handler, "_file", io.BytesIO())
        patch.setattr(log.handler._file, "write", lambda _: None, raising=False)
        log.write("one")
    log.write("two")
    assert log.read() == "one\ntwo\n"


def test_a_reader_that_is_gone_is_no_error(capfd: pytest.CaptureFixture[str]) -> None:
    reading, writing = os.pipe()
    with open(writing, "w") as writer:
        log = Log(writer, reading)
        os.close(reading)
        log.write(times=3)
        assert log.handler._waiting == f"{LINE}\n".encode() * 3
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


def ask(port: int, line: str) -> bytes:
    with socket.create_connection((HOST, port), timeout=DEADLINE) as connection:
        connection.sendall(f"{line} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        return read_to_end(connection)


def refuse(port: int, times: int) -> None:
    """Requests without a key, one after the other."""
    for _ in range(times):
        assert b" 401 " in ask(port, "POST /")


def lines(output: IO[bytes]) -> Iterator[dict[str, Any]]:
    for line in output:
        if line.startswith(b"{"):
            yield json.loads(line)


def test_a_log_that_nobody_reads_does_not_stop_serving(env: dict[str, str]) -> None:
    with unread(env, "-m", "gunicorn", "app:app") as (process, port):
        assert process.stdout
        refuse(port, 1000)
        started = time.monotonic()
        assert b"200 OK" in ask(port, "GET /healthz")
        assert time.monotonic() - started < DEADLINE / 3
        refused = 0
        for line in lines(process.stdout):
            refused += line.get("code") == "invalid_api_key"
            if "dropped" in line.get("message", ""):
                break
        dropped = int(line["message"].split()[0])
        assert (line["level"], refused + dropped) == ("warning", 1000)
        assert dropped > 500
        refuse(port, 1)
        assert next(lines(process.stdout))["code"] == "invalid_api_key"
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE) == 0


@pytest.mark.parametrize(
    "command",
    [("-m", "gunicorn", "app:app"), ("-m", "flask", "run", "--port", "{port}")],
    ids=["gunicorn", "flask run"],
)
def test_the_last_line_is_there_after_the_exit(
    env: dict[str, str], command: tuple[str, ...]
) -> None:
    with unread(env, *command) as (process, port):
        assert process.stdout
        refuse(port, 3)
        process.send_signal(signal.SIGINT)
        found = [line for line in lines(process.stdout) if line.get("code") == "invalid_api_key"]
        assert len(found) == 3
