"""The connections to the provider: extends requests and urllib3.

Each class changes what its base class does in one respect; its docstring says which.
"""

import queue
import ssl
import time
from functools import partial
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from requests.utils import DEFAULT_CA_BUNDLE_PATH
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import HTTPError, NewConnectionError
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
    timeout: Any
    is_kept = False  # it has brought a response, and nothing more than that
    is_reused = False  # it was kept when the present request was sent
    is_answered = False  # a byte of the present response has come

    def connect(self) -> None:
        """Raises NewConnectionError."""
        self.is_kept = False
        for is_last in (False, True):  # pragma: no branch
            try:
                return super().connect()  # type: ignore[misc, no-any-return]
            except (HTTPError, OSError) as error:
                self.close()  # type: ignore[attr-defined]
                if is_last or not isinstance(error.__cause__ or error, _LOST):
                    raise NewConnectionError(self, "") from error  # type: ignore[arg-type]

    def request(self, *args: Any, **options: Any) -> None:
        self._write: Any = partial(super().request, *args, **options)  # type: ignore[misc]
        self._sent_at, self.is_answered = time.monotonic(), False
        if self.sock is None:  # not while it sends: a second try would forget what it has begun
            self.connect()
        self.is_reused, self.is_kept = self.is_kept, False
        self._send_all()

    def _send_all(self) -> None:
        """Head and body leave together: in one call of the kernel, and one record of TLS."""
        self.timeout = _SEND_TIMEOUT  # urllib3 would allow it no longer than to connect
        self._pieces: list[bytes] = []
        self._write()
        super().send(b"".join(self._pieces))  # type: ignore[misc]
        self._pieces.clear()

    def send(self, data: Any) -> None:
        self._pieces.append(data)

    def getresponse(self) -> Any:
        """Send again if the server had already closed a kept connection; some do so silently."""
        try:
            return super().getresponse()  # type: ignore[misc]
        except _LOST:
            soon = time.monotonic() < self._sent_at + _STALE
            if not self.is_reused or self.is_answered or not soon:
                raise
            self.close()  # type: ignore[attr-defined]
            timeout, self.timeout = self.timeout, CONNECT_TIMEOUT
            self.connect()
            self._send_all()
            self.timeout = timeout
            return super().getresponse()  # type: ignore[misc]
        finally:
            self._write = None  # it holds the body

    def response_class(self, *args: Any, **options: Any) -> ProviderResponse:
        return ProviderResponse(self, *args, **options)

    @property
    def is_connected(self) -> bool:
        """Whether it may be used again: nothing came after its last response, no end either."""
        if self.sock is None or not self.is_kept:
            return False
        self.sock.settimeout(0)
        try:
            self.sock.recv(1)
        except (BlockingIOError, ssl.SSLWantReadError):
            return True
        except OSError:
            pass
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
    """Has one TLS context for all connections, and prepares no more than is needed."""

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
        self.pools: dict[str, Any] = {}  # by URL: one for each model
        self._paths: dict[str, str] = {}

    def get_connection_with_tls_context(self, request: Any, *args: Any, **options: Any) -> Any:
        if request.url not in self.pools:
            pool = super().get_connection_with_tls_context(request, *args, **options)
            self.pools[request.url] = pool
        return self.pools[request.url]

    def request_url(self, request: Any, proxies: Any) -> str:
        if request.url not in self._paths:
            self._paths[request.url] = super().request_url(request, proxies)
        return self._paths[request.url]

    def build_response(self, request: Any, response: Any) -> requests.Response:
        """Without cookies, encoding and history, which take time and are not used."""
        built = requests.Response()
        built.status_code, built.raw, built.request = response.status, response, request
        built.headers = response.headers  # in any case, as requests' own
        return built

    def cert_verify(self, *args: Any, **options: Any) -> None:
        """Nothing to do: the context has the certificates."""
