"""What gunicorn refuses before the application sees it: JSON, and none of the caller's text."""

import json
import re
import socket
from contextlib import suppress
from unittest.mock import Mock

import pytest
from gunicorn.http import errors
from gunicorn.workers.ggevent import GeventWorker
from serving import DEADLINE, answers, read_to_end

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
    return Worker.__new__(Worker)


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


def test_sigterm_begins_the_drain() -> None:
    """Two seconds of the grace are kept for saying that an answer was cut."""
    ending = worker()
    ending.cfg = Mock(graceful_timeout=25)
    ending.wsgi = Mock(extensions={"proxy": (proxy := Mock())})
    ending.handle_exit(15, None)
    assert not ending.alive
    proxy.watchdog.restart_in.assert_called_once_with(23)


def test_sigterm_while_the_worker_still_starts() -> None:
    ending = worker()
    ending.handle_exit(15, None)
    assert not ending.alive


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
    handling.cfg = Mock(keepalive=5)
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
