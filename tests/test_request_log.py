"""One line for each request: what is in it, how it ended, and what never is."""

import json
import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import serving
from conftest import Serve
from crowd import answer_to, deaf, post, reset
from gevent import GreenletExit
from serving import BEARER, KEY, MODEL, Server, asking, wait_until
from werkzeug.test import TestResponse

from app import create_app
from emulator import Emulator
from proxy import request_log
from proxy.__main__ import summed
from proxy.errors import ProviderError
from proxy.request_log import Entry, client_address
from proxy.upstream import Reply, Upstream

FIELDS = [
    *("time", "level", "request_id", "client", "method", "path", "key", "model"),
    *("provider", "provider_model", "status"),
    *("provider_status", "provider_request_id", "code", "stream"),
    *("prompt_tokens", "completion_tokens"),
    *("first_token_ms", "total_ms", "retry", "bytes", "ended"),
]


@pytest.fixture(autouse=True)
def _logger() -> Iterator[None]:
    handlers, level = request_log.logger.handlers, request_log.logger.level
    yield
    request_log.logger.handlers, request_log.logger.level = handlers, level


def test_every_field_is_documented() -> None:
    table = re.findall(r"^\| (`.*?`) \|", (serving.ROOT / "docs/log.md").read_text(), re.MULTILINE)
    assert re.findall("`([a-z_]+)`", " ".join(table)) == FIELDS


def test_other_lines_are_json_too(capsys: pytest.CaptureFixture[str]) -> None:
    request_log.start("info")
    request_log.logger.warning("%s: %s", "PORT", "odd")
    line = json.loads(capsys.readouterr().out)
    assert (line["level"], line["message"]) == ("warning", "PORT: odd")


def test_on_a_terminal_a_line_is_for_people(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    request_log.start("info")
    Entry("r-1", path="/", key="alice", model="m", status=200).write()
    second = Entry("r-2")
    second.failed(ProviderError("provider_timeout"))
    second.write()
    one, two = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"\d\d:\d\d:\d\d  INFO     200  done  alice  m  [0-9.]+ ms  r-1", one)
    end = r"ERROR    timeout  provider_timeout  [0-9.]+ ms  r-2  fix: LLAMA_PROVIDER_TIMEOUT$"
    assert re.search(end, two)


ADDRESSES = {
    "a peer": ("192.0.2.1", "", "192.0.2.1"),
    "a peer over IPv6": ("2001:db8::1", "", "2001:db8::1"),
    "a peer over both": ("::ffff:192.0.2.1", "", "192.0.2.1"),
    "a peer with a zone": ("fe80::1%eth0", "", "fe80::1"),
    "a proxy on this machine": ("127.0.0.1", "192.0.2.7", "192.0.2.7"),
    "one over both": ("::ffff:127.0.0.1", "192.0.2.7", "192.0.2.7"),
    "one over a Unix socket": ("", "192.0.2.7", "192.0.2.7"),
    "a forged entry before": ("127.0.0.1", "1.2.3.4, 192.0.2.7", "192.0.2.7"),
    "not an address": ("127.0.0.1", "192.0.2.7, unknown", "127.0.0.1"),
    "a secret as a zone": ("127.0.0.1", "fe80::1%tier1-key", "fe80::1"),
    "nothing over a Unix socket": ("", "", None),
    "forged by another peer": ("192.0.2.1", "127.0.0.1", "192.0.2.1"),
}


@pytest.mark.parametrize(("peer", "forwarded", "address"), ADDRESSES.values(), ids=ADDRESSES)
def test_the_address_of_the_client(peer: str, forwarded: str, address: str | None) -> None:
    assert client_address(peer, forwarded) == address


# --- of the application -----------------------------------------------------------------------


def request_lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    """The lines of requests, without those of the start."""
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    return [line for line in lines if "request_id" in line]


PATHS = {  # as asked, and as logged
    "/v1/embeddings": "/v1/embeddings",
    "/.env": "/.env",
    "/v1/chat/completions/": "/v1/chat/completions/",
    "/openai/deployments/gpt-4o/chat/completions": "/openai/deployments/gpt-4o/chat/completions",
    "/v1beta/gemini:generateContent": "/v1beta/?",
    '/a b\r\n\x00\xc3\xa9"<>/c': "/?",
    "/" + "abcdefghij/" * 9: "/" + ("abcdefghij/" * 9)[:63],
    f"/v1/{KEY[-16:]}/chat": "/v1/?",
    "/Xy3/short/Of8a/base64/key": "/?",
    f"/v1/chat?key={KEY}": "/v1/?",
    f"/{KEY}\n": "/?",
}
REFUSED = {  # method and path as asked, and status, method and path as logged
    **{("GET", path): (404, "GET", shown) for path, shown in PATHS.items()},
    ("GET", "/v1/chat/completions"): (405, "GET", "/v1/chat/completions"),
    ("OPTIONS", "/"): (405, "OPTIONS", "/"),
    ("PROPFIND", "/"): (405, "?", "/"),
    (KEY, "/"): (405, "?", "/"),
}


@pytest.mark.parametrize(("asked", "logged"), REFUSED.items(), ids=range(len(REFUSED)))
def test_what_is_not_found_is_logged_without_secrets(
    env: dict[str, str],
    capsys: pytest.CaptureFixture[str],
    asked: tuple[str, str],
    logged: tuple[int, str, str],
) -> None:
    environ = {"PATH_INFO": asked[1], "QUERY_STRING": f"key={KEY}"}
    client = create_app(env).test_client()
    client.open(method=asked[0], environ_overrides=environ, buffered=True)
    (line,) = request_lines(capsys)
    assert (line["status"], line["method"], line["path"]) == logged
    assert summed([json.dumps(line)]) == ([], 1)


def test_a_proxy_without_settings_logs_requests_too(capsys: pytest.CaptureFixture[str]) -> None:
    environ = {"HTTP_X_FORWARDED_FOR": "192.0.2.7", "HTTP_X_STAINLESS_RETRY_COUNT": "\xb2"}
    create_app({}).test_client().get("/v1/x", environ_overrides=environ, buffered=True)
    line = request_lines(capsys)[-1]
    found = (line["status"], line["path"], line["client"], line["retry"])
    assert found == (404, "/v1/x", "192.0.2.7", None)


def ask_for_a_stream(env: dict[str, str]) -> AbstractContextManager[TestResponse]:
    body = asking("Hi [[gap=0.1]]", stream=True)
    return create_app(env).test_client().post("/", json=body, headers=BEARER, buffered=False)


@pytest.mark.parametrize("kind", [SystemExit, GreenletExit])
@pytest.mark.parametrize(("place", "status"), [("open", None), ("pieces", None), ("later", 200)])
def test_a_server_that_ends_the_request_cuts_it(
    env: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    kind: type[BaseException],
    place: str,
    status: int | None,
) -> None:
    """As gunicorn's sync worker does after 30 seconds, wherever the request is just then."""
    pieces = Reply.pieces

    def shut_down(reply: Reply, *_: object) -> Iterator[bytes]:
        if place == "later":
            yield next(pieces(reply))
        raise kind

    def shut_down_at_once(*_: object) -> None:
        raise kind

    monkeypatch.setattr(Reply, "pieces", shut_down)
    if place == "open":
        monkeypatch.setattr(Upstream, "open", shut_down_at_once)
    with pytest.raises(kind), ask_for_a_stream(env) as response:
        assert response.data
    (line,) = request_lines(capsys)
    assert (line["ended"], line["status"], line["key"]) == ("cut", status, "master")
    assert line["level"] == "error"


def test_a_server_that_cannot_send_has_lost_the_client(
    env: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Every server closes the response then."""
    with pytest.raises(BrokenPipeError), ask_for_a_stream(env) as response:
        assert next(response.iter_encoded())
        raise BrokenPipeError
    (line,) = request_lines(capsys)
    assert (line["ended"], line["status"], line["level"]) == ("client_gone", 200, "info")


def test_the_time_ends_with_the_response(
    env: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Closing what the response used is not counted."""
    closing: list[float] = []

    def close(_: Reply) -> None:
        closing.append(time.monotonic())
        time.sleep(0.1)

    monkeypatch.setattr(Reply, "close", close)
    began = time.monotonic()
    with ask_for_a_stream(env) as response:
        assert response.data
    (line,) = request_lines(capsys)
    assert 0 < line["first_token_ms"] <= line["total_ms"] < 1000 * (closing[0] - began)


# --- of the proxy as shipped ------------------------------------------------------------------


def entries(server: Server) -> list[dict[str, Any]]:
    """The lines of requests, probes of our own start apart."""
    found = [json.loads(line) for line in server.log.splitlines() if line.startswith("{")]
    return [line for line in found if line.get("key")]


@pytest.fixture(scope="module")
def served(serve: Serve, running_emulator: Emulator) -> Iterator[Server]:
    keys = "alice:alice-Kx7Wq2Rt9Zb4,bob:bob-Jm5Np8Vc3Hs6"
    more = {"LLAMA_PROVIDER_TIMEOUT": "1", "LLAMA_PROVIDER_IDLE_TIMEOUT": "1", "TZ": "JST-9"}
    env = serving.settings(running_emulator.url, WORKER_ACCESS_KEYS=keys, **more)
    with serve(env) as server:
        yield server


def last(server: Server, number: int) -> dict[str, Any]:
    """The line after so many; it is written when the connection's work is over."""
    wait_until(lambda: len(entries(server)) > number)
    return entries(server)[number]


CASES = {  # what is said, stream; status, the provider's, how it ended, code, level, more fields
    "whole": ("Hi", False, 200, 200, "done", None, "info", []),
    "stream": ("Hi", True, 200, 200, "done", None, "info", []),
    "cut": ("[[close=middle,gap=0.01]]", True, 200, 200, "cut", "provider_failed", "error", []),
    "input": ("[[status=400]]", True, 400, 400, "refused", "provider_rejected_input", "info", []),
    "key": ("[[status=401]]", False, 502, 401, "refused", "provider_auth_failed", "error", ["fix"]),
    "timeout": ("[[silent]]", False, 502, None, "timeout", "provider_timeout", "error", ["fix"]),
    "late": ("[[stall=2]]", True, 200, 200, "timeout", "provider_timeout", "error", ["fix"]),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_request_leaves_one_line(served: Server, case: tuple[Any, ...]) -> None:
    said, stream, status, provider_status, *outcome, more = case
    before = len(entries(served))
    answer = answer_to(served, post(said, "x-stainless-retry-count: 1", stream=stream))
    line = last(served, before)
    assert len(entries(served)) == before + 1
    assert [name for name in line if name != "seen"] == FIELDS + more
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"])
    age = datetime.now(UTC) - datetime.fromisoformat(line["time"])
    assert abs(age) < timedelta(hours=1)  # the server's own zone is nine hours off
    assert (line["status"], line["provider_status"]) == (status, provider_status)
    assert [line["ended"], line["code"], line["level"]] == outcome
    assert line["request_id"] == answer.headers["X-Request-Id"]
    assert (line["key"], line["model"], line["path"]) == ("master", MODEL, "/")
    assert (line["stream"], line["retry"], line["provider"]) == (stream, 1, "workers-ai")
    assert (line["client"], line["method"]) == (serving.HOST, "POST")
    assert line["provider_request_id"] == answer.headers["X-Provider-Request-Id"]
    assert (line["first_token_ms"] is not None) == (stream and answer.status == 200)
    assert line["total_ms"] > 0
    assert line["bytes"] == len(answer.body)
    tokens = (1, 10) if said == "Hi" else (None, None)  # null where the provider did not count
    assert (line["prompt_tokens"], line["completion_tokens"]) == tokens


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_caller_who_leaves_is_told_apart(served: Server, stream: bool) -> None:
    before = len(entries(served))
    with served.connect() as connection:
        connection.sendall(post("[[gap=0.1,words=50]] Hi [[wait=0.5]]", stream=stream))
        if stream:
            serving.read_until(connection, b"data: ")
    line = last(served, before)
    assert (line["ended"], line["level"]) == ("client_gone", "info")
    assert (line["status"], line["code"]) == (200 if stream else None, None)


def test_a_caller_who_leaves_while_a_whole_answer_is_sent(served: Server) -> None:
    """It has read a little, and there is much: what was not sent is not counted."""
    before = len(entries(served))
    with deaf(served) as connection:
        connection.sendall(post("[[huge=7000000]] Hi"))
        assert connection.recv(1000)
    line = last(served, before)
    assert (line["ended"], line["status"], line["bytes"]) == ("client_gone", 200, 0)


@pytest.mark.parametrize("leave", [socket.socket.close, reset], ids=["close", "reset"])
def test_a_caller_who_leaves_in_the_middle_of_its_body(
    served: Server, leave: Callable[[socket.socket], None]
) -> None:
    before = len(entries(served))
    connection = served.connect()
    connection.sendall(post("Hi")[:-9])
    leave(connection)
    assert last(served, before)["ended"] == "client_gone"


def test_nothing_is_sent_for_head(served: Server) -> None:
    before = len(entries(served))
    with served.connect() as connection:
        head = f"HEAD /models HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n"
        connection.sendall(f"{head}Connection: close\r\n\r\n".encode())
        received = serving.read_to_end(connection)
    assert b"Content-Length: " in received
    assert received.endswith(b"\r\n\r\n")
    line = last(served, before)
    assert (line["path"], line["bytes"], line["ended"]) == ("/models", 0, "done")


def test_the_usage_of_many_requests_is_what_the_provider_counted(
    served: Server, emulator: Emulator
) -> None:
    """Three keys, whole and streamed, some cut: the report of the log and the emulator agree."""
    keys = {"master": KEY, "alice": "alice-Kx7Wq2Rt9Zb4", "bob": "bob-Jm5Np8Vc3Hs6"}
    before = len(entries(served))
    cut = "[[close=middle,gap=0.001]]"
    for number in range(200):
        key = list(keys.values())[number % 3]
        said = f"{cut if number % 10 == 9 else ''} word number {number}"
        answer_to(served, post(said, stream=number % 2 == 1, key=key))
    wait_until(lambda: len(entries(served)) == before + 200)
    lines = [json.dumps(line) for line in entries(served)[before:]]
    rows, others = summed(lines)
    assert others == 0
    assert [row["key"] for row in rows] == ["alice", "bob", "master"]
    told = [received.usage for received in emulator.requests if received.done.is_set()]
    assert len(told) == 180
    names = ("prompt_tokens", "completion_tokens", "total_tokens")
    counted = {name: sum(usage[name] for usage in told if usage) for name in names}
    assert {name: sum(row[name] for row in rows) for name in counted} == counted
    assert sum(row["requests"] for row in rows) == len(emulator.requests) == 200
    assert sum(row["errors"] for row in rows) == 20


def test_what_gunicorn_refuses_leaves_a_line_too(served: Server) -> None:
    with served.connect() as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nbroken header\r\n\r\n")
        (answer,) = serving.answers(serving.read_to_end(connection))
    lines = [text for text in served.log.splitlines() if answer.headers["X-Request-Id"] in text]
    line = json.loads(lines[0])
    assert (line["status"], line["code"], line["ended"]) == (400, "invalid_http", "refused")
    assert (line["raised"], line["client"]) == ("InvalidHeader", serving.HOST)
