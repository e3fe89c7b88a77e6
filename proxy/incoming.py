"""What a request brings besides its JSON: its bytes, its id, its caller's socket and patience."""

import re
import socket
from collections.abc import Callable, Iterator
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
    """The caller's connection, where the server shows it (gunicorn)."""
    sock: socket.socket | None = request.environ.get("gunicorn.socket")
    return sock


def timeouts(ours: Timeouts, stream: bool) -> Timeouts:
    """Ours, or a little less than those that OpenAI's SDKs send: a tenth, at most a second. Theirs
    is for the time without bytes, in seconds. An answer that comes after they gave up is asked for,
    and paid, again."""
    told = [request.headers.get(name, "") for name in _THEIR_TIMEOUTS]
    known = [float(text) for text in told if re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,9})?", text)]
    theirs = min((seconds - min(1, seconds / 10) for seconds in known if seconds), default=inf)
    return Timeouts(
        first_byte=min(ours.first_byte, theirs),
        idle=min(ours.idle, theirs),
        total=ours.total if stream else min(ours.total, theirs),
    )


_THEIR_TIMEOUTS = ("x-stainless-read-timeout", "x-stainless-timeout")


def clean_id(text: str | None) -> str | None:
    """An id that is fit for headers and logs, or None."""
    return text if text and re.fullmatch("[A-Za-z0-9._-]{1,128}", text) else None


def clean_method() -> str:
    """The method, for the log; `?` for one that HTTP does not define."""
    return request.method if request.method in _METHODS else "?"


_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT")


def clean_path(is_secret: Callable[[str], bool]) -> str:
    """The path, for the log: the first 64 characters, without what may be a key.

    People paste keys into URLs. A path that holds one of this proxy's is not shown at all.
    """
    segments = request.path.split("/")[:_MOST_SEGMENTS]
    rests = [request.path.split("/", number)[-1] for number in range(len(segments))]
    words = re.split("[/ =&?,;:]", request.path)[:_MOST_SEGMENTS]
    if any(is_secret(text) for text in [*rests, *segments, *words]):
        return "?"
    shown = ["?" if re.fullmatch(_LIKE_A_KEY, segment) else segment for segment in segments]
    return re.sub("[^A-Za-z0-9/._~@:-]", "?", "/".join(shown)[:64])


_MOST_SEGMENTS = 16
_LIKE_A_KEY = ".{25,}|(?=.*[0-9]).{16,}"  # long, or not so long and with a digit


def retry() -> int | None:
    """Which retry of the SDK's this is, where it says so."""
    told = request.headers.get("x-stainless-retry-count", "")
    return int(told) if re.fullmatch("[0-9]{1,3}", told) else None


class Bodies:
    """The bodies under way in a process. A few large ones could take all its memory, so what comes
    over the bound is refused, to be sent again a second later."""

    def __init__(self, limit: int) -> None:
        """`limit`: bytes of one body."""
        self._limit = limit
        self._bytes = 0  # of all that are under way

    @contextmanager
    def read(self, call: Call) -> Iterator[list[bytes]]:
        """One whole body, in a list, so that it can be let go of; it is under way until the block
        is left. Raises CallerError.

        Werkzeug's own limit would cut a chunked body without a word.
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
                if self._bytes > max(_MOST_UNDER_WAY, self._limit):
                    raise CallerError.too_many_bodies()
            if length is not None and size < length:
                g.entry.client_gone()  # or closed its sending side, and may still read this
                tells = f"The body ended after {size} of the {length} bytes that it claimed."
                raise CallerError("invalid_json", tells)
            body = [b"".join(pieces)]
            pieces.clear()
            yield body
        finally:
            self._bytes -= size

    def _too_large(self) -> CallerError:
        tells = f"The body is over this proxy's limit of {self._limit} bytes."
        return CallerError("request_too_large", tells)


def _piece(call: Call) -> bytes:
    try:
        return request.stream.read(_PIECE)
    except Exception as error:  # of gunicorn's and Werkzeug's, for chunks that are none
        g.entry.notes = {"raised": type(error).__name__}
        if isinstance(error, OSError):
            g.entry.client_gone()
        unread = CallerError("invalid_json", "The body could not be read to its end.")
        raise call.ended or unread from None


_MOST_UNDER_WAY = 64 * 1024**2  # bytes; parsed and made anew, a body takes three times as much
_PIECE = 256 * 1024  # bytes
