"""gunicorn's gevent worker, answering in JSON what it refuses before the application sees it.

gunicorn's own page, and its log line, quote the header that is wrong: perhaps the one with the key.
"""

import uuid
from contextlib import suppress
from typing import Any

from gunicorn.http import errors
from gunicorn.workers.ggevent import GeventWorker

from proxy import strict_json
from proxy.errors import CallerError, OperatorError, ProxyError
from proxy.request_log import Entry, client_address

_STATUS: dict[type[Exception], tuple[int, str]] = {
    errors.LimitRequestLine: (414, "URI Too Long"),
    errors.LimitRequestHeaders: (431, "Request Header Fields Too Large"),
    errors.UnsupportedTransferCoding: (501, "Not Implemented"),
    errors.ExpectationFailed: (417, "Expectation Failed"),
}

_PIECE = 64 * 1024  # bytes


class Worker(GeventWorker):  # type: ignore[misc]
    """What `gunicorn.conf.py` names as worker_class."""

    def handle_exit(self, sig: int, frame: Any) -> None:
        """SIGTERM: what is open then has the grace, less two seconds to say that it was cut.

        At the end of the grace gunicorn kills, and nothing is said.
        """
        super().handle_exit(sig, frame)
        if app := getattr(self, "wsgi", None):  # not while the worker still starts
            app.extensions["proxy"].watchdog.restart_in(self.cfg.graceful_timeout - 2)

    def handle_request(self, listener_name: Any, req: Any, sock: Any, addr: Any) -> None:
        """One request has one answer: where its body breaks off, the connection ends with it.

        gunicorn reads what the application left unread while it looks for the next request, and
        would answer a fault in it as that of another. A connection that is closed on unread bytes
        is reset, and its client may not see the answer (RFC 9112, 9.6).
        """
        is_kept = True
        try:
            super().handle_request(listener_name, req, sock, addr)
        except StopIteration:  # gunicorn's word for closing the connection
            is_kept = False
        with suppress(Exception), self.timeout_ctx():
            while req.body.read(_PIECE):
                pass
            if is_kept:
                return
        raise StopIteration

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:
        """Answer in our form; the log has the exception's type, and none of the caller's text."""
        failure: ProxyError = OperatorError.internal()
        status, reason = 500, "Internal Server Error"
        if isinstance(exc, errors.ParseException):
            failure = CallerError("invalid_http", "The request is not HTTP as it must be.")
            status, reason = _STATUS.get(type(exc), (400, "Bad Request"))
        failure.notes = {"raised": type(exc).__name__}
        entry = Entry(
            request_id := uuid.uuid4().hex, client=client_address(addr[0] if addr else "")
        )
        entry.failed(failure)
        body = strict_json.dumps(failure.to_json(request_id))
        headers = {
            "Connection": "close",
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            "X-Request-Id": request_id,
            **({"X-Should-Retry": "false"} if status >= 500 else {}),
        }
        lines = [f"HTTP/1.1 {status} {reason}", *map(": ".join, headers.items()), "", ""]
        entry.answered(status)
        try:
            client.sendall("\r\n".join(lines).encode("ascii") + body)
            entry.bytes = len(body)
        except OSError:
            entry.client_gone()
        entry.write()
