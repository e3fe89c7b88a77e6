"""Ends requests that take too long, whose client has left, or that a restart cannot wait for.

An exception is raised in the request's own greenlet, where it waits: so the modules that read
and write need no code for it. Without gevent, as under `flask run`, requests' own timeouts hold.
"""

import errno
import select
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from math import inf
from typing import Any, NamedTuple

import gevent
from gevent import monkey

from proxy.errors import CallerError, ClientGone, OperatorError, ProviderError

INTERVAL = 0.1  # seconds between two looks at all calls
CLIENT_TIMEOUT = 60.0  # seconds for a client to send its body, and to read each piece of an answer
BODY_GRACE = 2.0  # seconds after SIGTERM for what has not come: a request, or the rest of its body
_CLIENT_LEFT = getattr(select, "POLLRDHUP", 0)  # Linux reports a half-close; others only POLLHUP

# What ends a wait that has lasted too long.
_BODY_LATE = partial(CallerError, "invalid_json", "The request body did not arrive in time.")
_PROVIDER_LATE = partial(ProviderError, "provider_timeout", seen="our deadline")


class Timeouts(NamedTuple):
    """How long a provider may take, in seconds."""

    first_byte: float
    idle: float
    total: float


class Call:
    """One request, from its body to the end of its answer. Each of its waits has a deadline."""

    timeouts: Timeouts
    _began: float  # monotonic, as all times here

    def __init__(self, seconds: float = CLIENT_TIMEOUT, *, is_watched: bool = False) -> None:
        self.is_watched = is_watched
        self.end_reason: Exception | None = None  # set when the watchdog ends it
        self.late_error: Callable[[], Exception] = _BODY_LATE
        self.ends = time.monotonic() + seconds
        self._greenlet: Any = gevent.getcurrent()

    def begin(self, timeouts: Timeouts) -> None:
        """The body has come: the provider's time begins, for all tries together."""
        self.timeouts, self._began = timeouts, time.monotonic()

    def await_first_byte(self) -> None:
        self.await_provider(self._began + self.timeouts.first_byte - time.monotonic())

    def await_provider(self, seconds: float) -> None:
        now, total_ends = time.monotonic(), self._began + self.timeouts.total
        if now >= total_ends and not self.is_watched:
            raise _PROVIDER_LATE()
        self.ends, self.late_error = min(now + seconds, total_ends), _PROVIDER_LATE

    def await_client(self) -> None:
        """Wait for the client to read a piece. Only its departure or CLIENT_TIMEOUT ends that."""
        self.ends, self.late_error = time.monotonic() + CLIENT_TIMEOUT, ClientGone

    def end(self, reason: Exception) -> None:
        """Raise where the call waits. Only the hub may call this."""
        self.end_reason = self.end_reason or reason
        # An OSError is what libraries clean up after: after any other, gevent leaves the
        # descriptor of half a TLS handshake open. gunicorn ignores this one where it sends.
        self._greenlet.throw(OSError(errno.ENOTCONN, "the watchdog ended this call"))


class Watchdog:
    """Looks at all calls of this process, ten times a second."""

    def __init__(self) -> None:
        self._calls: dict[int, Call] = {}  # by the descriptor of the client's socket
        self._restarts_at: dict[Any, float] = {}  # by the `late_error` of a call
        self._poll: Any = None
        self._timer: Any = None

    @contextmanager
    def watch(
        self, client: socket.socket | None, seconds: float = CLIENT_TIMEOUT
    ) -> Iterator[Call]:
        """A call, which may be ended until the block is left. `client`: its socket, if known;
        `seconds`: how long it may take to begin."""
        if client is None or not isinstance(gevent.getcurrent(), gevent.Greenlet):
            yield Call()
            return
        if self._timer is None:  # not before: gunicorn forks, and a hub belongs to one process
            self._poll = monkey.get_original("select", "poll")()  # gevent's waits
            self._timer = gevent.get_hub().loop.timer(INTERVAL, INTERVAL)
            self._timer.start(self._look)
        descriptor = client.fileno()
        call = self._calls[descriptor] = Call(seconds, is_watched=True)
        self._poll.register(descriptor, _CLIENT_LEFT)
        try:
            yield call
        finally:
            del self._calls[descriptor]
            self._poll.unregister(descriptor)

    def restart_in(self, seconds: float) -> None:
        """End the calls that are still open then; bodies have BODY_GRACE at most."""
        now = time.monotonic()
        bodies_end = now + min(seconds, BODY_GRACE)
        self._restarts_at = {_BODY_LATE: bodies_end, _PROVIDER_LATE: now + seconds}

    def _look(self) -> None:
        """Runs in the hub, while all greenlets wait."""
        left, now = dict(self._poll.poll(0)), time.monotonic()
        for descriptor, call in list(self._calls.items()):
            if descriptor in left and call.late_error is not _BODY_LATE:  # a body's end can be read
                call.end(ClientGone())
            elif now >= call.ends:
                call.end(call.late_error())
            elif now >= self._restarts_at.get(call.late_error, inf):
                retry = call.late_error is _BODY_LATE  # the provider was not asked
                message = "This proxy is being restarted."
                call.end(OperatorError("internal_error", message, retry=retry))
