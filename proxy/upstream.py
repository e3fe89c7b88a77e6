"""The call to the provider, with requests: sends a POST, and reads its response as it comes.

The adapter is used without a Session: so there are no redirects, no cookies, no netrc, and no proxy
or CA variables of the environment.
"""

import ssl
from collections.abc import Iterator
from contextlib import suppress

import requests
from requests.structures import CaseInsensitiveDict
from urllib3.exceptions import HTTPError, ReadTimeoutError

from proxy import __version__
from proxy.connections import Adapter
from proxy.errors import ProviderError, ProxyError
from proxy.providers import UpstreamRequest
from proxy.watchdog import Call

_READ_SIZE = 64 * 1024  # bytes
_LINGER = 0.25  # seconds for the end of a stream whose [DONE] has come
_HEADERS = {
    "Content-Type": "application/json",
    "Accept": "application/json, text/event-stream",
    "Accept-Encoding": "identity",  # a provider that compresses a stream holds it back
    "User-Agent": f"llm-proxy/{__version__}",
}
_FAILURES = (HTTPError, OSError, ValueError)  # urllib3's, requests' and the system's, a bad URL


class Reply:
    """The provider's response, its body not yet read. It must be closed."""

    def __init__(self, response: requests.Response, call: Call) -> None:
        self.status, self.headers = response.status_code, response.headers
        self._response, self._call = response, call

    @property
    def is_event_stream(self) -> bool:
        return self.headers.get("Content-Type", "").lower().startswith("text/event-stream")

    def pieces(self) -> Iterator[bytes]:
        """The body as it comes. Raises ProxyError."""
        try:  # only read1 never waits for more than there is
            while piece := self._response.raw.read1(_READ_SIZE, decode_content=True):
                self._call.await_client()
                yield piece
                self._call.await_provider(self._call.timeouts.idle)
        except _FAILURES as error:
            raise _failure(error, self._call) from None

    def close(self) -> None:
        """Keep the connection if the response is at its end or about to be, else close it."""
        if self._call.is_watched and not (self._response.raw.closed or self._call.end_reason):
            self._call.await_provider(_LINGER)
            with suppress(ProxyError):
                next(self.pieces(), None)
        self._response.close()


class Upstream:
    """Calls the provider. A process has one, which all requests share."""

    def __init__(self, ca_bundle: str = "") -> None:
        """`ca_bundle`: a file of certificates to trust besides the usual ones."""
        self._adapter = Adapter(ca_bundle)

    def open(self, request: UpstreamRequest, call: Call) -> Reply:
        """POST, and wait for the status line. Raises ProxyError."""
        prepared = requests.PreparedRequest()  # its fields are ready, and prepare() is slow
        prepared.method, prepared.url, prepared.body = "POST", request.url, request.body
        prepared.headers = CaseInsensitiveDict(_HEADERS | request.headers)
        prepared.headers["Content-Length"] = str(len(request.body))
        call.await_first_byte()
        timeout = None if call.is_watched else call.timeouts.first_byte
        try:
            return Reply(self._adapter.send(prepared, stream=True, timeout=timeout), call)
        except _FAILURES as error:
            raise _failure(error, call) from None
        finally:
            prepared.body = None  # the response keeps its request


def _failure(error: Exception, call: Call) -> Exception:
    """The error in our form. Raise it `from None`: the original may quote the key."""
    call.await_client()  # nothing more is awaited from the provider
    code = "provider_failed"
    if isinstance(error, requests.ConnectTimeout):  # nothing was sent
        code = "provider_unreachable"
    if isinstance(error, requests.ReadTimeout | ReadTimeoutError):
        code = "provider_timeout"
    root: BaseException = error
    while cause := root.__cause__ or root.__context__:  # what requests and urllib3 have wrapped
        root = cause
    is_untrusted = isinstance(root, ssl.SSLCertVerificationError)
    fix = "LLAMA_PROVIDER_CA_BUNDLE, or the provider's certificate" if is_untrusted else ""
    return call.end_reason or ProviderError(code, seen=type(root).__name__, fix=fix)
