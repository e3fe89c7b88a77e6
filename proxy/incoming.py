"""What a request brings besides its JSON: its bytes, its id, its caller's socket and patience."""

import re
import socket
from math import inf

from flask import g, request

from proxy.errors import CallerError
from proxy.watch import Timeouts


def client() -> socket.socket | None:
    """The caller's connection, where the server shows it (gunicorn, Werkzeug)."""
    return request.environ.get("gunicorn.socket") or request.environ.get("werkzeug.socket")


def timeouts(ours: Timeouts, stream: bool) -> Timeouts:
    """Ours, or a second less than those that OpenAI's SDKs say they have: theirs is for the time
    without bytes, in seconds. An answer that comes after they gave up is asked for, and paid,
    again."""
    told = [request.headers.get(name, "") for name in _THEIR_TIMEOUTS]
    known = [float(text) - 1 for text in told if re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,3})?", text)]
    theirs = max(0.5, min(known, default=inf))
    return Timeouts(
        first_byte=min(ours.first_byte, theirs),
        idle=min(ours.idle, theirs),
        total=ours.total if stream else min(ours.total, theirs),
    )


_THEIR_TIMEOUTS = ("x-stainless-read-timeout", "x-stainless-timeout")


def clean_id(text: str | None) -> str | None:
    """An id that is fit for headers and logs, or None."""
    return text if text and re.fullmatch("[A-Za-z0-9._-]{1,128}", text) else None


def retry() -> int | None:
    """Which retry of the SDK's this is, where it says so."""
    told = request.headers.get("x-stainless-retry-count", "")
    return int(told) if re.fullmatch("[0-9]{1,3}", told) else None


def body(limit: int) -> bytes:
    """The body, all of it: Werkzeug's own limit would cut a chunked one without a word."""
    length = request.content_length
    if length is not None and length > limit:
        raise _too_large(limit)
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise CallerError("invalid_json", "The body must not be compressed.")
    read = b""
    try:
        while len(read) <= limit and (piece := request.stream.read(limit + 1 - len(read))):
            read += piece
    except Exception as error:  # of gunicorn's and Werkzeug's, for chunks that are none
        g.entry.notes = {"raised": type(error).__name__}
        if isinstance(error, OSError):
            g.entry.client_gone()
        raise CallerError("invalid_json", "The body could not be read to its end.") from None
    if len(read) > limit:
        raise _too_large(limit)
    if length is not None and len(read) < length:
        g.entry.client_gone()  # or closed its sending side, and may still read this
        tells = f"The body ended after {len(read)} of the {length} bytes that it claimed."
        raise CallerError("invalid_json", tells)
    return read


def _too_large(limit: int) -> CallerError:
    tells = f"The body is over this proxy's limit of {limit} bytes."
    return CallerError("request_too_large", tells)
