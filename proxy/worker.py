"""gunicorn's gevent worker, with what HTTP demands beyond it, and its refusals in our JSON.

gunicorn's own page and log line quote the wrong header, which may be the one with the key.
"""

import socket
import uuid
from contextlib import suppress
from typing import Any

import gevent
from gunicorn.http import errors
from gunicorn.http.body import Body, EOFReader
from gunicorn.http.message import Request
from gunicorn.http.unreader import SocketUnreader
from gunicorn.http.wsgi import Response
from gunicorn.workers.ggevent import GeventWorker

from proxy import responses
from proxy.errors import CallerError, ClientGone
from proxy.request_log import Entry, client_address

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


class _Request(Request):  # type: ignore[misc]
    """The head of a request. All that follows a refused one is read as its body."""

    version: tuple[int, int]
    refusal: Exception | None = None

    def __init__(self, worker: "Worker", unreader: SocketUnreader, addr: Any) -> None:
        self.worker = worker
        try:
            super().__init__(worker.cfg, unreader, addr)
            self.version = min(self.version, (1, 1))  # HTTP/1.2 is answered as 1.1 (RFC 9110, 2.5)
            for name, value in self.headers:
                if name == "TRANSFER-ENCODING" and value.lower() != "chunked":
                    raise errors.UnsupportedTransferCoding(value)
        except Exception as error:  # handle_request raises it
            self.refusal, self.version, self.body = error, (1, 1), Body(EOFReader(unreader))

    def should_close(self) -> bool:
        """gunicorn's own knows no lists, such as `Connection: upgrade, close`."""
        fields = ",".join(value for name, value in self.headers if name == "CONNECTION")
        tokens = {token.strip(" \t") for token in fields.lower().split(",")}
        if self.must_close or not self.worker.alive or self.method == "CONNECT":
            return True
        return "close" in tokens or (self.version < (1, 1) and "keep-alive" not in tokens)


class Worker(GeventWorker):  # type: ignore[misc]
    """The worker_class that `gunicorn.conf.py` names."""

    _is_quitting = False

    def init_signals(self) -> None:
        """Until the application is loaded, a signal ends the worker at once (gunicorn.conf.py)."""

    def run(self) -> None:
        self._watchdog = self.wsgi.extensions["proxy"].watchdog
        super().init_signals()
        super().run()

    def handle_exit(self, sig: int, frame: Any) -> None:
        """SIGTERM. Answers end with an error two seconds before gunicorn kills the worker."""
        if self.alive:  # gunicorn repeats the signal
            self._watchdog.restart_in(max(self.cfg.graceful_timeout - 2, 0.5))
        super().handle_exit(sig, frame)

    def handle_quit(self, sig: int, frame: Any) -> None:
        """SIGINT or SIGQUIT. Ctrl-C sends both; the second would log a traceback."""
        if not self._is_quitting:
            self._is_quitting = True
            super().handle_quit(sig, frame)

    def handle(self, listener: Any, client: Any, addr: Any) -> None:
        """Serve a connection. gunicorn's own method would give each head `keepalive` seconds."""
        client.setblocking(True)
        unreader = SocketUnreader(client)
        seconds = _PATIENCE
        with client, suppress(StopIteration, OSError, gevent.Timeout):  # its end
            while True:
                with self._watchdog.watch(client, seconds):
                    unreader.unread(unreader.read())
                with gevent.Timeout(_PATIENCE):
                    request = _Request(self, unreader, addr)
                self.handle_request(listener.getsockname(), request, client, addr)
                seconds = self.cfg.keepalive

    def handle_request(self, listener_name: Any, req: _Request, sock: Any, addr: Any) -> None:
        """Answer, and read the body to its end: a connection that is closed with bytes unread is
        reset, and its client may not see the answer (RFC 9112, 9.6). What follows a body that
        breaks off is not a request."""
        is_kept = False
        try:
            if req.refusal:
                raise req.refusal
            super().handle_request(listener_name, req, sock, addr)
            is_kept = True
        except (StopIteration, OSError):
            pass  # gunicorn or the client closes the connection
        except Exception as error:
            self.handle_error(req, sock, addr, error)
        with suppress(Exception), gevent.Timeout(_PATIENCE, False):
            if not is_kept:
                sock.shutdown(socket.SHUT_WR)
            while req.body.read(_PIECE):
                pass
            if is_kept and not req.body.failed:
                return
        raise StopIteration

    def handle_error(self, req: _Request, client: Any, addr: Any, exc: Exception) -> None:
        """Answer in our form. The log has the exception's type and none of the caller's text."""
        status = 500
        if isinstance(exc, errors.ParseException):
            status, message = _REFUSALS.get(type(exc), (400, "The request is not valid HTTP."))
            exc = CallerError("invalid_http", message.format(self.cfg), raised=type(exc).__name__)
        entry = Entry(uuid.uuid4().hex, client=client_address(addr[0] if addr else ""))
        answer = responses.error(exc, entry)
        entry.status = answer.status_code = status
        answer.headers |= {"X-Request-Id": entry.request_id, "X-Should-Retry": "false"}
        response = Response(req, client, self.cfg)
        response.force_close()
        try:
            for piece in answer({"REQUEST_METHOD": req.method}, response.start_response):
                response.write(piece)
            response.close()
        except OSError:
            entry.failed(ClientGone())
        entry.bytes = response.sent
        entry.write()
