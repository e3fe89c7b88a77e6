"""The way to the provider and back: the only room that imports requests.

requests' adapter is used without its Session: so there are no redirects, no cookies, no netrc and
no proxy or CA variables of the environment to be switched off, and no time spent on them.
"""

import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from http.client import HTTPResponse
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ConnectTimeoutError, HTTPError, NewConnectionError

from proxy import watch
from proxy.errors import ClientGone, OperatorError, ProviderError
from proxy.providers import UpstreamRequest
from proxy.watch import Call

CONNECT_TIMEOUT = 3.0  # seconds
MAX_ANSWER = 8 * 1024**2  # bytes
_MAX_CONNECTIONS = 1000  # kept alive: as many as gunicorn's gevent worker serves at once
_READ_SIZE = 64 * 1024
_LINGER = 0.25  # seconds for the end of a stream whose [DONE] has come
_HEADERS = {
    "Content-Type": "application/json",
    "Accept": "application/json, text/event-stream",
    "Accept-Encoding": "identity",  # a provider that compresses a stream holds it back
    "User-Agent": "llm-proxy",
}


class Reply:
    """The provider's answer, its body not yet read. Close it, whatever happens."""

    def __init__(self, response: requests.Response, call: Call) -> None:
        self.status = response.status_code
        self.headers: Mapping[str, str] = response.headers
        self._raw = response.raw
        self._call = call

    @property
    def is_event_stream(self) -> bool:
        return self.headers.get("Content-Type", "").lower().startswith("text/event-stream")

    def pieces(self) -> Iterator[bytes]:
        """The body as it comes: read1 alone does not wait for more, in all framings.

        Raises ProviderError, ClientGone.
        """
        while piece := self._read():
            self._call.give_way()
            self._call.await_client()
            yield piece
            self._call.await_provider(self._call.timeouts.idle)

    def _read(self) -> bytes:
        with _translated(self._call):
            piece: bytes = self._raw.read1(_READ_SIZE, decode_content=True)
        if self._raw.connection is None:  # it went back to the pool, and may be another call's
            self._call.provider = None
        return piece

    def read(self) -> bytes:
        """The whole body. Raises ProviderError, also where it is over MAX_ANSWER; ClientGone."""
        body = bytearray()
        for piece in self.pieces():
            body += piece
            if len(body) > MAX_ANSWER:
                raise ProviderError("provider_bad_answer", seen=f"over {MAX_ANSWER} bytes")
        return bytes(body)

    def close(self) -> None:
        """Give the connection back where the answer is at its end or about to be, else end it."""
        sock = self._call.provider
        if sock is not None:
            with suppress(OSError, ProviderError, OperatorError, ClientGone):
                sock.settimeout(_LINGER)
                self._read()
        self._raw.close()
        self._raw.release_conn()


class Upstream:
    """Connections to the provider, one object a process, shared by all requests."""

    def __init__(self) -> None:
        self._adapter = _Adapter(pool_connections=1, pool_maxsize=_MAX_CONNECTIONS)

    def open(self, request: UpstreamRequest, call: Call) -> Reply:
        """POST, and wait for the status line. Raises ProviderError, ClientGone."""
        call.begin()
        _call.set(call)
        with _translated(call):
            prepared = requests.Request(
                "POST", request.url, headers=_HEADERS | request.headers, data=request.body
            ).prepare()
            # The watch bounds all waits but that for a connection, which has no socket yet.
            response = self._adapter.send(prepared, stream=True, timeout=(CONNECT_TIMEOUT, None))
        return Reply(response, call)


@contextmanager
def _translated(call: Call) -> Iterator[None]:
    """Everything foreign becomes one of ours; `from None`, since it may quote URL and key."""
    try:
        yield
    except (requests.RequestException, HTTPError, OSError, ValueError) as error:
        code = "provider_failed" if call.sent else "provider_unreachable"
        raise call.reason() or ProviderError(code, seen=type(error).__name__) from None
    if reason := call.reason():  # a socket that was shut down looks like the end of an answer
        raise reason


_call: ContextVar[Call] = ContextVar("call")  # requests passes nothing on to its connections


class _GivingWay(io.RawIOBase):
    """A provider's bytes, with a pause where it makes none: http.client reads interim answers and
    trailers in a loop of its own, without end where they have none."""

    def __init__(self, raw: Any, call: Call) -> None:
        super().__init__()
        self._raw = raw
        self._call = call

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._call.give_way()
        count: int | None = self._raw.readinto(buffer)
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Response(HTTPResponse):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fp = io.BufferedReader(_GivingWay(self.fp.detach(), _call.get()))


class _Watched:
    """A connection that tells its call of its socket, and when the request leaves."""

    response_class: Any = _Response
    sock: Any
    owner: Call | None = None

    def connect(self) -> None:
        """Once more where it was refused or reset: nothing was sent. Both share the time, as do
        all addresses and TLS: the sockets' own timeout is for each wait."""
        with watch.timeout(CONNECT_TIMEOUT, ConnectTimeoutError()):
            try:
                super().connect()  # type: ignore[misc]
            except (NewConnectionError, ConnectionError) as error:
                if not isinstance(error.__cause__ or error, ConnectionError):
                    raise
                super().connect()  # type: ignore[misc]

    def request(self, *args: Any, **kwargs: Any) -> None:
        if self.sock is None:
            self.connect()
        call = _call.get()
        if self.owner:  # it was in the pool, and its last call may not have let go of it yet
            self.owner.provider = None
        self.owner, call.provider = call, self.sock
        call.sent = True
        self.sock.settimeout(None)
        super().request(*args, **kwargs)  # type: ignore[misc]


class _HTTPConnection(_Watched, HTTPConnection):
    pass


class _HTTPSConnection(_Watched, HTTPSConnection):
    pass


class _HTTPPool(HTTPConnectionPool):
    ConnectionCls = _HTTPConnection


class _HTTPSPool(HTTPSConnectionPool):
    ConnectionCls = _HTTPSConnection


class _Adapter(HTTPAdapter):
    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": _HTTPPool, "https": _HTTPSPool}
