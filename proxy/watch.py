"""Calls under way, watched: what takes too long is ended, and what nobody waits for any more.

A socket's own timeout bounds one read, so a provider that drips outlives it, and a client that
leaves goes unnoticed while the provider is silent. So one thread a process (a greenlet, under
gunicorn's gevent worker) looks at all calls four times a second, and ends one by shutting its
sockets down: whoever is blocked on them returns at once, and asks for the `reason`.
"""

import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from math import inf
from typing import Any, NamedTuple

import gevent
from gevent import monkey

from proxy.errors import ClientGone, OperatorError, ProviderError

INTERVAL = 0.25  # seconds between two looks
SLICE = 0.001  # seconds that one call may go on while others could
CLIENT_TIMEOUT = 60.0  # seconds for a client to send its body, and to read each piece of an answer


class Timeouts(NamedTuple):
    """How long a provider may take, in seconds."""

    first_byte: float = 130.0
    idle: float = 60.0
    total: float = 600.0


class Call:
    """One request, from its body to the end of its answer. It is somebody's turn at any time."""

    def __init__(self, timeouts: Timeouts, client: socket.socket | None) -> None:
        self.timeouts = timeouts
        self.client = client
        self.provider: socket.socket | None = None  # once there is a connection
        self.sent = False  # whether the provider may have seen the request
        self._if_late: Callable[[], Exception]
        self._reason: Callable[[], Exception] | None = None
        self._ends_at = inf  # monotonic, as all times here
        self._gives_way_at = 0.0
        self.await_client()

    def await_client(self) -> None:
        """It is the client's turn, to send or to read."""
        self._late_at, self._if_late = time.monotonic() + CLIENT_TIMEOUT, ClientGone

    def await_provider(self, seconds: float) -> None:
        """It is the provider's turn, for so long."""
        self._late_at, self._if_late = time.monotonic() + seconds, _provider_late

    def give_way(self) -> None:
        """Let others go on, this watch among them: a greenlet that need not wait never stops."""
        if time.monotonic() >= self._gives_way_at:
            time.sleep(0)
            self._gives_way_at = time.monotonic() + SLICE

    def read(self, source: Any, buffer: Any) -> int | None:
        """source.readinto(buffer); where it waits, others go on."""
        self.give_way()
        asked = time.monotonic()
        count: int | None = source.readinto(buffer)
        if (now := time.monotonic()) - asked > SLICE:
            self._gives_way_at = now + SLICE
        return count

    def begin(self) -> None:
        """The body is there: from now on the whole answer has its time, and its first byte.

        Raises the reason where the call was ended before: nothing is to be sent then.
        """
        if reason := self.reason():
            raise reason
        self._ends_at = time.monotonic() + self.timeouts.total
        self.await_provider(self.timeouts.first_byte)

    def reason(self) -> Exception | None:
        """Why the call was ended, if it was."""
        return self._reason() if self._reason else None

    def look(self, now: float, *, client_left: bool) -> None:
        """End the call if there is a reason to."""
        if client_left:
            self._end(ClientGone)
        elif now >= self._late_at:
            self._end(self._if_late)
        elif now >= self._ends_at:
            self._end(_provider_late)
        elif now >= _drained_at:
            self._end(_drained)

    def _end(self, reason: Callable[[], Exception]) -> None:
        self._reason = self._reason or reason
        _shut(self.provider)
        if reason is ClientGone:  # before there is a provider it can still be told of its body
            _shut(self.client, socket.SHUT_RDWR if self.sent else socket.SHUT_RD)


def _shut(sock: socket.socket | None, how: int = socket.SHUT_RDWR) -> None:
    if sock is not None:
        with suppress(OSError):
            socket.socket.shutdown(sock, how)  # the base class's: it leaves TLS alone


def _provider_late() -> Exception:
    return ProviderError("provider_timeout", seen="our deadline")


def _drained() -> Exception:
    return OperatorError("internal_error", "This proxy is being restarted.")


_calls: dict[int, Call] = {}  # by the descriptor of the client's socket, or a number of its own
_drained_at = inf
_thread: threading.Thread | None = None
_new_poll = monkey.get_original("select", "poll")  # gevent's own would wait, a greenlet a socket
_poll = _new_poll()
_CLIENT_LEFT = getattr(select, "POLLRDHUP", 0)  # Linux tells of a half-close, others of POLLHUP


@contextmanager
def call(timeouts: Timeouts, client: socket.socket | None = None) -> Iterator[Call]:
    """A call that is watched until the end of the block. `client`: its socket, where known."""
    call = Call(timeouts, client)
    number = client.fileno() if client else -id(call)
    _calls[number] = call
    if client:
        _poll.register(number, _CLIENT_LEFT)
    _start()
    try:
        yield call
    finally:
        del _calls[number]
        if client:
            _poll.unregister(number)


def timeout(seconds: float, error: Exception) -> AbstractContextManager[object]:
    """Raise `error` in a block that takes longer, under gevent: for waits that have no socket yet.

    It must be no OSError, since those that connect pass over these, to the next address.
    """
    timer: AbstractContextManager[object] = gevent.Timeout(seconds, error)
    return timer


def is_readable(sock: socket.socket) -> bool:
    """Whether bytes, or the end, have come; it does not wait."""
    poll = _new_poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(0))


def drain(seconds: float) -> None:
    """The process ends soon: what is still under way in so many seconds ends with an error."""
    global _drained_at
    _drained_at = time.monotonic() + seconds


def _start() -> None:
    """Lazily, since gunicorn forks: a thread does not live through that."""
    global _thread
    if _thread is None:
        _thread = threading.Thread(target=_watch, name="watch", daemon=True)
        _thread.start()


def _watch() -> None:
    while True:
        time.sleep(INTERVAL)
        calls = list(_calls.items())
        left = {number for number, _ in _poll.poll(0)} if calls else set()
        now = time.monotonic()
        for number, call in calls:
            call.look(now, client_left=number in left)
