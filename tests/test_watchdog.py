"""What no server shows of the watchdog. (`test_deadlines` and `test_departures` have the rest.)"""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress

import gevent
import gevent.socket
import pytest
from serving import DEADLINE

from proxy import watchdog
from proxy.watchdog import Call, Timeouts, Watchdog

SHORT = 0.05  # seconds
TIMEOUTS = Timeouts(first_byte=130, idle=60, total=600)


class Ends:
    """A client and a provider, each with our end of its connection and its own."""

    def __init__(self, stack: ExitStack) -> None:
        self.our_client, self.client = map(stack.enter_context, gevent.socket.socketpair())
        self.our_provider, self.provider = map(stack.enter_context, gevent.socket.socketpair())

    def ended(self, waits: Callable[[Call], object], dog: Watchdog) -> str:
        """Why the watchdog ended a call that does this."""

        def call() -> Exception | None:
            with dog.watch(self.our_client) as call:
                with suppress(OSError):
                    waits(call)
                return call.end_reason

        reason = gevent.spawn(call).get(timeout=DEADLINE)
        headers = getattr(reason, "headers", {})
        return " ".join([type(reason).__name__, headers.get("X-Should-Retry", "")]).strip()

    def reads_the_body(self, _: Call) -> None:
        self.our_client.recv(1)

    def asks_the_provider(self, call: Call, timeouts: Timeouts = TIMEOUTS) -> None:
        call.begin(timeouts)
        call.await_first_byte()
        self.our_provider.recv(1)


@pytest.fixture(name="ends")
def _ends() -> Iterator[Ends]:
    with ExitStack() as stack:
        yield Ends(stack)


def test_all_tries_share_the_time_to_the_first_byte() -> None:
    call = Call()
    call.begin(TIMEOUTS)
    call.await_first_byte()
    first_ends = call.ends
    time.sleep(SHORT)
    call.await_first_byte()
    assert call.ends == pytest.approx(first_ends, abs=SHORT / 10)


def test_while_a_client_takes_a_piece_only_it_ends_the_call(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the provider's time nor a restart does."""
    monkeypatch.setattr(watchdog, "CLIENT_TIMEOUT", 0.3)
    dog = Watchdog()
    dog.restart_in(0)

    def waits(call: Call) -> None:
        call.begin(TIMEOUTS._replace(total=0))
        call.await_client()
        while True:
            ends.our_client.sendall(b"x" * 65536)

    assert ends.ended(waits, dog) == "ClientGone"


def test_a_restart_says_whether_the_request_may_come_again(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may where the provider was not asked. Bodies have less time, however long the grace."""
    monkeypatch.setattr(watchdog, "BODY_GRACE", SHORT)
    dog = Watchdog()
    dog.restart_in(2 * DEADLINE)
    assert ends.ended(ends.reads_the_body, dog) == "OperatorError true"
    dog.restart_in(SHORT)
    assert ends.ended(ends.asks_the_provider, dog) == "OperatorError false"


def test_the_first_reason_stays(ends: Ends) -> None:
    """The call may wait again, to clean up."""

    def waits(call: Call) -> None:
        with suppress(OSError):
            ends.asks_the_provider(call, TIMEOUTS._replace(first_byte=SHORT))
        ends.client.close()
        ends.our_provider.recv(1)

    assert ends.ended(waits, Watchdog()) == "ProviderError false"


def test_a_call_that_is_over_is_watched_no_more(ends: Ends) -> None:
    dog = Watchdog()
    assert ends.ended(lambda call: call.begin(TIMEOUTS), dog) == "NoneType"
    ends.client.close()
    with dog.watch(None) as other:
        gevent.sleep(3 * watchdog.INTERVAL)
    assert other.end_reason is None
    assert not other.is_watched


def test_without_a_greenlet_there_is_no_watch(ends: Ends) -> None:
    """Under `flask run`: an exception cannot be raised in another thread."""
    with Watchdog().watch(ends.our_client) as call:
        assert not call.is_watched
