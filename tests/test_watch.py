"""Calls under way: each ends when it is late, when its client leaves, and when the proxy must."""

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from serving import DEADLINE

from proxy import watch
from proxy.errors import ClientGone, OperatorError, ProviderError
from proxy.watch import Call, Timeouts

SHORT = 0.05  # seconds


class Ends:
    """A client and a provider, each with our end of its connection and its own."""

    def __init__(self, stack: ExitStack) -> None:
        self.our_client, self.client = map(stack.enter_context, socket.socketpair())
        self.our_provider, self.provider = map(stack.enter_context, socket.socketpair())
        for sock in (self.client, self.provider, self.our_provider, self.our_client):
            sock.settimeout(DEADLINE)


@pytest.fixture(name="ends")
def _ends() -> Iterator[Ends]:
    with ExitStack() as stack:
        yield Ends(stack)


def waits_for_provider(ends: Ends, call: Call) -> None:
    call.begin()
    call.provider, call.sent = ends.our_provider, True
    assert ends.our_provider.recv(1) == b""  # as a read that is blocked returns


def test_a_call_without_a_reason_to_end_goes_on(ends: Ends) -> None:
    with watch.call(Timeouts(), ends.our_client) as call:
        call.begin()
        call.look(time.monotonic(), client_left=False)
        assert call.reason() is None


@pytest.mark.parametrize(
    "timeouts",
    [Timeouts(first_byte=SHORT), Timeouts(total=SHORT)],
    ids=["first byte", "total"],
)
def test_a_provider_that_is_late(ends: Ends, timeouts: Timeouts) -> None:
    with watch.call(timeouts, ends.our_client) as call:
        waits_for_provider(ends, call)
        reason = call.reason()
        assert isinstance(reason, ProviderError)
        assert reason.code == "provider_timeout"
    assert ends.provider.recv(1) == b""
    ends.our_client.sendall(b"an error can still be told")
    assert ends.client.recv(100) == b"an error can still be told"


def test_each_byte_gives_more_time_but_not_in_all(ends: Ends) -> None:
    """A provider that drips is ended by the total."""
    with watch.call(Timeouts(idle=DEADLINE, total=0.5)) as call:
        call.begin()
        call.provider, call.sent = ends.our_provider, True
        started = time.monotonic()
        with pytest.raises(OSError):
            while True:
                ends.provider.sendall(b"x")
                ends.our_provider.recv(1)
                call.await_provider(call.timeouts.idle)
        assert time.monotonic() - started >= 0.5
        assert isinstance(call.reason(), ProviderError)


@pytest.mark.parametrize(
    "leave",
    [
        lambda client: client.close(),
        lambda client: client.shutdown(socket.SHUT_WR),
        lambda client: (client.sendall(b"the next request, sent early"), client.close()),
    ],
    ids=["close", "half-close", "close with bytes unread"],
)
def test_a_client_that_leaves_ends_the_call(
    ends: Ends, leave: Callable[[socket.socket], object]
) -> None:
    """Also while the provider is silent, and for both connections."""
    with watch.call(Timeouts(), ends.our_client) as call:
        leave(ends.client)
        waits_for_provider(ends, call)
        assert isinstance(call.reason(), ClientGone)
    assert ends.provider.recv(1) == b""


def test_a_client_that_sends_its_body_too_slowly(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading ends, as if the body had; writing goes on, so that it can be told."""
    monkeypatch.setattr(watch, "CLIENT_TIMEOUT", SHORT)
    with watch.call(Timeouts(), ends.our_client) as call:
        assert ends.our_client.recv(1) == b""
        assert isinstance(call.reason(), ClientGone)
        ends.our_client.sendall(b"400")
        assert ends.client.recv(100) == b"400"


def test_a_client_that_does_not_read_its_answer(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "CLIENT_TIMEOUT", SHORT)
    with watch.call(Timeouts(), ends.our_client) as call:
        call.begin()
        call.provider, call.sent = ends.our_provider, True
        call.await_client()
        with pytest.raises(OSError):
            while True:
                ends.our_client.sendall(b"x" * 65536)
        assert isinstance(call.reason(), ClientGone)
    assert ends.provider.recv(1) == b""


def test_what_is_open_ends_before_the_process(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "_drained_at", watch._drained_at)
    with watch.call(Timeouts(), ends.our_client) as call:
        watch.drain(SHORT)
        waits_for_provider(ends, call)
        reason = call.reason()
        assert isinstance(reason, OperatorError)
        assert reason.code == "internal_error"


def test_the_first_reason_stays(ends: Ends) -> None:
    call = Call(Timeouts(), None)
    call.look(float("inf"), client_left=True)
    call.look(float("inf"), client_left=False)
    assert isinstance(call.reason(), ClientGone)


def test_a_call_that_is_over_is_watched_no_more(ends: Ends) -> None:
    with watch.call(Timeouts(), ends.our_client) as call:
        call.begin()
    ends.client.close()
    with watch.call(Timeouts(first_byte=SHORT)) as other:
        other.begin()
        other.provider = ends.our_provider
        ends.our_provider.recv(1)
    assert call.reason() is None


def test_what_was_ended_before_is_not_begun() -> None:
    """The client left while it sent its body: nothing goes to the provider, and costs nothing."""
    call = Call(Timeouts(), None)
    call.look(time.monotonic(), client_left=True)
    with pytest.raises(ClientGone):
        call.begin()
