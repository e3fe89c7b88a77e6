"""A logging handler that never waits: a log that nobody reads must not stop the proxy."""

import io
import logging
import select
from collections.abc import Iterable
from typing import TextIO

from gevent import monkey

_PIECE = 4096  # bytes. A pipe that is writable has room for as many, so the write does not wait


class NonBlockingHandler(logging.Handler):
    """Drops the lines that find no room, counts them, and logs the count when there is room again.

    The descriptor stays as it is: O_NONBLOCK would also hold for the other processes that share it.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._file = io.FileIO(stream.fileno(), "w", closefd=False)
        self._poll = monkey.get_original("select", "poll")()  # gevent's would switch greenlets
        self._poll.register(self._file, select.POLLOUT)
        self._rest = b""  # of a line that found room only in part
        self._dropped = 0

    def emit(self, record: logging.LogRecord) -> None:
        if not self._send([record]):
            self._dropped += 1

    def flush(self) -> None:
        """Called at exit: write what is left, if there is room."""
        self._send([])

    def _send(self, records: Iterable[logging.LogRecord]) -> bool:
        """Whether they were written, at least in part."""
        self._rest = self._write(self._rest)
        if self._rest:
            return False
        if self._dropped:
            text = f"{self._dropped} log lines were dropped, because nothing read the log."
            note = logging.LogRecord("proxy", logging.WARNING, "", 0, text, None, None)
            records = [note, *records]
        lines = "".join(f"{self.format(record)}\n" for record in records)
        data = lines.encode("utf-8", "backslashreplace")
        rest = self._write(data)
        if data and rest == data:
            return False
        self._rest, self._dropped = rest, 0
        return True

    def _write(self, data: bytes) -> bytes:
        """Write what there is room for. Returns the rest."""
        try:
            while data and self._poll.poll(0):
                data = data[self._file.write(data[:_PIECE]) or 0 :]
        except OSError:  # the reader is gone
            pass
        return data
