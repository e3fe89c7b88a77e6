"""The way to the provider and back: a call's request sent, its answer read, its failures named."""

from collections.abc import Iterator, Mapping
from contextlib import suppress

from urllib3.response import BaseHTTPResponse

from proxy.connections import FAILURES, Connections
from proxy.errors import ClientGone, OperatorError, ProviderError
from proxy.providers import UpstreamRequest
from proxy.watch import Call

MAX_ANSWER = 8 * 1024**2  # bytes
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

    def __init__(self, response: BaseHTTPResponse, call: Call) -> None:
        self.status = response.status
        self.headers: Mapping[str, str] = response.headers
        self._response = response
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
        try:
            piece = self._response.read1(_READ_SIZE, decode_content=True)
        except FAILURES as error:
            raise _failure(self._call, error) from None
        if reason := self._call.reason():  # a socket that was shut down looks like an end
            raise reason
        if self._response.connection is None:  # it went back to the pool, and may be another call's
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
        self._response.close()
        self._response.release_conn()


class Upstream:
    """The provider, one object a process, shared by all requests."""

    def __init__(self) -> None:
        self._connections = Connections()

    def open(self, request: UpstreamRequest, call: Call) -> Reply:
        """POST, and wait for the status line. Raises ProviderError, ClientGone."""
        call.begin()
        headers = _HEADERS | request.headers
        try:
            response = self._connections.post(request.url, headers, request.body, call)
        except FAILURES as error:
            raise _failure(call, error) from None
        return Reply(response, call)


def _failure(call: Call, error: Exception) -> Exception:
    """What is foreign, as one of ours; raise it `from None`, since it may quote URL and key."""
    code = "provider_failed" if call.sent else "provider_unreachable"
    return call.reason() or ProviderError(code, seen=type(error).__name__)
