"""What no server shows of the watchdog. (`test_deadlines` and `test_departures` have the rest.)"""

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import gevent
import gevent.socket
import pytest
from serving import DEADLINE

from proxy import watchdog
from proxy.watchdog import Call, Timeouts, Watchdog

SHORT = 0.05  # seconds
TIMEOUTS = Timeouts(first_byte=130, idle=60, total=600)


def ended(dog: Watchdog, waits: Callable[[Call, Any, Any], object]) -> str:
    """Why the watchdog ended a call that does this, with both ends of its client's connection."""
    ours, theirs = gevent.socket.socketpair()

    def call() -> Exception | None:
        with ours, theirs, dog.watch(ours) as call:
            with suppress(OSError):
                waits(call, ours, theirs)
            return call.end_reason

    reason = gevent.spawn(call).get(timeout=DEADLINE)
    headers = getattr(reason, "headers", {})
    return " ".join([type(reason).__name__, headers.get("X-Should-Retry", "")]).strip()


def read_the_body(call: Call, ours: Any, theirs: Any) -> None:
    ours.recv(1)


def ask_the_provider(call: Call, ours: Any, theirs: Any) -> None:
    call.begin(TIMEOUTS)
    call.await_first_byte()
    gevent.sleep(DEADLINE)


def test_all_tries_share_the_time_to_the_first_byte() -> None:
    call = Call()
    call.begin(TIMEOUTS)
    call.await_first_byte()
    first_ends = call.ends
    time.sleep(SHORT)
    call.await_first_byte()
    assert call.ends == pytest.approx(first_ends, abs=SHORT / 10)


def test_while_a_client_takes_a_piece_only_it_ends_the_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Neither the provider's time nor a restart does."""
    monkeypatch.setattr(watchdog, "CLIENT_TIMEOUT", 0.3)
    dog = Watchdog()
    dog.restart_in(0)

    def answer(call: Call, ours: Any, theirs: Any) -> None:
        call.begin(TIMEOUTS._replace(total=0))
        call.await_client()
        while True:
            ours.sendall(b"x" * 65536)

    assert ended(dog, answer) == "ClientGone"


def test_a_restart_says_whether_the_request_may_come_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It may where the provider was not asked. Bodies have less time, however long the grace."""
    monkeypatch.setattr(watchdog, "BODY_GRACE", SHORT)
    dog = Watchdog()
    dog.restart_in(2 * DEADLINE)
    assert ended(dog, read_the_body) == "OperatorError true"
    dog.restart_in(SHORT)
    assert ended(dog, ask_the_provider) == "OperatorError false"


def test_the_first_reason_stays() -> None:
    """The call may wait again, to clean up."""

    def clean_up(call: Call, ours: Any, theirs: Any) -> None:
        call.begin(TIMEOUTS._replace(first_byte=SHORT))
        call.await_first_byte()
        with suppress(OSError):
            gevent.sleep(DEADLINE)
        theirs.close()
        gevent.sleep(DEADLINE)

    assert ended(Watchdog(), clean_up) == "ProviderError false"


def test_a_call_that_is_over_is_watched_no_more() -> None:
    ours, theirs = gevent.socket.socketpair()

    def call_and_more() -> Exception | None:
        with ours, theirs:
            with Watchdog().watch(ours) as call:
                call.begin(TIMEOUTS._replace(first_byte=SHORT))
                call.await_first_byte()
            gevent.sleep(3 * watchdog.INTERVAL)
            return call.end_reason

    assert gevent.spawn(call_and_more).get(timeout=DEADLINE) is None


def test_without_a_greenlet_there_is_no_watch() -> None:
    """Under `flask run`: an exception cannot be raised in another thread."""
    ours, theirs = gevent.socket.socketpair()
    with ours, theirs, Watchdog().watch(ours) as call:
        assert not call.is_watched
