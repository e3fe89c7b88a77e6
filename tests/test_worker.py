"""The worker in this process: one connection, and the signals. (`test_http` has the wire.)"""

import json
import re
import socket
from collections.abc import Callable
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
HEAD = b"POST / HTTP/1.1\r\nHost: proxy\r\n%b\r\n\r\n"
GOOD = HEAD % b"Content-Length: 2" + b"{}"
LAST = HEAD % b"Content-Length: 2\r\nConnection: a, Close" + b"{}"
CODED = HEAD % b"Transfer-Encoding: identity, chunked"
BAD_CHUNK = HEAD % b"Transfer-Encoding: chunked" + b"{}"


@pytest.fixture(autouse=True)
def _little_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.worker._PATIENCE", 0.1)


def echo(environ: dict[str, Any], start_response: Callable[..., object]) -> list[bytes]:
    start_response("200 OK", [("Content-Length", "2")])
    return [environ["wsgi.input"].read()]


def broken(*_: object) -> list[bytes]:
    raise RuntimeError(SECRET)


def worker(application: Callable[..., object] = echo) -> Worker:
    """One that runs a small application, in this process."""
    made = Worker.__new__(Worker)
    made.cfg, made.log, made.alive = Config(), Mock(), True
    made.cfg.set("keepalive", 1)
    made.nr, made.max_requests = 0, 100
    made.wsgi, made._watchdog = application, Watchdog()
    return made


def received(serving: Worker, sent: bytes) -> bytes:
    """What comes back on a connection until the worker closes it."""
    ours, theirs = gevent.socket.socketpair()
    listener = Mock(getsockname=lambda: ("127.0.0.1", 8000))
    handling = gevent.spawn(serving.handle, listener, ours, ("127.0.0.1", 1))
    theirs.sendall(sent)
    handling.get(timeout=DEADLINE)
    with theirs:
        return read_to_end(theirs)


@pytest.mark.parametrize(
    ("sent", "statuses"),
    [
        pytest.param(b"", [], id="idle"),
        pytest.param(GOOD[:20], [], id="half a request"),
        pytest.param(GOOD, [200], id="idle, after a request"),
        pytest.param(GOOD + LAST + GOOD, [200, 200], id="none after the last"),
        pytest.param(
            GOOD.replace(b"POST /", b"CONNECT a:1") + GOOD, [200], id="none after CONNECT"
        ),
        pytest.param(CODED + GOOD, [501], id="none after one that is refused"),
        pytest.param(BAD_CHUNK + GOOD, [400], id="none after a broken body"),
    ],
)
def test_a_connection_ends_after_its_last_request_or_when_none_comes(
    sent: bytes, statuses: list[int]
) -> None:
    assert [answer.status for answer in answers(received(worker(), sent))] == statuses


@pytest.mark.parametrize("where", ["the application", "gunicorn's parser"])
def test_a_fault_is_a_500_without_its_text(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, where: str
) -> None:
    """In the log its type."""
    caplog.set_level("INFO", logger="proxy")
    if where == "gunicorn's parser":
        monkeypatch.setattr(Request, "parse", Mock(side_effect=RuntimeError(SECRET)))
    (answer,) = answers(received(worker(broken), GOOD + GOOD))
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


@pytest.mark.parametrize(("grace", "seconds"), [(25, 23), (1, 0.5)])
def test_sigterm_during_an_answer_ends_its_connection(grace: int, seconds: float) -> None:
    """Others have a part of the grace: the rest is kept for errors."""

    def signalled(*arguments: Any) -> list[bytes]:
        for _ in range(3):  # gunicorn repeats it
            ending.handle_exit(15, None)
        return echo(*arguments)

    ending = worker(signalled)
    ending.cfg.set("graceful_timeout", grace)
    ending._watchdog.restart_in = restart_in = Mock()
    (answer,) = answers(received(ending, GOOD + GOOD))
    assert (answer.status, answer.headers["Connection"]) == (200, "close")
    restart_in.assert_called_once_with(seconds)


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
