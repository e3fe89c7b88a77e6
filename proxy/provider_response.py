"""A provider's HTTP response, read by http.client, with what that lacks."""

import io
import re
import time
from http.client import HTTPResponse
from typing import Any

_AT_ONCE = 0.0001  # seconds of a read that has not waited


class _Source(io.RawIOBase):
    """A socket's bytes. A read that did not wait lets other greenlets run. Otherwise a provider
    that sends without end would block the worker, even with interim responses or trailers."""

    may_read = True

    def __init__(self, raw: Any) -> None:
        self._raw = raw

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        if not self.may_read:
            return None
        asked_at = time.monotonic()
        count: int | None = self._raw.readinto(buffer)
        if time.monotonic() < asked_at + _AT_ONCE:
            time.sleep(0)
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


class ProviderResponse(HTTPResponse):
    """Sets `repeats_until` and `is_kept` of its connection."""

    def __init__(self, connection: Any, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._connection = connection
        self._source = _Source(self.fp.detach())
        self.fp: Any = io.BufferedReader(self._source)

    def begin(self) -> None:
        """Pass over each interim response (RFC 9110, 15.2). http.client does so for 100 only, and
        what followed another would be the response to the next request."""
        if self.fp.peek():  # the provider is at work
            self._connection.repeats_until = 0.0
        super().begin()
        while 101 < self.status < 200:
            self.headers = self.msg = None  # type: ignore[assignment]
            super().begin()
        self.will_close = self.will_close or self.status == 101

    def read1(self, n: int = -1) -> bytes:
        """All chunks that have arrived. http.client reads one of them, and so mostly one token."""
        read = [super().read1(n)]
        while self.chunk_left == 0 and (n := n - len(read[-1])) > 0:
            if not _NEXT_CHUNK.match(self._received()):
                break
            read.append(super().read1(n))
        return b"".join(read)

    def _received(self) -> bytes:
        """What has arrived and is not read yet."""
        self._source.may_read = False
        received: bytes = self.fp.peek()
        self._source.may_read = True
        return received

    def _close_conn(self) -> None:
        """http.client calls it at the end of the body. Bytes after that belong to no response."""
        self._connection.is_kept = not self._received()
        super()._close_conn()  # type: ignore[misc]


# RFC 9112, 7.1: the end of a chunk, the size of the next (not 0, the last one's), and a byte of it
_NEXT_CHUNK = re.compile(rb"\r\n0*[1-9A-Fa-f][0-9A-Fa-f]{0,7}(?:;[^\r\n]*)?\r\n.", re.DOTALL)
