"""Calls under way: each is ended, where it waits, when it is late or its client has left."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from typing import Any

import gevent
import gevent.socket
import pytest
from serving import DEADLINE

from proxy import watchdog
from proxy.errors import ClientGone, ProxyError
from proxy.watchdog import Call, Timeouts, Watchdog

SHORT = 0.05  # seconds
TIMEOUTS = Timeouts(first_byte=130, idle=60, total=600)
IMPATIENT = TIMEOUTS._replace(first_byte=SHORT)
Waits = Callable[[Call], object]


class Ends:
    """A client and a provider, each with our end of its connection and its own."""

    def __init__(self, stack: ExitStack) -> None:
        self.our_client, self.client = map(stack.enter_context, gevent.socket.socketpair())
        self.our_provider, self.provider = map(stack.enter_context, gevent.socket.socketpair())

    def ended(
        self, waits: Waits, dog: Watchdog | None = None, **options: float
    ) -> tuple[str, float]:
        """Why the watchdog ended a call that does this, and after how many seconds."""

        def call() -> Exception | None:
            with (dog or Watchdog()).watch(self.our_client, **options) as call:
                with suppress(OSError):
                    waits(call)
                return call.ended

        began = time.monotonic()
        reason: Exception | None = gevent.spawn(call).get(timeout=DEADLINE)
        seconds = time.monotonic() - began
        if not isinstance(reason, ProxyError) or isinstance(reason, ClientGone):
            return type(reason).__name__, seconds
        return f"{reason.code} {reason.headers.get('X-Should-Retry')}", seconds

    def silent(self, timeouts: Timeouts) -> Waits:
        """The provider says nothing."""

        def waits(call: Call) -> None:
            call.begin(timeouts)
            call.await_first_byte()
            self.our_provider.recv(1)

        return waits

    def drips(self, timeouts: Timeouts) -> Waits:
        """The provider sends a byte now and then."""

        def waits(call: Call) -> None:
            call.begin(timeouts)
            while True:
                call.await_provider(call.timeouts.idle)
                gevent.sleep(0.1)

        return waits


@pytest.fixture(name="ends")
def _ends() -> Iterator[Ends]:
    with ExitStack() as stack:
        yield Ends(stack)


def test_a_provider_that_is_late(ends: Ends) -> None:
    """To its first byte, between bytes, and in all: each byte gives more time, up to the total."""
    for waits, least in (
        (ends.silent(IMPATIENT), SHORT),
        (ends.silent(TIMEOUTS._replace(total=SHORT)), SHORT),
        (ends.drips(TIMEOUTS._replace(idle=SHORT)), SHORT),
        (ends.drips(TIMEOUTS._replace(total=0.5, idle=0.3)), 0.5),
    ):
        reason, seconds = ends.ended(waits)
        assert reason == "provider_timeout false"
        assert seconds >= least
    ends.our_client.sendall(b"an error can still be told")
    assert ends.client.recv(100) == b"an error can still be told"


def test_all_tries_share_the_time_to_the_first_byte() -> None:
    call = Call()
    call.begin(TIMEOUTS)
    call.await_first_byte()
    first_ends = call.ends
    time.sleep(SHORT)
    call.await_first_byte()
    assert call.ends == pytest.approx(first_ends, abs=SHORT / 10)


LEAVES: dict[str, Callable[[Any], object]] = {
    "close": lambda client: client.close(),
    "half-close": lambda client: client.shutdown(gevent.socket.SHUT_WR),
    "close with bytes unread": lambda client: (client.sendall(b"the next, early"), client.close()),
}


@pytest.mark.parametrize("leave", LEAVES.values(), ids=LEAVES)
def test_a_client_that_leaves_ends_the_call(ends: Ends, leave: Callable[[Any], object]) -> None:
    """Also while the provider is silent."""
    leave(ends.client)
    assert ends.ended(ends.silent(TIMEOUTS))[0] == "ClientGone"


def test_a_client_that_sends_its_body_too_slowly(ends: Ends) -> None:
    """Reading ends; writing goes on, so that it can be told."""
    reason, _ = ends.ended(lambda _: ends.our_client.recv(1), seconds=SHORT)
    assert reason == "invalid_json None"
    ends.our_client.sendall(b"400")
    assert ends.client.recv(100) == b"400"


def test_a_client_that_does_not_read_its_answer(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing else ends a call while its client takes a piece: neither the time nor a restart."""
    monkeypatch.setattr(watchdog, "CLIENT_TIMEOUT", 0.3)
    dog = Watchdog()
    dog.restart_in(0)

    def waits(call: Call) -> None:
        call.begin(TIMEOUTS._replace(total=0))
        call.await_client()
        while True:
            ends.our_client.sendall(b"x" * 65536)

    reason, seconds = ends.ended(waits, dog)
    assert reason == "ClientGone"
    assert seconds >= 0.3


def test_a_restart_does_not_wait_for_bodies(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the provider was not asked, the request may come again. One watchdog has all calls."""
    monkeypatch.setattr(watchdog, "LAST_CALL", SHORT)
    dog = Watchdog()
    dog.restart_in(2 * DEADLINE)
    assert ends.ended(lambda _: ends.our_client.recv(1), dog)[0] == "internal_error true"
    dog.restart_in(0.3)
    reason, seconds = ends.ended(ends.silent(TIMEOUTS), dog)
    assert reason == "internal_error false"
    assert seconds >= 0.3
    dog.restart_in(SHORT / 5)
    assert ends.ended(lambda _: ends.our_client.recv(1), dog)[0] == "internal_error true"


def test_the_first_reason_stays(ends: Ends) -> None:
    """The call may wait again, to clean up."""

    def waits(call: Call) -> None:
        with suppress(OSError):
            ends.silent(IMPATIENT)(call)
        ends.client.close()
        ends.our_provider.recv(1)

    assert ends.ended(waits)[0] == "provider_timeout false"


def test_a_call_that_is_over_is_watched_no_more(ends: Ends) -> None:
    dog = Watchdog()
    assert ends.ended(lambda call: call.begin(TIMEOUTS), dog)[0] == "NoneType"
    ends.client.close()
    with dog.watch(None) as other:
        gevent.sleep(3 * watchdog.INTERVAL)
    assert other.ended is None
    assert not other.is_watched


def test_without_a_greenlet_there_is_no_watch(ends: Ends) -> None:
    """Under `flask run`: an exception cannot be raised in another thread."""
    with Watchdog().watch(ends.our_client) as call:
        assert not call.is_watched
