"""Reads what a request brings besides JSON: its headers and the bytes of its body."""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from math import inf
from typing import Any

from flask import Flask, Request, request
from werkzeug.exceptions import BadHost

from proxy.errors import CallerError, ClientGone
from proxy.watchdog import Call, Timeouts

_HOST = r"([A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{0,5})?"
_MOST_AT_A_TIME = 64 * 1024**2  # bytes; parsed and encoded again, a body takes three times that
_PIECE = 256 * 1024  # bytes


class Application(Flask):
    """Flask, but a malformed Host is refused (RFC 9112, 3.2), and `Upgrade` is ignored."""

    def create_url_adapter(self, request: Request | None) -> Any:
        if request is not None:
            request.environ.pop("HTTP_UPGRADE", None)  # Werkzeug would look for WebSocket routes
            host = request.environ.get("HTTP_HOST", "")
            is_optional = request.environ.get("SERVER_PROTOCOL") == "HTTP/1.0"
            if not (re.fullmatch(_HOST, host) or (is_optional and not host)):
                raise BadHost
        return super().create_url_adapter(request)


def timeouts(ours: Timeouts, stream: bool) -> Timeouts:
    """Ours, or a tenth less (at most a second) than the read timeout that OpenAI's SDKs announce.

    After a timeout they repeat the request, and it is billed twice.
    """
    theirs = inf
    for name in ("x-stainless-read-timeout", "x-stainless-timeout"):
        text = request.headers.get(name, "")
        if re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,9})?", text) and (seconds := float(text)):
            theirs = min(theirs, seconds - min(1, seconds / 10))
    return Timeouts(
        first_byte=min(ours.first_byte, theirs),
        idle=min(ours.idle, theirs),
        total=ours.total if stream else min(ours.total, theirs),
    )


def clean_id(text: str | None) -> str | None:
    """An id that is fit for headers and logs, or None."""
    return text if text and re.fullmatch("[A-Za-z0-9._-]{1,128}", text) else None


def clean_path() -> str:
    """The path, for the log: at most 64 characters. `?` is for what may be a key, and the rest."""
    clean = re.match(r"(/[a-z0-9._:-]{,15}(?=/|\Z))*", request.path)
    shown = clean[0] if clean else ""
    return shown if shown == request.path and len(shown) <= 64 else shown[:62] + "/?"


def ignored_names(ours: Iterable[str], theirs: str | None) -> str:
    """The names of ignored parameters that are fit for a header: this proxy's, and those that an
    upstream proxy lists. A caller can write anything as a name."""
    listed = (name.strip() for name in (theirs or "")[:2000].split(","))
    clean = filter(re.compile("[A-Za-z0-9_.-]{1,64}").fullmatch, {*ours, *listed})
    return ", ".join(sorted(clean)[:20])


class Bodies:
    """The bodies that a process handles at a time. A few large ones could use up its memory, so
    their total has a limit, and what exceeds it is refused with `Retry-After: 1`."""

    def __init__(self, limit: int) -> None:
        self._limit = limit  # bytes of one body
        self._bytes = 0  # of all of them

    @contextmanager
    def read(self, call: Call) -> Iterator[bytes]:
        """One body. Werkzeug's own limit would truncate a chunked one silently."""
        length = request.content_length or 0
        self._check(length)
        if request.headers.get("Content-Encoding", "").strip().lower() not in ("", "identity"):
            raise CallerError("invalid_json", "The body must not be compressed.")
        pieces: list[bytes] = []
        size = 0
        try:
            while piece := _piece(call):
                pieces.append(piece)
                size += len(piece)
                self._bytes += len(piece)
                self._check(size)
            if size < length:
                raise ClientGone
            pieces = [b"".join(pieces)]
            yield pieces.pop()  # the block may free it
        finally:
            self._bytes -= size

    def _check(self, size: int) -> None:
        if size > self._limit:
            message = f"The body is over this proxy's limit of {self._limit} bytes."
            raise CallerError("request_too_large", message)
        if self._bytes > max(_MOST_AT_A_TIME, self._limit):
            message = "This proxy is receiving too many large bodies; try again in 1 second."
            raise CallerError("rate_limited", message, retry_after=1)


def _piece(call: Call) -> bytes:
    try:
        return request.stream.read(_PIECE)
    except Exception as error:  # gunicorn's and Werkzeug's differ, for malformed chunks
        if call.end_reason or isinstance(error, OSError):
            raise call.end_reason or ClientGone from None
        message = "The request body is not valid HTTP."
        raise CallerError("invalid_json", message, raised=type(error).__name__) from None
