"""A logging handler that never waits: a log that nobody reads must not stop the proxy."""

import io
import logging
import os
import select
from contextlib import suppress
from typing import Any, TextIO

import gevent
from gevent import monkey

_MOST = 64 * 1024  # bytes of lines that wait for room
_PIECE = 4096  # bytes. A pipe that is writable has room for as many, so the write does not wait
_PAUSE = 0.1  # seconds until another try


class NonBlockingHandler(logging.Handler):
    """Keeps the lines that find no room. Beyond 64 KiB it drops and counts lines; when all that
    it kept is written, it logs the count.

    The descriptor stays as it is: O_NONBLOCK would also hold for the other processes that share it.
    A terminal may be writable with too little room for a line, so it is opened anew.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        descriptor = stream.fileno()
        if stream.isatty():
            flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY
            with suppress(OSError):
                descriptor = os.open(f"/dev/fd/{descriptor}", flags)
        self._file = io.FileIO(descriptor, "w", closefd=False)
        self._poll = monkey.get_original("select", "poll")()  # gevent's would switch greenlets
        self._poll.register(self._file, select.POLLOUT)
        self._waiting = b""
        self._dropped = 0
        self._timer: Any = None

    def emit(self, record: logging.LogRecord) -> None:
        self.flush()
        line = self._line(record)
        if self._dropped or (self._waiting and len(self._waiting) + len(line) > _MOST):
            self._dropped += 1
        else:
            self._waiting += line
        self.flush()

    def flush(self) -> None:
        """Write what there is room for, and try again later if something is left."""
        self._write()
        if self._dropped and not self._waiting:
            text = f"{self._dropped} log lines were dropped, because nothing read the log."
            note = logging.LogRecord("proxy", logging.WARNING, "", 0, text, None, None)
            self._dropped, self._waiting = 0, self._line(note)
            self._write()
        if self._timer and not self._waiting:
            self._timer.close()
            self._timer = None
        elif self._waiting and not self._timer and isinstance(gevent.getcurrent(), gevent.Greenlet):
            self._timer = gevent.get_hub().loop.timer(_PAUSE, _PAUSE)
            self._timer.start(self.flush)

    def close(self) -> None:
        """At exit, give the reader up to a second for each piece."""
        self._write(patience=1000)
        self.flush()
        super().close()

    def _line(self, record: logging.LogRecord) -> bytes:
        return f"{self.format(record)}\n".encode("utf-8", "backslashreplace")

    def _write(self, patience: int = 0) -> None:
        """`patience`: milliseconds to wait for room."""
        with suppress(OSError):  # the reader is gone
            while self._waiting and self._poll.poll(patience):
                end = self._waiting.rfind(b"\n", 0, _PIECE) + 1  # other workers write to it too
                written = self._file.write(self._waiting[: end or _PIECE])
                if written is None:  # no room after all
                    break
                self._waiting = self._waiting[written:]
