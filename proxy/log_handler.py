"""A logging handler that never waits: a log that nobody reads must not stop the proxy."""

import logging
import os
import select
from typing import TextIO

from gevent import monkey

_MOST = 4096  # bytes of a line (PIPE_BUF): a pipe takes as many at once, and in one piece


class NonBlockingHandler(logging.Handler):
    """Drops lines while the pipe is full, and then logs how many they were.

    The descriptor is polled and not set to O_NONBLOCK, because other processes share it.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._descriptor = stream.fileno()
        self._poll = monkey.get_original("select", "poll")()  # gevent's would switch greenlets
        self._poll.register(self._descriptor, select.POLLOUT)
        self._dropped = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.flush()
        if self._dropped or not self._write(record):
            self._dropped += 1

    def flush(self) -> None:
        """Log the number of dropped lines; at exit the logging module calls this too."""
        if self._dropped:
            text = f"{self._dropped} log lines were dropped, because nothing read the log."
            note = logging.LogRecord("proxy", logging.WARNING, "", 0, text, None, None)
            self._dropped = 0 if self._write(note) else self._dropped

    def _write(self, record: logging.LogRecord) -> bool:
        """Whether there was room."""
        line = self.format(record).encode("utf-8", "backslashreplace")[: _MOST - 1] + b"\n"
        try:
            return bool(self._poll.poll(0)) and os.write(self._descriptor, line) == len(line)
        except OSError:  # the reader is gone
            return False
