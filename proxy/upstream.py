"""The way to the provider and back: the only room that imports requests.

requests' adapter is used without its Session: so there are no redirects, no cookies, no netrc and
no proxy or CA variables of the environment to be switched off, and no time spent on them.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import HTTPError, NewConnectionError, ReadTimeoutError

from proxy.config import Timeouts
from proxy.errors import ProviderError
from proxy.providers import UpstreamRequest

CONNECT_TIMEOUT = 3.0  # seconds
MAX_ANSWER = 8 * 1024**2  # bytes
_MAX_CONNECTIONS = 1000  # kept alive: as many as gunicorn's gevent worker serves at once
_READ_SIZE = 64 * 1024
_HEADERS = {
    "Content-Type": "application/json",
    "Accept": "application/json, text/event-stream",
    "Accept-Encoding": "identity",  # a provider that compresses a stream holds it back
    "User-Agent": "llm-proxy",
}


class Reply:
    """The provider's answer, its body not yet read. Close it, whatever happens."""

    def __init__(self, response: requests.Response, timeouts: Timeouts, deadline: float) -> None:
        self.status = response.status_code
        self.headers: Mapping[str, str] = response.headers
        self._response = response
        self._deadline = deadline
        sock = getattr(response.raw, "sock", None)
        if sock is not None:
            sock.settimeout(timeouts.idle)

    @property
    def is_event_stream(self) -> bool:
        return self.headers.get("Content-Type", "").lower().startswith("text/event-stream")

    def pieces(self) -> Iterator[bytes]:
        """The body as it comes: read1 alone does not wait for more, in all framings.

        Raises ProviderError.
        """
        raw = self._response.raw
        while True:
            with _translated():
                piece = raw.read1(_READ_SIZE, decode_content=True)
                if time.monotonic() > self._deadline:
                    raise TimeoutError
            if not piece:
                return
            yield piece

    def read(self) -> bytes:
        """The whole body. Raises ProviderError, also where it is over MAX_ANSWER."""
        body = bytearray()
        for piece in self.pieces():
            body += piece
            if len(body) > MAX_ANSWER:
                raise ProviderError("provider_bad_answer", seen=f"over {MAX_ANSWER} bytes")
        return bytes(body)

    def close(self) -> None:
        """Give the connection back, or end it where the answer was not read to its end."""
        self._response.close()


class Upstream:
    """Connections to the provider, one object a process, shared by all requests."""

    def __init__(self, timeouts: Timeouts) -> None:
        self._timeouts = timeouts
        self._adapter = _Adapter(pool_connections=1, pool_maxsize=_MAX_CONNECTIONS)

    def open(self, request: UpstreamRequest) -> Reply:
        """POST once, and wait for the status line. Raises ProviderError."""
        deadline = time.monotonic() + self._timeouts.total
        with _translated():
            prepared = requests.Request(
                "POST", request.url, headers=_HEADERS | request.headers, data=request.body
            ).prepare()
            wait = (CONNECT_TIMEOUT, min(self._timeouts.first_byte, self._timeouts.total))
            response = self._adapter.send(prepared, stream=True, timeout=wait)
        return Reply(response, self._timeouts, deadline)


@contextmanager
def _translated() -> Iterator[None]:
    """Everything foreign becomes a ProviderError; `from None`, since it may quote URL and key."""
    try:
        yield
    except (requests.RequestException, HTTPError, OSError, ValueError) as error:
        raise ProviderError(_code_of(error), seen=type(error).__name__) from None


def _code_of(error: Exception) -> str:
    reason = getattr(error.args[0], "reason", None) if error.args else None
    nothing_was_sent = isinstance(reason, NewConnectionError) or "CERTIFICATE" in str(reason)
    if isinstance(error, requests.ConnectTimeout) or nothing_was_sent:
        return "provider_unreachable"
    if isinstance(error, requests.Timeout | ReadTimeoutError | TimeoutError):
        return "provider_timeout"
    return "provider_failed"


class _HTTPConnection(HTTPConnection):
    """Hands its socket on with the response: the timeout between reads is another than before."""

    def getresponse(self) -> Any:
        return _with_socket(self.sock, super().getresponse())


class _HTTPSConnection(HTTPSConnection):
    """The same, with TLS."""

    def getresponse(self) -> Any:
        return _with_socket(self.sock, super().getresponse())


def _with_socket(sock: Any, response: Any) -> Any:
    response.sock = sock
    return response


class _Adapter(HTTPAdapter):
    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": _HTTPPool, "https": _HTTPSPool}


class _HTTPPool(HTTPConnectionPool):
    ConnectionCls = _HTTPConnection


class _HTTPSPool(HTTPSConnectionPool):
    ConnectionCls = _HTTPSConnection
