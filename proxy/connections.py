"""The connections to the provider: extends requests and urllib3.

Each method that differs from its base class says why.
"""

import queue
import ssl
import time
from contextlib import suppress
from functools import cache, partial
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from requests.utils import DEFAULT_CA_BUNDLE_PATH
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ConnectTimeoutError, HTTPError
from urllib3.util import create_urllib3_context

from proxy.provider_response import ProviderResponse

CONNECT_TIMEOUT = 3.0  # seconds for each address, and for each step of TLS
_SEND_TIMEOUT = 600.0  # seconds for a body; the watchdog allows less
_STALE = 1.0  # seconds in which a kept connection shows that the provider has closed it
_MAX_CONNECTIONS = 1000  # kept alive: as many as gunicorn's gevent worker serves at once
_LOST = (ConnectionError, ssl.SSLEOFError)  # refused, reset, or closed


class _Connection:
    """A connection that tries once more where the provider cannot have begun to work."""

    sock: Any
    timeout: Any  # seconds for the next step; urllib3 sets it for the reading
    is_kept = False  # it has brought a response, and nothing more than that
    repeats_until = 0.0  # monotonic; if it is lost before that, the request is sent again

    def connect(self) -> None:
        """Raises ConnectTimeoutError, whatever the reason: requests takes it for `not sent`."""
        self.is_kept, self.timeout = False, CONNECT_TIMEOUT
        for is_last in (False, True):  # pragma: no branch
            try:
                return super().connect()  # type: ignore[misc, no-any-return]
            except (HTTPError, OSError) as error:
                self.close()  # type: ignore[attr-defined]
                if is_last or not isinstance(error.__cause__ or error, _LOST):
                    raise ConnectTimeoutError from error

    def request(self, *args: Any, **options: Any) -> None:
        if self.sock is None:  # not while it sends: a second try would forget what it has begun
            self.connect()
        self.repeats_until = time.monotonic() + _STALE if self.is_kept else 0.0
        self.timeout = _SEND_TIMEOUT
        self._repeat: Any = partial(self.request, *args, **options)
        self._pieces: list[bytes] = []
        super().request(*args, **options)  # type: ignore[misc]
        with suppress(*_LOST):  # as urllib3 does, but for TLS: reading shows how it ended
            super().send(b"".join(self._pieces))  # type: ignore[misc]
        self._pieces.clear()

    def send(self, data: bytes) -> None:
        """Head and body leave together: over TLS, a second record takes 7 % of a request."""
        self._pieces.append(data)

    def getresponse(self) -> Any:
        """Send again if the server had already closed a kept connection; some do so silently."""
        timeout = self.timeout
        try:
            return super().getresponse()  # type: ignore[misc]
        except _LOST:
            if time.monotonic() >= self.repeats_until:
                raise
            self.close()  # type: ignore[attr-defined]
            self._repeat()
            self.timeout = timeout
            return super().getresponse()  # type: ignore[misc]
        finally:
            self._repeat = None  # it holds the body

    def response_class(self, *args: Any, **options: Any) -> ProviderResponse:
        return ProviderResponse(self, *args, **options)

    @property
    def is_connected(self) -> bool:
        """Whether it may be used again: nothing came after its last response, no end either."""
        if self.sock and self.is_kept:
            self.sock.settimeout(0)
            try:
                self.sock.recv(1)
            except OSError as error:
                return isinstance(error, BlockingIOError | ssl.SSLWantReadError)
        return False


class _Idle(queue.LifoQueue[Any]):
    """Connections that wait for a request, without the pool's placeholders for new ones."""

    def _put(self, connection: Any) -> None:
        if connection is not None:
            super()._put(connection)

    def _get(self) -> Any:
        """The connection used last. Connections that the provider closed are closed first."""
        while len(self.queue) > 1 and not self.queue[0].is_connected:
            self.queue.pop(0).close()
        return super()._get()


def _extended(pool: Any, connection: Any) -> Any:
    connection = type(connection.__name__, (_Connection, connection), {})
    return type(pool.__name__, (pool,), {"ConnectionCls": connection, "QueueCls": _Idle})


class Adapter(HTTPAdapter):
    """Has one TLS context for all connections, and does not load certificates for each request."""

    def __init__(self, ca_bundle: str = "") -> None:
        """`ca_bundle`: a file of certificates to trust besides the usual ones."""
        super().__init__()
        tls = create_urllib3_context()  # one for all: loading the certificates takes 20 ms
        tls.load_verify_locations(DEFAULT_CA_BUNDLE_PATH)
        if ca_bundle:
            tls.load_verify_locations(ca_bundle)
        self.init_poolmanager(1, _MAX_CONNECTIONS, ssl_context=tls)
        self.poolmanager.pool_classes_by_scheme = {
            "http": _extended(HTTPConnectionPool, HTTPConnection),
            "https": _extended(HTTPSConnectionPool, HTTPSConnection),
        }
        self.pool = cache(self.poolmanager.connection_from_url)

    def get_connection_with_tls_context(self, request: Any, *args: Any, **options: Any) -> Any:
        return self.pool(request.url)

    def build_response(self, request: Any, response: Any) -> requests.Response:
        """Without the cookies, which take time."""
        built = requests.Response()
        built.status_code, built.raw, built.headers = response.status, response, response.headers
        built.request = request  # `responses` needs it
        return built

    def cert_verify(self, *args: Any, **options: Any) -> None:
        """Nothing to do: the context has the certificates."""
