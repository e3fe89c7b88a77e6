"""Many connections at once, providers of raw bytes, and what the worker holds meanwhile."""

import json
import os
import resource
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import pytest
import serving
from recorded import as_bytes
from serving import DEADLINE, HOST, KEY, HTTPAnswer, Server

SLACK = 15.0  # seconds that a loaded machine may take longer than it should
PROC = Path("/proc")
FIRST_WORD = b'"content":"This "'  # of the emulator's streams


# --- asking -----------------------------------------------------------------------------------


def asking(prompt: str, **fields: Any) -> bytes:
    return json.dumps(serving.asking(prompt, **fields)).encode()


def request(
    body: bytes = b"{}",
    *headers: str,
    line: str = "POST / HTTP/1.1",
    host: str | None = "proxy",
    key: str = KEY,
    keep: bool = False,
    length: int | None = -1,
) -> bytes:
    """A request; the connection is to end after it, unless it is kept.

    `length` is what is claimed: -1 stands for the body's, None for no Content-Length.
    """
    head = [line, *([] if host is None else [f"Host: {host}"]), f"Authorization: Bearer {key}"]
    if length is not None:
        head.append(f"Content-Length: {len(body) if length == -1 else length}")
    head += [*headers, *["Connection: close"] * (not keep)]
    return "\r\n".join([*head, "", ""]).encode("latin-1") + body


def post(prompt: str, *headers: str, stream: bool = False, **options: Any) -> bytes:
    """A request with this prompt."""
    return request(asking(prompt, stream=stream), *headers, **options)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def chunked(*chunks: bytes, end: bytes = b"0\r\n\r\n") -> bytes:
    """A request whose body is said to be in chunks, and then these bytes."""
    return request(b"", "Transfer-Encoding: chunked", length=None) + b"".join(chunks) + end


def exchange(server: Server, sent: bytes, *, fin: bool = False) -> bytes:
    """All that comes back until the server closes."""
    with server.connect() as connection:
        with suppress(OSError):  # it may answer and close before it has read all
            connection.sendall(sent)
            if fin:
                connection.shutdown(socket.SHUT_WR)
        return serving.read_to_end(connection)


def answer_to(server: Server, sent: bytes, *, fin: bool = False) -> HTTPAnswer:
    """The one answer to a request whose connection ends after it."""
    (answer,) = serving.answers(exchange(server, sent, fin=fin))
    return answer


def error_of(answer: HTTPAnswer) -> tuple[int, str]:
    """Status and code of an error in our form."""
    assert answer.headers["Content-Type"] == "application/json"
    error = json.loads(answer.body)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"].endswith(answer.headers["X-Request-Id"])
    return answer.status, error["code"]


def outcome(answer: HTTPAnswer) -> str:
    """`done`, or the code of the error: of the body, or of the event that ends a stream."""
    if answer.headers["Content-Type"] == "application/json":
        value = json.loads(answer.body)
        return "done" if answer.status == 200 else str(value["error"]["code"])
    assert answer.status == 200
    assert answer.body.endswith(b"\n\n")
    last = answer.body[:-2].rpartition(b"data: ")[2]
    if last == b"[DONE]":
        return "done"
    assert b"[DONE]" not in answer.body
    return str(json.loads(last)["error"]["code"])


def outcome_of(received: bytes) -> str:
    """The outcome on a connection that had one answer; `torn` where its end did not come."""
    try:
        (answer,) = serving.answers(received)
        return outcome(answer)
    except Exception as error:
        return f"torn ({type(error).__name__})"


Calls = dict[socket.socket, bytes]  # connections with one request each, and what was read there


def opened(server: Server, sent: bytes, number: int, stack: ExitStack) -> Calls:
    """So many connections, with these bytes sent on each."""
    calls = {stack.enter_context(server.connect()): b"" for _ in range(number)}
    for connection in calls:
        connection.sendall(sent)
    return calls


def streaming(server: Server, prompt: str, number: int, stack: ExitStack) -> Calls:
    """So many streams, each with its first word."""
    calls = opened(server, post(prompt, stream=True), number, stack)
    return {connection: serving.read_until(connection, FIRST_WORD) for connection in calls}


def ends(calls: Calls) -> list[str]:
    """The outcome of each, as soon as the other side has closed all, however it does."""
    with ThreadPoolExecutor(len(calls)) as pool:
        rest = pool.map(serving.read_to_end, calls)
        return [outcome_of(head + more) for head, more in zip(calls.values(), rest, strict=True)]


def reset(connection: socket.socket) -> None:
    """Close it with a reset."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    connection.close()


def deaf(server: Server) -> socket.socket:
    """A connection that takes next to nothing until it is read: small windows, small segments."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 1000)
    connection.settimeout(DEADLINE)
    connection.connect((HOST, server.port))
    return connection


class Traffic:
    """Normal requests at a steady rate, until the block ends; `slowest(0.99)` of their seconds."""

    def __init__(self, server: Server, *, threads: int = 4, pause: float = 0.08) -> None:
        self.server, self.pause = server, pause
        self.seconds: list[float] = []
        self.outcomes: list[str] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(threads)]

    def __enter__(self) -> "Traffic":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while not self._stop.wait(self.pause):
            started, received = time.monotonic(), b""
            with suppress(OSError):
                received = exchange(self.server, post("Hi"))
            self.seconds.append(time.monotonic() - started)
            self.outcomes.append(outcome_of(received))

    def slowest(self, share: float) -> float:
        return sorted(self.seconds)[int(share * (len(self.seconds) - 1))]


# --- the worker, seen from outside ------------------------------------------------------------


def workers(server: Server) -> list[int]:
    """The process ids of gunicorn's workers."""
    if not (PROC / "self" / "status").exists():
        pytest.skip("no /proc here, so what a worker holds cannot be seen")
    master = server.process.pid
    children = (PROC / str(master) / "task" / str(master) / "children").read_text().split()
    return [int(pid) for pid in children]


def memory(pid: int, which: str = "VmRSS") -> float:
    """In MiB; VmHWM is the peak."""
    status = (PROC / str(pid) / "status").read_text()
    return int(status.partition(f"{which}:")[2].split()[0]) / 1024


def forget_peak(pid: int) -> None:
    (PROC / str(pid) / "clear_refs").write_text("5")


def descriptors(pid: int) -> int:
    return len(os.listdir(PROC / str(pid) / "fd"))


@contextmanager
def many_descriptors(number: int = 4096) -> Iterator[None]:
    """Enough for this process, and for those that it starts."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < number:
        pytest.skip(f"needs {number} file descriptors, and the limit here is {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, number), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# --- providers --------------------------------------------------------------------------------


@contextmanager
def emulator_process(log_file: Path) -> Iterator[Server]:
    """The emulator as a program of its own: its threads take no time from the clients here."""
    port = serving.free_port()
    command = [sys.executable, "-m", "emulator", "--port", str(port), "--gap", "0"]
    with serving.started(command, port, {}, log_file) as server:
        yield server


def response(body: Any, *headers: str, status: str = "200 OK") -> bytes:
    """A provider's response, with these bytes, this text or this JSON."""
    data = as_bytes(body)
    head = [f"HTTP/1.1 {status}", *headers, f"Content-Length: {len(data)}", "", ""]
    return "\r\n".join(head).encode() + data


# What comes before a stream in chunks.
EVENTS = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
Play = Callable[[], Iterable[bytes | float]]  # what to send, and the seconds to wait


def dripped(data: bytes, seconds: float) -> Iterator[bytes | float]:
    for byte in data:
        yield bytes([byte])
        yield seconds


class Provider:
    """A provider of raw bytes: each connection is handed to `talk`, in a thread of its own."""

    def __init__(
        self, talk: Callable[[socket.socket], object], tls: ssl.SSLContext | None = None
    ) -> None:
        self.requests: list[bytes] = []
        self.connections: list[socket.socket] = []
        self._talk, self._tls = talk, tls
        self._listener = socket.create_server((HOST, 0), backlog=128)
        self._threads: list[threading.Thread] = []
        self.port: int = self._listener.getsockname()[1]
        self.url = f"http{'s' * bool(tls)}://{HOST}:{self.port}"

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        for open_socket in (self._listener, *self.connections):
            with suppress(OSError):
                open_socket.shutdown(socket.SHUT_RDWR)  # accept() and recv() return
        for thread in self._threads:
            thread.join(DEADLINE)
        self._listener.close()

    def received(self, connection: socket.socket) -> bytes:
        """The next request on a connection, kept in `requests`; empty where there is none."""
        data, length = b"", None
        while length is None or len(data) < length:
            if not (piece := connection.recv(65536)):
                return b""
            data += piece
            head, end, _ = data.partition(b"\r\n\r\n")
            if end:
                body = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
                length = len(head) + len(end) + int(body)
        self.requests.append(data)
        return data

    def _start(self, target: Callable[..., None], *args: object) -> None:
        self._threads.append(threading.Thread(target=target, args=args, daemon=True))
        self._threads[-1].start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                self._start(self._serve, self._listener.accept()[0])

    def _serve(self, connection: socket.socket) -> None:
        with suppress(OSError):
            connection.settimeout(DEADLINE)
            if self._tls:
                connection = self._tls.wrap_socket(connection, server_side=True)
            self.connections.append(connection)
            with connection:
                self._talk(connection)


def answering(*sent: bytes, tls: ssl.SSLContext | None = None) -> Provider:
    """A provider that answers each request on a connection with the next of these bytes."""

    def talk(connection: socket.socket) -> None:
        for data in sent:
            if not provider.received(connection):
                return
            connection.sendall(data)

    provider = Provider(talk, tls)
    return provider


@contextmanager
def full_listener() -> Iterator[int]:
    """The port of a listener whose queue is full: the kernel drops what knocks."""
    with socket.create_server((HOST, 0), backlog=0) as listener, ExitStack() as stack:
        for _ in range(4):
            knocking = stack.enter_context(socket.socket())
            knocking.setblocking(False)
            knocking.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


class Wire(Provider):
    """A provider that sends the bytes of the play whose name is in the request."""

    def __init__(self, plays: dict[str, Play]) -> None:
        super().__init__(self._act)
        self.plays = plays

    def _act(self, connection: socket.socket) -> None:
        asked = self.received(connection)
        name = next((name for name in self.plays if f'"{name}"'.encode() in asked), None)
        for step in self.plays[name]() if name else ():
            if isinstance(step, bytes):
                connection.sendall(step)
            else:
                time.sleep(step)
