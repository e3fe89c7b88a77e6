"""The worker in this process: one connection, and the signals. (`test_http` has the wire.)"""

import json
import re
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from unittest.mock import Mock

import gevent
import gevent.socket
import pytest
from gunicorn.config import Config
from gunicorn.http.message import Request
from gunicorn.workers.ggevent import GeventWorker
from serving import DEADLINE, answers, read_to_end

from proxy.watchdog import Watchdog
from proxy.worker import Worker

SECRET = "tier1-Qm4xV9cT2hLw8sZr"
POST = b"POST / HTTP/1.1\r\nHost: proxy\r\nContent-Length: 2\r\n%b\r\n{}"
GOOD = POST % b""
CHUNKED = GOOD.replace(b"Content-Length: 2", b"Transfer-Encoding: %b")
LIST, BAD_CHUNK = CHUNKED % b"identity, chunked", CHUNKED % b"chunked"


def echo(environ: dict[str, Any], start_response: Callable[..., object]) -> list[bytes]:
    start_response("200 OK", [("Content-Length", "2")])
    return [environ["wsgi.input"].read()]


def careless(environ: dict[str, Any], start_response: Callable[..., object]) -> list[bytes]:
    """It does not read the body."""
    start_response("200 OK", [("Content-Length", "2")])
    return [b"{}"]


def forgiving(environ: dict[str, Any], start_response: Callable[..., object]) -> list[bytes]:
    """A body that cannot be read is no failure to it."""
    with suppress(Exception):
        environ["wsgi.input"].read()
    return careless(environ, start_response)


def broken(environ: dict[str, Any], start_response: Callable[..., object]) -> list[bytes]:
    raise RuntimeError(SECRET)


def worker(application: Callable[..., object] = echo) -> Worker:
    """One that runs a small application, in this process."""
    made = Worker.__new__(Worker)
    made.cfg, made.log, made.alive = Config(), Mock(), True
    made.nr, made.max_requests = 0, 100
    made.wsgi, made._watchdog = application, Watchdog()
    return made


def received(serving: Worker, sent: bytes, later: bytes = b"", *, fin: bool = False) -> bytes:
    """What comes back on a connection until the worker closes it."""
    ours, theirs = gevent.socket.socketpair()
    listener = Mock(getsockname=lambda: ("127.0.0.1", 8000))
    handling = gevent.spawn(serving.handle, listener, ours, ("127.0.0.1", 1))
    theirs.sendall(sent)
    gevent.sleep(0.05 * bool(later))
    with suppress(OSError):
        theirs.sendall(later)
    if fin:
        theirs.shutdown(socket.SHUT_WR)
    handling.get(timeout=DEADLINE)
    with theirs:
        return read_to_end(theirs)


@pytest.mark.parametrize(
    ("application", "sent", "statuses"),
    [
        (echo, GOOD + POST % b"Connection: a, Close\r\n" + GOOD, [200, 200]),
        (echo, GOOD.replace(b"1.1", b"1.0") + GOOD, [200]),
        (echo, GOOD.replace(b"POST /", b"CONNECT a:1") + GOOD, [200]),
        (echo, POST % b"no colon\r\n" + GOOD, [400]),
        (echo, LIST + GOOD, [501]),
        (echo, GOOD[:20], []),
        (echo, b"", []),
        (careless, GOOD + GOOD, [200, 200]),
        (careless, BAD_CHUNK + GOOD, [200]),
        (broken, GOOD + GOOD, [500]),
    ],
)
def test_the_requests_of_a_connection(
    application: Callable[..., object], sent: bytes, statuses: list[int]
) -> None:
    found = answers(received(worker(application), sent, fin=True))
    assert [answer.status for answer in found] == statuses


def test_what_comes_after_a_broken_body_is_no_request() -> None:
    """Also where the application has answered it."""
    found = answers(received(worker(forgiving), BAD_CHUNK + b"\r\n", GOOD))
    assert [answer.status for answer in found] == [200]


@pytest.mark.parametrize("where", ["the application", "gunicorn's parser"])
def test_a_fault_is_a_500_without_its_text(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, where: str
) -> None:
    """In the log its type."""
    caplog.set_level("INFO", logger="proxy")
    if where == "gunicorn's parser":
        monkeypatch.setattr(Request, "parse", Mock(side_effect=RuntimeError(SECRET)))
    (answer,) = answers(received(worker(broken), GOOD, fin=True))
    assert (answer.status, answer.headers["X-Should-Retry"]) == (500, "false")
    assert answer.headers["Connection"] == "close"
    error = json.loads(answer.body)["error"]
    assert (error["type"], error["code"]) == ("proxy_error", "internal_error")
    assert re.fullmatch("[0-9a-f]{32}", answer.headers["X-Request-Id"])
    assert SECRET not in f"{answer.headers} {answer.body!r} {caplog.text}"
    (message,) = caplog.messages
    assert "raised: RuntimeError" in message
    assert answer.headers["X-Request-Id"] in message


def test_a_client_that_has_gone_is_no_failure(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="proxy")
    ours, theirs = socket.socketpair()
    theirs.close()
    with ours:
        worker().handle_error(Mock(version=(1, 1)), ours, "", RuntimeError(SECRET))
    assert "client_gone" in caplog.text


@pytest.mark.parametrize("sent", [b"", GOOD, GOOD[:20], GOOD + GOOD[:20]], ids=str)
def test_a_request_that_does_not_come_ends_the_connection(
    monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    """Idle or half-sent, the first or a later one."""
    monkeypatch.setattr("proxy.worker._PATIENCE", 0.1)
    waiting = worker()
    waiting.cfg.set("keepalive", 1)
    assert len(answers(received(waiting, sent))) == sent.count(b"{}")


def test_sigterm_during_an_answer_ends_its_connection_and_soon_the_idle_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("proxy.watchdog.BODY_GRACE", 0.1)
    ending = worker()

    def signalled(*arguments: Any) -> list[bytes]:
        ending.handle_exit(15, None)
        return echo(*arguments)

    ending.wsgi = signalled
    ending.cfg.set("graceful_timeout", 25)
    idle = gevent.spawn(received, ending, b"")
    (answer,) = answers(received(ending, GOOD))
    assert (answer.status, answer.headers["Connection"]) == (200, "close")
    assert idle.get(timeout=4) == b""  # not after the 5 seconds of a head


@pytest.mark.parametrize(("grace", "seconds"), [(25, 23), (1, 0.5)])
def test_a_part_of_the_grace_is_kept_for_errors(grace: int, seconds: float) -> None:
    ending = worker()
    ending._watchdog = Mock()
    ending.cfg.set("graceful_timeout", grace)
    for _ in range(3):  # gunicorn repeats it
        ending.handle_exit(15, None)
    ending._watchdog.restart_in.assert_called_once_with(seconds)
    assert not ending.alive


def test_signals_wait_for_the_application(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until then those stay that end the process."""
    calls: list[str] = []
    for name in ("init_signals", "run"):
        monkeypatch.setattr(GeventWorker, name, lambda _self, name=name: calls.append(name))
    starting = worker()
    starting.wsgi = Mock(extensions={"proxy": Mock()})
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
