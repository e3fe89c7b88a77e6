"""What gunicorn refuses before the application sees it: JSON, and none of the caller's text."""

import json
import re
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from unittest.mock import Mock

import gevent
import gevent.socket
import pytest
from gunicorn.config import Config
from gunicorn.http import errors
from gunicorn.workers.ggevent import GeventWorker
from serving import DEADLINE, answers, read_to_end, read_until

from proxy.worker import Worker

SECRET = "Authorization Bearer tier1-Qm4xV9cT2hLw8sZr"

REFUSALS = {
    "bad header": (errors.InvalidHeader(SECRET), 400),
    "bad header name": (errors.InvalidHeaderName(SECRET), 400),
    "bad request line": (errors.InvalidRequestLine(SECRET), 400),
    "bad method": (errors.InvalidRequestMethod(SECRET), 400),
    "bad version": (errors.InvalidHTTPVersion(SECRET), 400),
    "folded header": (errors.ObsoleteFolding(SECRET), 400),
    "long line": (errors.LimitRequestLine(5000, 4094), 414),
    "many headers": (errors.LimitRequestHeaders(SECRET), 431),
    "transfer coding": (errors.UnsupportedTransferCoding(SECRET), 501),
    "chunk size": (errors.InvalidChunkSize(SECRET), 400),
    "anything else": (RuntimeError(SECRET), 500),
}


def worker() -> Worker:
    """One that never ran."""
    made = Worker.__new__(Worker)
    made.cfg = Config()
    return made


@pytest.mark.parametrize(("raised", "status"), REFUSALS.values(), ids=REFUSALS)
def test_a_refusal_is_json_without_the_callers_text(
    raised: Exception, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="proxy")
    refusing = worker()
    ours, theirs = socket.socketpair()
    with theirs:
        with ours:
            refusing.handle_error(None, ours, ("127.0.0.1", 1), raised)
        theirs.settimeout(DEADLINE)
        (answer,) = answers(read_to_end(theirs))
    assert answer.status == status
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.headers["Connection"] == "close"
    assert re.fullmatch("[0-9a-f]{32}", answer.headers["X-Request-Id"])
    error = json.loads(answer.body)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"].endswith(answer.headers["X-Request-Id"])
    expected = ("proxy_error", "internal_error") if status == 500 else (
        "invalid_request_error",
        "invalid_http",
    )  # fmt: skip
    assert (error["type"], error["code"]) == expected
    assert SECRET not in f"{answer.headers} {answer.body!r} {caplog.text}"
    (record,) = caplog.records
    assert f"raised: {type(raised).__name__}" in record.getMessage()
    assert answer.headers["X-Request-Id"] in record.getMessage()


@pytest.mark.parametrize("raised", [RuntimeError(SECRET), errors.UnsupportedTransferCoding(SECRET)])
def test_each_answer_of_5xx_says_whether_to_try_again(raised: Exception) -> None:
    """`On every 5xx and 429: X-Should-Retry`, which keeps the SDKs from trying in vain."""
    ours, theirs = socket.socketpair()
    with theirs:
        with ours:
            worker().handle_error(None, ours, None, raised)
        (answer,) = answers(read_to_end(theirs))
    assert answer.headers["X-Should-Retry"] == "false"


def test_a_client_that_has_gone_is_no_failure(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="proxy")
    ours, theirs = socket.socketpair()
    theirs.close()
    with ours:
        worker().handle_error(None, ours, None, errors.InvalidHeader(SECRET))
    assert "client_gone" in caplog.text


def test_sigterm_begins_the_drain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two seconds of the grace are kept for saying that an answer was cut."""
    monkeypatch.setattr(gevent, "spawn_later", later := Mock())
    ending = worker()
    ending.wsgi = Mock(extensions={"proxy": (proxy := Mock())})
    ending.cfg.set("graceful_timeout", 25)
    for _ in range(3):  # gunicorn repeats it
        ending.handle_exit(15, None)
    assert not ending.alive
    proxy.watchdog.restart_in.assert_called_once_with(23)
    later.assert_called_once()


def test_sigterm_while_the_worker_still_starts() -> None:
    ending = worker()
    ending.handle_exit(15, None)
    assert not ending.alive


def test_signals_wait_for_the_application(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until then those stay that end the process."""
    calls: list[str] = []
    for name in ("init_signals", "run"):
        monkeypatch.setattr(GeventWorker, name, lambda _self, name=name: calls.append(name))
    starting = worker()
    starting.init_signals()
    assert calls == []
    starting.run()
    assert calls == ["init_signals", "run"]


def test_ctrl_c_ends_a_worker_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The terminal sends it a SIGINT, and the master a SIGQUIT."""
    monkeypatch.setattr(GeventWorker, "handle_quit", ended := Mock())
    ending = worker()
    ending.handle_quit(2, None)
    ending.handle_quit(3, None)
    ended.assert_called_once()


# --- a connection ---------------------------------------------------------------------------------

POST = b"POST / HTTP/1.1\r\nHost: proxy\r\nContent-Length: 2\r\n%b\r\n{}"


def application(environ: dict[str, Any], start_response: Callable[..., object]) -> list[bytes]:
    start_response("200 OK", [("Content-Length", "2")])
    return [environ["wsgi.input"].read()]


def serving_worker() -> Worker:
    """One that runs a small application, in this process."""
    made = worker()
    made.wsgi, made.log, made.alive = application, Mock(), True
    made.nr, made.max_requests = 0, 100
    return made


def received(serving: Worker, sent: bytes, *, fin: bool = False) -> bytes:
    """What comes back on a connection until the worker closes it."""
    ours, theirs = gevent.socket.socketpair()
    listener = Mock(getsockname=lambda: ("127.0.0.1", 8000))
    handling = gevent.spawn(serving.handle, listener, ours, ("127.0.0.1", 1))
    theirs.sendall(sent)
    if fin:
        theirs.shutdown(socket.SHUT_WR)
    handling.get(timeout=DEADLINE)
    with theirs:
        return read_to_end(theirs)


@pytest.mark.parametrize(
    ("sent", "statuses"),
    [
        (POST % b"Connection: close\r\n", [200]),
        (POST % b"" + POST % b"Connection: a, Close\r\n", [200, 200]),
        (POST % b"Connection: close\r\n" + POST % b"", [200]),
        ((POST % b"").replace(b"1.1", b"1.0"), [200]),
        ((POST % b"").replace(b"POST /", b"CONNECT a:1") + POST % b"", [200]),
        (POST % b"no colon\r\n", [400]),
        (POST % b"Transfer-Encoding: identity\r\n", [400]),
        (
            (POST % b"Transfer-Encoding: identity, chunked\r\n").replace(b"Content-Length", b"X"),
            [501],
        ),
        (POST[:20], []),
        (b"", []),
    ],
    ids=str,
)
def test_the_requests_of_a_connection(sent: bytes, statuses: list[int]) -> None:
    found = answers(received(serving_worker(), sent, fin=True))
    assert [answer.status for answer in found] == statuses


def test_a_refused_head_has_no_body() -> None:
    unread = b"x" * 20_000
    whole = received(serving_worker(), b"HEAD / HTTP/1.1\r\nno colon\r\n\r\n" + unread)
    assert whole.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert whole.endswith(b"\r\n\r\n")


@pytest.mark.parametrize("sent", [b"", POST % b"", POST[:20], POST % b"" + POST[:20]], ids=str)
def test_a_request_that_does_not_come_ends_the_connection(
    monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    """Idle or half-sent, the first or a later one."""
    monkeypatch.setattr("proxy.worker._PATIENCE", 0.1)
    waiting = serving_worker()
    waiting.cfg.set("keepalive", 1)
    assert len(answers(received(waiting, sent))) == sent.count(b"{}")


def test_idle_connections_end_soon_after_sigterm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.worker.LAST_CALL", 0.1)
    ending = serving_worker()
    gone, peer = socket.socketpair()
    gone.close()
    peer.close()
    ending._idle.add(gone)  # its client left at this moment
    ending.wsgi = Mock(extensions={"proxy": Mock()})
    gevent.spawn_later(0.1, ending.handle_exit, 15, None)
    began = time.monotonic()
    assert received(ending, b"") == b""
    assert time.monotonic() - began < 4  # and not after the 5 seconds of a head
    ending._idle.discard(gone)


@pytest.mark.parametrize("when", ["before", "during"])
def test_a_request_on_a_kept_connection_is_answered_after_sigterm(when: str) -> None:
    """The connection ends with it, also where the request came before the signal."""
    ending = serving_worker()

    def signalled(environ: dict[str, Any], start_response: Callable[..., object]) -> list[bytes]:
        ending.alive = False
        return application(environ, start_response)

    ours, theirs = gevent.socket.socketpair()
    listener = Mock(getsockname=lambda: ("127.0.0.1", 8000))
    handling = gevent.spawn(ending.handle, listener, ours, ("127.0.0.1", 1))
    with theirs:
        theirs.sendall(POST % b"")
        read_until(theirs, b"\r\n\r\n{}")
        while ours not in ending._idle:
            gevent.sleep(0.01)
        if when == "before":
            ending.alive = False
        ending.wsgi = signalled
        theirs.sendall(POST % b"")
        (answer,) = answers(read_to_end(theirs))
    assert (answer.status, answer.headers["Connection"]) == (200, "close")
    handling.get(timeout=DEADLINE)


class Body:
    """As gunicorn's: what breaks off stays broken."""

    def __init__(self, *pieces: bytes | Exception) -> None:
        self.pieces = list(pieces)

    def read(self, size: int | None = None) -> bytes:
        if self.pieces and isinstance(self.pieces[0], Exception):
            raise self.pieces[0]
        return self.pieces.pop(0) if self.pieces else b""  # type: ignore[return-value]


def handle(
    monkeypatch: pytest.MonkeyPatch, body: Body, *, reads: bool, closes: bool = False
) -> None:
    def application(_worker: Worker, _name: object, request: Mock, *_: object) -> None:
        if reads:
            with suppress(errors.InvalidChunkSize):
                request.body.read()
        if closes:
            raise StopIteration

    monkeypatch.setattr(GeventWorker, "handle_request", application)
    handling = worker()
    handling.handle_request(None, Mock(body=body), None, None)


@pytest.mark.parametrize("reads", [False, True], ids=["not read", "read"])
def test_what_is_left_of_a_body_is_read(monkeypatch: pytest.MonkeyPatch, reads: bool) -> None:
    body = Body(b"one", b"two")
    handle(monkeypatch, body, reads=reads)
    assert body.pieces == []


@pytest.mark.parametrize("reads", [False, True], ids=["not read", "read"])
def test_a_body_that_breaks_off_ends_the_connection(
    monkeypatch: pytest.MonkeyPatch, reads: bool
) -> None:
    """Whether the application met the fault or left it unread: what follows is no request."""
    with pytest.raises(StopIteration):
        handle(monkeypatch, Body(b"one", errors.InvalidChunkSize(SECRET)), reads=reads)


@pytest.mark.parametrize("reads", [False, True], ids=["not read", "read"])
def test_a_connection_that_is_to_be_closed_is_read_to_the_end_of_its_body(
    monkeypatch: pytest.MonkeyPatch, reads: bool
) -> None:
    """Else it would be reset while its client sends, and the answer lost."""
    body = Body(b"one", b"two")
    with pytest.raises(StopIteration):
        handle(monkeypatch, body, reads=reads, closes=True)
    assert body.pieces == []
