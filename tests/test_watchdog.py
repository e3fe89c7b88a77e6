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
from proxy.errors import CallerError, ClientGone, OperatorError, ProviderError
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
    ) -> Exception | None:
        """Why the watchdog ended a call that does this; None: it did not."""

        def call() -> Exception | None:
            with (dog or Watchdog()).watch(self.our_client, **options) as call:
                with suppress(OSError):
                    waits(call)
                return call.ended

        reason: Exception | None = gevent.spawn(call).get(timeout=DEADLINE)
        return reason

    def silent(self, timeouts: Timeouts) -> Waits:
        """The provider says nothing."""

        def waits(call: Call) -> None:
            call.begin(timeouts)
            call.await_first_byte()
            self.our_provider.recv(1)

        return waits


@pytest.fixture(name="ends")
def _ends() -> Iterator[Ends]:
    with ExitStack() as stack:
        yield Ends(stack)


def code(error: Exception | None) -> str:
    return getattr(error, "code", type(error).__name__)


def test_a_call_without_a_reason_to_end_goes_on(ends: Ends) -> None:
    def waits(call: Call) -> None:
        call.begin(TIMEOUTS)
        call.await_first_byte()
        gevent.sleep(3 * watchdog.INTERVAL)

    assert ends.ended(waits) is None


@pytest.mark.parametrize(
    "timeouts",
    [IMPATIENT, TIMEOUTS._replace(total=SHORT)],
    ids=["first byte", "total"],
)
def test_a_provider_that_is_late(ends: Ends, timeouts: Timeouts) -> None:
    reason = ends.ended(ends.silent(timeouts))
    assert isinstance(reason, ProviderError)
    assert reason.code == "provider_timeout"
    ends.our_client.sendall(b"an error can still be told")
    assert ends.client.recv(100) == b"an error can still be told"


def test_each_byte_gives_more_time_but_not_in_all(ends: Ends) -> None:
    """A provider that drips is ended by the total."""

    def drips(call: Call) -> None:
        call.begin(TIMEOUTS._replace(total=0.5))
        while True:
            call.await_provider(DEADLINE)
            gevent.sleep(SHORT)

    began = time.monotonic()
    assert code(ends.ended(drips)) == "provider_timeout"
    assert time.monotonic() - began >= 0.5


def test_silence_between_bytes(ends: Ends) -> None:
    def waits(call: Call) -> None:
        call.begin(TIMEOUTS)
        call.await_provider(SHORT)
        ends.our_provider.recv(1)

    assert code(ends.ended(waits)) == "provider_timeout"


LEAVES: dict[str, Callable[[Any], object]] = {
    "close": lambda client: client.close(),
    "half-close": lambda client: client.shutdown(gevent.socket.SHUT_WR),
    "close with bytes unread": lambda client: (client.sendall(b"the next, early"), client.close()),
}


@pytest.mark.parametrize("leave", LEAVES.values(), ids=LEAVES)
def test_a_client_that_leaves_ends_the_call(ends: Ends, leave: Callable[[Any], object]) -> None:
    """Also while the provider is silent."""
    leave(ends.client)
    assert isinstance(ends.ended(ends.silent(TIMEOUTS)), ClientGone)


def test_a_client_that_sends_its_body_too_slowly(ends: Ends) -> None:
    """Reading ends; writing goes on, so that it can be told."""
    reason = ends.ended(lambda _: ends.our_client.recv(1), seconds=SHORT)
    assert isinstance(reason, CallerError)
    assert reason.status == 400
    ends.our_client.sendall(b"400")
    assert ends.client.recv(100) == b"400"


def test_a_client_that_does_not_read_its_answer(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing else ends a call while its client takes a piece: neither the time nor a restart."""
    monkeypatch.setattr(watchdog, "CLIENT_TIMEOUT", 0.5)
    dog = Watchdog()
    dog.restart_in(0)

    def waits(call: Call) -> None:
        call.begin(TIMEOUTS._replace(total=0))
        call.await_client()
        while True:
            ends.our_client.sendall(b"x" * 65536)

    began = time.monotonic()
    assert isinstance(ends.ended(waits, dog), ClientGone)
    assert time.monotonic() - began >= 0.5


def test_one_watchdog_looks_at_many_calls(ends: Ends) -> None:
    dog = Watchdog()
    for _ in range(2):
        assert code(ends.ended(ends.silent(IMPATIENT), dog)) == "provider_timeout"


def test_what_is_open_ends_before_the_process(ends: Ends) -> None:
    dog = Watchdog()
    dog.restart_in(SHORT)
    reason = ends.ended(ends.silent(TIMEOUTS), dog)
    assert isinstance(reason, OperatorError)
    assert reason.code == "internal_error"


@pytest.mark.parametrize("has_begun", [False, True], ids=["its body", "its answer"])
def test_a_restart_does_not_wait_for_bodies(
    ends: Ends, monkeypatch: pytest.MonkeyPatch, has_begun: bool
) -> None:
    """Where the provider was not asked, the request may come again."""
    monkeypatch.setattr(watchdog, "LAST_CALL", SHORT)
    dog = Watchdog()
    restart = 0.5 if has_begun else 2 * DEADLINE
    dog.restart_in(restart)

    def waits(call: Call) -> None:
        if has_begun:
            call.begin(TIMEOUTS)
            call.await_first_byte()
        ends.our_client.recv(1)

    began = time.monotonic()
    reason = ends.ended(waits, dog)
    assert isinstance(reason, OperatorError)
    assert (time.monotonic() - began < restart) == (not has_begun)
    assert reason.headers["X-Should-Retry"] == ("false" if has_begun else "true")


def test_the_first_reason_stays(ends: Ends) -> None:
    """The call may wait again, to clean up."""

    def waits(call: Call) -> None:
        with suppress(OSError):
            ends.silent(IMPATIENT)(call)
        ends.client.close()
        ends.our_provider.recv(1)

    assert code(ends.ended(waits)) == "provider_timeout"


def test_a_call_that_is_over_is_watched_no_more(ends: Ends) -> None:
    dog = Watchdog()
    assert ends.ended(lambda call: call.begin(TIMEOUTS), dog) is None
    ends.client.close()
    with dog.watch(None) as other:
        gevent.sleep(3 * watchdog.INTERVAL)
    assert other.ended is None
    assert not other.is_watched


def test_without_a_greenlet_there_is_no_watch(ends: Ends) -> None:
    """Under `flask run`: an exception cannot be raised in another thread."""
    with Watchdog().watch(ends.our_client) as call:
        assert not call.is_watched
