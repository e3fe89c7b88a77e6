"""The emulator's HTTP/1.1 server, with a thread for each connection.

It parses a request, performs the steps that `faults` makes for it, and keeps the request for tests
to look at.
"""

import contextlib
import hashlib
import json
import re
import select
import socket
import struct
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingTCPServer
from typing import Any, Self
from urllib.parse import unquote, urlsplit

from emulator.answers import OPENAI, WORKERS_AI, Dialect, Json, envelope, message_text
from emulator.directives import Faults, WrongDirectiveError, read
from emulator.faults import Answer, Asked, End, Step, answer, error_answer, json_answer, script

_ROUTES: dict[str, Dialect] = {
    r"/client/v4/accounts/[^/]+/ai/run/.+": WORKERS_AI,
    r"(/v1)?/chat/completions": OPENAI,
}
_SECRETS = ("authorization", "cf-aig-authorization", "x-auth-key", "x-api-key")
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # linger on, for 0 seconds: close() sends RST


@dataclass(eq=False)
class Received:
    """A request as received; header names are in lower case.

    `gone` is set when the client closed the connection before the answer was finished,
    `done` when the answer was sent completely; `usage` is the usage that the answer contains.
    """

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    gone: threading.Event = field(default_factory=threading.Event)
    done: threading.Event = field(default_factory=threading.Event)
    usage: Json | None = None

    @property
    def json(self) -> Any:
        """The body, parsed."""
        return json.loads(self.body)

    def shown(self) -> Json:
        """The request as JSON, with secrets masked."""
        headers = {
            name: _masked(value) if name in _SECRETS else value
            for name, value in self.headers.items()
        }
        body = self.body.decode("utf-8", "replace")
        return {"method": self.method, "path": self.path, "headers": headers, "body": body}


def _masked(value: str) -> str:
    scheme, _, secret = value.rpartition(" ")
    return f"{scheme} …{hashlib.sha256(secret.encode()).hexdigest()[:8]}".lstrip()


class Emulator(ThreadingTCPServer):
    """Both providers at `url`; `with Emulator() as emulator:` serves in daemon threads.

    `gap` is in seconds between the words of a stream; with a `key`, other tokens are refused.
    `requests` holds a `Received` for each request, `connections` counts those accepted; `refused`:
    by a model's name, the status and the provider's code (or None) with which it is refused.
    """

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 1024

    def __init__(
        self, host: str = "127.0.0.1", port: int = 0, *, gap: float = 0.0, key: str | None = None
    ) -> None:
        self.gap, self.key = gap, key
        self.requests: list[Received] = []
        self.refused: dict[str, tuple[int, int | None]] = {}
        self.connections = 0
        self._open: set[Any] = set()
        self._closed = threading.Condition()
        super().__init__((host, port), _Handler)
        self.url = f"http://{host}:{self.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()
        with self._closed:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            self._closed.wait_for(lambda: not self._open, timeout=5)

    def clear(self) -> None:
        """Forget the requests received, and serve every model."""
        self.requests.clear()
        self.refused.clear()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Count a connection and serve it in a thread of its own."""
        self.connections += 1
        with self._closed:
            self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Close a connection that was served."""
        super().shutdown_request(request)
        with self._closed:
            self._open.discard(request)
            self._closed.notify_all()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore clients that left; other errors raise, for their traceback."""
        with contextlib.suppress(OSError):
            raise


# --- parsing a request ------------------------------------------------------------------------


def _about(emulator: Emulator) -> Answer:
    text = "This is an emulator of Workers AI and of an OpenAI-compatible API, not a model.\n"
    return Answer(200, "text/plain; charset=utf-8", {}, [text.encode()])


def _list(emulator: Emulator) -> Answer:
    received = emulator.requests[:]
    shown = [request.shown() for request in received[-100:]]
    return json_answer(200, {"count": len(received), "requests": shown}, {})


def _forget(emulator: Emulator) -> Answer:
    emulator.clear()
    return json_answer(200, {"count": 0, "requests": []}, {})


_OWN: dict[tuple[str, str], Callable[[Emulator], Answer]] = {
    ("GET", "/"): _about,
    ("GET", "/requests"): _list,
    ("DELETE", "/requests"): _forget,
}


def _steps(emulator: Emulator, received: Received) -> Iterator[Step]:
    """The steps of the answer. The request is kept unless it is for the emulator itself."""
    path = unquote(urlsplit(received.path).path)
    if own := _OWN.get((received.method, path)):
        return script(own(emulator), Faults())
    emulator.requests.append(received)
    asked = _understand(emulator, received, path)
    if isinstance(asked, Answer):
        return script(asked, Faults())
    try:
        content = answer(asked)
        received.usage = content.usage
        return script(content, asked.faults, emulator.gap)
    except (AttributeError, LookupError, TypeError) as error:  # no provider accepts such a body
        refusal = error_answer(asked.dialect, 400, None, f"Bad input: {error!r}", asked.ident)
    except WrongDirectiveError as error:
        refusal = json_answer(400, {"error": {"message": str(error)}}, {})
    return script(refusal, Faults())


def _understand(emulator: Emulator, received: Received, path: str) -> Asked | Answer:
    """The parsed request, or the error response to it."""
    ident = str(uuid.uuid4())
    dialect = next((_ROUTES[route] for route in _ROUTES if re.fullmatch(route, path)), None)
    if dialect is None:
        where = f"Could not route to {path}, perhaps your object identifier is invalid?"
        return json_answer(400, envelope((7003, where), (7000, "No route for that URI")), {})
    if received.method != "POST":
        return _refusal(dialect, 405, 7001, f"{received.method} not supported for requested URI.")
    if emulator.key and received.headers.get("authorization") != f"Bearer {emulator.key}":
        return _refusal(dialect, 401, 10000, "Authentication error")
    body = _body(received)
    if body is None:
        message = "Bad input: Error: required properties at '/' are 'messages'"
        return error_answer(dialect, 400, None, message, ident)
    model = body.get("model") or path.partition("/run/")[2]
    if model in emulator.refused:
        status, code = emulator.refused[model]
        return error_answer(dialect, status, code, "", ident)
    try:
        faults, prompt = read(message_text(body["messages"][-1]))
    except WrongDirectiveError as error:
        return json_answer(400, {"error": {"message": str(error)}}, {})
    return Asked(dialect, body, prompt, faults, ident, emulator.url)


def _refusal(dialect: Dialect, status: int, code: int, message: str) -> Answer:
    if dialect is WORKERS_AI:  # refused before the model: no AiError
        return json_answer(status, envelope((code, message)), {})
    return json_answer(status, dialect.error(status, None, message, ""), {})


def _body(received: Received) -> Json | None:
    """The body if it is a JSON object with a list of messages, otherwise None."""
    try:
        body = received.json
    except (ValueError, RecursionError):
        return None
    messages = body.get("messages") if isinstance(body, dict) else None
    valid = isinstance(messages, list) and messages and isinstance(messages[-1], dict)
    return body if valid else None


# --- one connection ---------------------------------------------------------------------------


class _Handler(BaseHTTPRequestHandler):
    server: Emulator
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # send each token at once

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def setup(self) -> None:
        super().setup()
        self._readable = select.poll()  # select() cannot watch descriptors over 1023
        self._readable.register(self.connection, select.POLLIN)

    def _serve(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        try:
            body = self._read(headers)
        except ValueError:  # no length, or a client that left in the middle of its request
            self.close_connection = True
            return
        received = Received(self.command, self.path, headers, body)
        try:
            self._play(_steps(self.server, received), received)
        except OSError:
            received.gone.set()
            self.close_connection = True

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _serve

    def _read(self, headers: dict[str, str]) -> bytes:
        if headers.get("transfer-encoding", "").lower() != "chunked":
            return self.rfile.read(int(headers.get("content-length") or 0))
        chunks = []
        while size := int(self.rfile.readline().partition(b";")[0], 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():  # trailers
            pass
        return b"".join(chunks)

    def _play(self, steps: Iterable[Step], received: Received) -> None:
        for step in steps:
            if isinstance(step, bytes):
                self.connection.sendall(step)
            elif isinstance(step, float):
                self._wait(step)
            else:
                self.close_connection = True
                if step is End.RESET:
                    linger = (socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
                    self.connection.setsockopt(*linger)
                    self.connection.close()  # before anyone can send a FIN first
                if step is not End.COMPLETE:
                    return
        received.done.set()

    def _wait(self, seconds: float) -> None:
        """Wait, or raise ConnectionResetError when the client disconnects: its EOF is readable."""
        deadline = time.monotonic() + seconds
        while True:
            left = deadline - time.monotonic()
            if self._readable.poll(min(max(left, 0), 60) * 1000):
                if not self.connection.recv(1, socket.MSG_PEEK):
                    raise ConnectionResetError
                time.sleep(min(max(left, 0), 0.02))  # it has already sent its next request
            if left <= 0:
                return
