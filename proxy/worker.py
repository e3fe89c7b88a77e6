"""gunicorn's gevent worker, with what HTTP demands beyond it, and its refusals in our JSON.

gunicorn's own page and log line quote the wrong header, which may be the one with the key.
"""

import socket
import uuid
from contextlib import suppress
from http import HTTPStatus
from typing import Any, ClassVar

import gevent
from gunicorn import util
from gunicorn.http import errors
from gunicorn.http.message import Request
from gunicorn.http.unreader import SocketUnreader
from gunicorn.workers.ggevent import GeventWorker

from proxy import strict_json
from proxy.errors import CallerError, ClientGone, OperatorError, ProxyError
from proxy.request_log import Entry, client_address
from proxy.watchdog import LAST_CALL

_PIECE = 64 * 1024  # bytes
_PATIENCE = 5.0  # seconds for a client to send a head, or the rest of a body that nobody reads

# By gunicorn's exception: the status and the message.
_REFUSALS = {
    errors.LimitRequestLine: (414, "The request line is longer than {0.limit_request_line} bytes."),
    errors.LimitRequestHeaders: (
        431,
        "A header field is longer than {0.limit_request_field_size} bytes, or there are more than "
        "{0.limit_request_fields}.",
    ),
    errors.UnsupportedTransferCoding: (501, "The only Transfer-Encoding supported is chunked."),
    errors.ExpectationFailed: (417, "The only Expect supported is 100-continue."),
}
_NOT_HTTP = (400, "The request is not valid HTTP.")


class _Request(Request):  # type: ignore[misc]
    """The head of a request. An exception while it is read has it as `request`."""

    version: tuple[int, int]

    def __init__(self, worker: "Worker", unreader: SocketUnreader, addr: Any) -> None:
        self.worker = worker
        try:
            super().__init__(worker.cfg, unreader, addr)
        except errors.ParseException as error:
            error.request = self
            raise

    def set_body_reader(self) -> None:
        self.version = min(self.version, (1, 1))  # HTTP/1.2 is answered as 1.1 (RFC 9110, 2.5)
        super().set_body_reader()
        for name, value in self.headers:
            if name == "TRANSFER-ENCODING" and value.lower() != "chunked":
                raise errors.UnsupportedTransferCoding(value)

    def should_close(self) -> bool:
        fields = ",".join(value for name, value in self.headers if name == "CONNECTION")
        tokens = {token.strip(" \t") for token in fields.lower().split(",")}
        if self.must_close or not self.worker.alive or self.method == "CONNECT":
            return True
        return "close" in tokens or (self.version < (1, 1) and "keep-alive" not in tokens)


class Worker(GeventWorker):  # type: ignore[misc]
    """The worker_class that `gunicorn.conf.py` names."""

    _idle: ClassVar[set[socket.socket]] = set()  # the connections that wait for a request
    _is_ending = _is_quitting = False

    def init_signals(self) -> None:
        """Until the application is loaded, a signal ends the worker at once (gunicorn.conf.py)."""

    def run(self) -> None:
        super().init_signals()
        super().run()

    def handle_exit(self, sig: int, frame: Any) -> None:
        """SIGTERM. What is open two seconds before the end of the grace ends with an error.

        At the end gunicorn kills the worker, and its clients get no error.
        """
        super().handle_exit(sig, frame)
        app = getattr(self, "wsgi", None)
        if app and not self._is_ending:  # gunicorn repeats the signal
            self._is_ending = True
            app.extensions["proxy"].watchdog.restart_in(self.cfg.graceful_timeout - 2)
            gevent.spawn_later(LAST_CALL, self._end_idle)

    def handle_quit(self, sig: int, frame: Any) -> None:
        """SIGINT or SIGQUIT. Ctrl-C sends both; the second would log a traceback."""
        if not self._is_quitting:
            self._is_quitting = True
            super().handle_quit(sig, frame)

    def _end_idle(self) -> None:
        for client in [*self._idle]:
            with suppress(OSError):
                client.shutdown(socket.SHUT_RD)

    def handle(self, listener: Any, client: Any, addr: Any) -> None:
        """Serve a connection. gunicorn's own method would give each head `keepalive` seconds."""
        unreader = SocketUnreader(client)
        client.setblocking(True)
        try:
            seconds = _PATIENCE
            while True:
                self._await_request(unreader, client, seconds)
                with gevent.Timeout(_PATIENCE):
                    request = _Request(self, unreader, addr)
                self.handle_request(listener.getsockname(), request, client, addr)
                seconds = self.cfg.keepalive
        except (StopIteration, OSError, gevent.Timeout):
            pass  # the connection is over
        except Exception as error:
            self.handle_error(None, client, addr, error)
            with suppress(OSError), gevent.Timeout(_PATIENCE, False):
                client.shutdown(socket.SHUT_WR)
                while client.recv(_PIECE):  # see handle_request
                    pass
        finally:
            util.close(client)

    def _await_request(self, unreader: SocketUnreader, client: Any, seconds: float) -> None:
        self._idle.add(client)
        try:
            with gevent.Timeout(seconds):
                unreader.unread(unreader.read())
        finally:
            self._idle.discard(client)

    def handle_request(self, listener_name: Any, req: Any, sock: Any, addr: Any) -> None:
        """Read the body to its end after the answer. A body that breaks off ends the connection.

        What follows such a body is not a request. A connection that is closed with bytes unread is
        reset, and its client may not see the answer (RFC 9112, 9.6).
        """
        is_kept = True
        try:
            super().handle_request(listener_name, req, sock, addr)
        except StopIteration:  # gunicorn closes the connection
            is_kept = False
        with suppress(Exception), gevent.Timeout(_PATIENCE, False):
            while req.body.read(_PIECE):
                pass
            if is_kept and not getattr(req.body, "failed", False):
                return
        raise StopIteration

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:
        """Answer in our form. The log has the exception's type and none of the caller's text."""
        status = 500
        raised = type(exc).__name__
        failure: ProxyError = OperatorError("internal_error", raised=raised)
        if isinstance(exc, errors.ParseException):
            status, message = _REFUSALS.get(type(exc), _NOT_HTTP)
            failure = CallerError("invalid_http", message.format(self.cfg), raised=raised)
        address = client_address(addr[0] if addr else "")
        entry = Entry(request_id := uuid.uuid4().hex, client=address)
        entry.failed(failure)
        entry.status = status
        body = strict_json.dumps(failure.to_json(request_id))
        lines = [
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}",
            "Connection: close",
            "Content-Type: application/json",
            f"Content-Length: {len(body)}",
            f"X-Request-Id: {request_id}",
            *(["X-Should-Retry: false"] if status >= 500 else []),
        ]
        if getattr(getattr(exc, "request", None), "method", None) == "HEAD":
            body = b""
        try:
            client.sendall("\r\n".join([*lines, "", ""]).encode("ascii") + body)
            entry.bytes = len(body)
        except OSError:
            entry.failed(ClientGone())
        entry.write()
