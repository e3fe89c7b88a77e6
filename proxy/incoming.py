"""Reads what a request brings besides JSON: headers, bytes, and what the log shows of it."""

import re
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from math import inf
from typing import Any

from flask import Flask, Request, g, request
from werkzeug.exceptions import BadHost

from proxy.errors import CallerError
from proxy.watchdog import Call, Timeouts


class Application(Flask):
    """Flask, with the Host header checked as RFC 9112, 3.2, demands, and `Upgrade` ignored."""

    def create_url_adapter(self, request: Request | None) -> Any:
        if request is not None:
            request.environ.pop("HTTP_UPGRADE", None)  # Werkzeug would look for WebSocket routes
            needs_host = request.environ.get("SERVER_PROTOCOL") != "HTTP/1.0"
            host = _HOST.fullmatch(request.environ.get("HTTP_HOST", "" if needs_host else "none"))
            if not host or int(host["port"] or 0) > 65535:
                raise BadHost
        return super().create_url_adapter(request)


_HOST = re.compile(
    r"(\[[0-9A-Fa-f:.]+\]|[\w-]{1,63}(\.[\w-]{1,63})*\.?)(:(?P<port>[0-9]{0,5}))?", re.ASCII
)


def client_socket() -> socket.socket | None:
    """The client's connection, if the server provides it (gunicorn does)."""
    sock: socket.socket | None = request.environ.get("gunicorn.socket")
    return sock


def timeouts(ours: Timeouts, stream: bool) -> Timeouts:
    """Ours, or a tenth less (at most a second) than the read timeout that OpenAI's SDKs announce.

    After a timeout they repeat the request, and it is billed twice.
    """
    announced = [request.headers.get(name, "") for name in _THEIR_TIMEOUTS]
    known = [float(text) for text in announced if re.fullmatch(_SECONDS, text)]
    theirs = min((seconds - min(1, seconds / 10) for seconds in known if seconds), default=inf)
    return Timeouts(
        first_byte=min(ours.first_byte, theirs),
        idle=min(ours.idle, theirs),
        total=ours.total if stream else min(ours.total, theirs),
    )


_SECONDS = r"[0-9]{1,6}(\.[0-9]{1,9})?"
_THEIR_TIMEOUTS = ("x-stainless-read-timeout", "x-stainless-timeout")


def clean_id(text: str | None) -> str | None:
    """An id that is fit for headers and logs, or None."""
    return text if text and re.fullmatch("[A-Za-z0-9._-]{1,128}", text) else None


def clean_method() -> str:
    """The method, for the log; `?` for one that HTTP does not define."""
    return request.method if request.method in _METHODS else "?"


_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT")


def clean_path(is_secret: Callable[[str], bool]) -> str:
    """The path, for the log: 64 clean characters, with `?` for a segment that may be a key.

    People paste keys into URLs. A path that holds one of this proxy's is not shown at all.
    """
    segments = request.path.split("/")[:_MOST_SEGMENTS]
    rests = [request.path.split("/", number)[-1] for number in range(len(segments))]
    words = re.split(r"[\s/=&?,;:]", request.path)[:_MOST_SEGMENTS]
    if any(is_secret(text) for text in [*rests, *segments, *words]):
        return "?"
    shown = ["?" if _may_be_key(segment) else segment for segment in segments]
    return re.sub("[^A-Za-z0-9/._~@:-]", "?", "/".join(shown)[:64])


_MOST_SEGMENTS = 16


def _may_be_key(text: str) -> bool:
    return len(text) > 24 or (len(text) >= 16 and any(map(str.isdigit, text)))


def names(ours: Iterable[str], theirs: str | None) -> str:
    """The names of ignored parameters, this proxy's and those that an upstream proxy lists."""
    clean = re.compile("[A-Za-z0-9_.-]{1,64}").fullmatch
    listed = {name.strip() for name in (theirs or "")[:2000].split(",")}
    return ", ".join(sorted({*ours, *filter(clean, listed)})[:20])


def retry() -> int | None:
    """The number of the SDK's retry, if it says so."""
    count = request.headers.get("x-stainless-retry-count", "")
    return int(count) if re.fullmatch("[0-9]{1,3}", count) else None


class Bodies:
    """The bodies that a process handles at a time. A few large ones could use up its memory, so
    their total has a limit, and what exceeds it is refused with `Retry-After: 1`."""

    def __init__(self, limit: int) -> None:
        """`limit`: bytes of one body."""
        self._limit = limit
        self._bytes = 0  # of all of them

    @contextmanager
    def read(self, call: Call) -> Iterator[list[bytes]]:
        """One body, in a list, so that the block can free it. Raises CallerError.

        Werkzeug's own limit would truncate a chunked body silently.
        """
        length = request.content_length
        if length is not None and length > self._limit:
            raise self._too_large()
        codings = request.headers.get("Content-Encoding", "").lower().split(",")
        if any(coding.strip() not in ("", "identity") for coding in codings):
            raise CallerError("invalid_json", "The body must not be compressed.")
        pieces: list[bytes] = []
        size = 0
        try:
            while piece := _piece(call):
                pieces.append(piece)
                size += len(piece)
                self._bytes += len(piece)
                if size > self._limit:
                    raise self._too_large()
                if self._bytes > max(_MOST_AT_A_TIME, self._limit):
                    raise CallerError("rate_limited", _TOO_MANY_BODIES, retry_after=1)
            if length is not None and size < length:
                g.entry.client_gone()  # or closed its sending side, and may still read this
                message = f"The body ended after {size} of the {length} bytes that it announced."
                raise CallerError("invalid_json", message)
            body = [b"".join(pieces)]
            pieces.clear()
            yield body
        finally:
            self._bytes -= size

    def _too_large(self) -> CallerError:
        message = f"The body is over this proxy's limit of {self._limit} bytes."
        return CallerError("request_too_large", message)


def _piece(call: Call) -> bytes:
    try:
        return request.stream.read(_PIECE)
    except Exception as error:  # gunicorn's and Werkzeug's differ, for malformed chunks
        g.entry.notes = {"raised": type(error).__name__}
        if isinstance(error, OSError) and not call.ended:
            g.entry.client_gone()
        unread = CallerError("invalid_json", "The body could not be read to its end.")
        raise call.ended or unread from None


_TOO_MANY_BODIES = "This proxy is receiving too many large bodies; try again in 1 second."
_MOST_AT_A_TIME = 64 * 1024**2  # bytes; parsed and encoded again, a body takes three times that
_PIECE = 256 * 1024  # bytes
