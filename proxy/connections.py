"""Connections to the provider: requests' pools, of connections that tell their call what they do.

The only room that imports requests. Its adapter is used without its Session, for its pools and its
CA bundle: so there are no redirects, no cookies, no netrc and no proxy or CA variables of the
environment to be switched off, and no time spent on them.
"""

import io
import re
from collections.abc import Mapping
from contextvars import ContextVar
from http.client import HTTPResponse
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ConnectTimeoutError, HTTPError, NewConnectionError
from urllib3.response import BaseHTTPResponse
from urllib3.util import Retry, Timeout

from proxy import watch
from proxy.watch import Call

CONNECT_TIMEOUT = 3.0  # seconds
FAILURES = (HTTPError, OSError, ValueError)  # all that is raised here, and by reading a response
_MAX_CONNECTIONS = 1000  # kept alive: as many as gunicorn's gevent worker serves at once
_NO_RETRIES = Retry(False, redirect=False)


class Connections:
    """Those of one process, shared by all requests."""

    def __init__(self) -> None:
        self._adapter = _Adapter(pool_connections=1, pool_maxsize=_MAX_CONNECTIONS)
        # The watch bounds all waits but that for a connection, which has no socket yet.
        self._timeout = Timeout(connect=CONNECT_TIMEOUT, read=None)
        self._targets: dict[str, tuple[Any, str]] = {}  # by URL: one for each model

    def post(
        self, url: str, headers: Mapping[str, str], body: bytes, call: Call
    ) -> BaseHTTPResponse:
        """Up to the status line. Raises one of FAILURES."""
        _call.set(call)
        pool, path = self._target(url)
        response: BaseHTTPResponse = pool.urlopen(
            "POST",
            path,
            body=body,
            headers=headers,
            retries=_NO_RETRIES,
            redirect=False,
            assert_same_host=False,  # it is: the pool was found by the URL
            timeout=self._timeout,
            preload_content=False,
        )
        return response

    def _target(self, url: str) -> tuple[Any, str]:
        """The connections to the URL's host, and its path."""
        if url not in self._targets:
            prepared = requests.Request("POST", url).prepare()
            pool = self._adapter.get_connection_with_tls_context(prepared, verify=True)
            self._adapter.cert_verify(pool, url, verify=True, cert=None)  # type: ignore[no-untyped-call]
            self._targets[url] = pool, prepared.path_url
        return self._targets[url]


_call: ContextVar[Call] = ContextVar("call")  # requests passes nothing on to its connections


class _Source(io.RawIOBase):
    """A provider's bytes, with a pause where it makes none: http.client reads interim answers and
    trailers in a loop of its own, without end where they have none."""

    def __init__(self, raw: Any, call: Call) -> None:
        super().__init__()
        self._raw = raw
        self._call = call
        self.may_wait = True

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        return self._call.read(self._raw, buffer) if self.may_wait else None

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Response(HTTPResponse):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._source = _Source(self.fp.detach(), _call.get())
        self.fp: Any = io.BufferedReader(self._source)

    def read1(self, n: int = -1) -> bytes:
        """All that has come, where http.client would give one chunk, and so mostly one token."""
        pieces = [super().read1(n)]
        while self.chunked and (n := n - len(pieces[-1])) > 0 and self._has_next_chunk():
            pieces.append(super().read1(n))
        return b"".join(pieces)

    def _has_next_chunk(self) -> bool:
        """Whether the next chunk has come, its size and some of its bytes; it does not wait."""
        if self.chunk_left != 0:  # there is more of this one, or no more at all
            return False
        self._source.may_wait = False
        come = self.fp.peek()
        self._source.may_wait = True
        return _NEXT_CHUNK.match(come) is not None


# RFC 9112, 7.1: the end of a chunk, the size of the next (not 0, the last one's), and a byte of it
_NEXT_CHUNK = re.compile(rb"\r\n0*[1-9A-Fa-f][0-9A-Fa-f]{0,7}(?:;[^\r\n]*)?\r\n.", re.DOTALL)


class _Watched:
    """A connection that tells its call of its socket, and when the request leaves."""

    response_class: Any = _Response
    sock: Any
    owner: Call | None = None
    _to_send: list[bytes]

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
        self._to_send = []
        super().request(*args, **kwargs)  # type: ignore[misc]
        self.sock.sendall(b"".join(self._to_send))

    def send(self, data: Any) -> None:
        """Head and body leave together, once both are there: the kernel is called once."""
        self._to_send.append(data)

    @property
    def is_connected(self) -> bool:
        """Whether nothing came since the last answer: an end, mostly. (gevent's own poll, which
        urllib3 would use, sets up a greenlet's wait only to ask.)"""
        return self.sock is not None and not watch.is_readable(self.sock)


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
