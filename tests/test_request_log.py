"""One line for each request: what is in it, how it ended, and what never is."""

import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from itertools import islice
from socket import socket
from typing import Any

import pytest
import serving
from conftest import Serve
from crowd import answer_to, deaf, exchange, post, request, reset
from gevent import GreenletExit
from serving import BEARER, KEY, MODEL, Server, asking, wait_until
from werkzeug.test import TestResponse

from app import create_app
from emulator import Emulator
from proxy import request_log
from proxy.__main__ import summed
from proxy.errors import ProviderError
from proxy.request_log import Entry, client_address
from proxy.upstream import Reply

KEYS = {"alice": "alice-Kx7Wq2Rt9Zb4", "bob": "bob-Jm5Np8Vc3Hs6", "master": KEY}
FIELDS = [
    *("time", "level", "request_id", "client", "method", "path", "key", "model"),
    *("provider", "provider_model", "status"),
    *("provider_status", "provider_request_id", "code", "stream"),
    *("prompt_tokens", "completion_tokens"),
    *("first_token_ms", "total_ms", "retry", "bytes", "ended"),
]


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
    "/v1/chat/completions/": "/v1/chat/completions/",
    "/openai/deployments/gpt-4o/chat/completions": "/openai/deployments/gpt-4o/chat/completions",
    "/v1beta/gemini:generateContent": "/v1beta/?",
    '/a b\r\n\x00\xc3\xa9"<>/c': "/?",
    "/" + "abcdefghij/" * 9: "/" + ("abcdefghij/" * 9)[:61] + "/?",
    "/short" * 10 + "/end/Key": "/short" * 10 + "/e/?",
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


def test_what_is_not_found_is_logged_without_secrets(
    env: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    client = create_app(env).test_client()
    for method, path in REFUSED:
        environ = {"PATH_INFO": path, "QUERY_STRING": f"key={KEY}"}
        client.open(method=method, environ_overrides=environ, buffered=True)
    lines = request_lines(capsys)
    logged = [(line["status"], line["method"], line["path"]) for line in lines]
    assert dict(zip(REFUSED, logged, strict=True)) == REFUSED
    assert summed(map(json.dumps, lines)) == ([], len(lines))


def test_a_proxy_without_settings_logs_requests_too(capsys: pytest.CaptureFixture[str]) -> None:
    environ = {"HTTP_X_FORWARDED_FOR": "192.0.2.7", "HTTP_X_STAINLESS_RETRY_COUNT": "\xb2"}
    create_app({}).test_client().get("/v1/x", environ_overrides=environ, buffered=True)
    line = request_lines(capsys)[-1]
    found = (line["status"], line["path"], line["client"], line["retry"])
    assert found == (404, "/v1/x", "192.0.2.7", None)


def ask_for_a_stream(env: dict[str, str]) -> AbstractContextManager[TestResponse]:
    body = asking("Hi [[gap=0.01]]", stream=True)
    return create_app(env).test_client().post("/", json=body, headers=BEARER, buffered=False)


@pytest.mark.parametrize("kind", [SystemExit, GreenletExit])
@pytest.mark.parametrize(("pieces", "status"), [(0, None), (1, 200)], ids=["before", "later"])
def test_a_server_that_ends_the_request_cuts_it(
    env: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    kind: type[BaseException],
    pieces: int,
    status: int | None,
) -> None:
    """As gunicorn's sync worker does after 30 seconds, before the response or within it."""
    whole = Reply.pieces

    def shut_down(reply: Reply) -> Iterator[bytes]:
        yield from islice(whole(reply), pieces)
        raise kind

    monkeypatch.setattr(Reply, "pieces", shut_down)
    with pytest.raises(kind), ask_for_a_stream(env) as response:
        assert response.data
    (line,) = request_lines(capsys)
    assert (line["ended"], line["status"], line["key"]) == ("cut", status, "master")
    assert line["level"] == "error"


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


Lines = Callable[..., list[dict[str, Any]]]


@pytest.fixture(scope="module")
def served(serve: Serve, running_emulator: Emulator) -> Iterator[Server]:
    keys = ",".join(f"{name}:{key}" for name, key in KEYS.items() if name != "master")
    more = {"LLAMA_PROVIDER_TIMEOUT": "1", "LLAMA_PROVIDER_IDLE_TIMEOUT": "1", "TZ": "JST-9"}
    env = serving.settings(running_emulator.url, WORKER_ACCESS_KEYS=keys, **more)
    with serve(env) as server:
        yield server


@pytest.fixture
def new_lines(served: Server, emulator: Emulator) -> Lines:
    """So many lines since the test began; each is written when its connection's work is over."""

    def entries() -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in served.log.splitlines() if line.startswith("{")]
        return [line for line in lines if line.get("key")]  # not the probes of our own start

    before = len(entries())

    def awaited(number: int = 1) -> list[dict[str, Any]]:
        wait_until(lambda: len(entries()) >= before + number)
        return entries()[before:]

    return awaited


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
def test_a_request_leaves_one_line(served: Server, new_lines: Lines, case: tuple[Any, ...]) -> None:
    prompt, stream, status, provider_status, *outcome, more = case
    answer = answer_to(served, post(prompt, "x-stainless-retry-count: 1", stream=stream))
    (line,) = new_lines()
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
    tokens = (1, 10) if prompt == "Hi" else (None, None)  # null where the provider did not count
    assert (line["prompt_tokens"], line["completion_tokens"]) == tokens


LEAVES = {  # what is sent, and read of the response; how the caller leaves; the status
    "before the answer": (post("[[wait=1]]"), b"", socket.close, None),
    "within the stream": (post("[[gap=0.1,words=50]]", stream=True), b"data: ", socket.close, 200),
    "within a large answer": (post("[[huge=7000000]]"), b"HTTP/1.1 200", socket.close, 200),
    "within its own body": (post("Hi")[:-9], b"", socket.close, None),
    "within it, by a reset": (post("Hi")[:-9], b"", reset, None),
}


@pytest.mark.parametrize(("sent", "read", "leave", "status"), LEAVES.values(), ids=LEAVES)
def test_a_caller_who_leaves_is_told_apart(
    served: Server,
    new_lines: Lines,
    sent: bytes,
    read: bytes,
    leave: Callable[[socket], None],
    status: int | None,
) -> None:
    with deaf(served) as connection:
        connection.sendall(sent)
        serving.read_until(connection, read)
        leave(connection)
    (line,) = new_lines()
    assert (line["ended"], line["level"], line["code"]) == ("client_gone", "info", None)
    assert line["status"] == status
    assert (line["bytes"] > 0) == line["stream"]  # of a whole answer it has not read all


def test_nothing_is_sent_for_head(served: Server, new_lines: Lines) -> None:
    received = exchange(served, request(b"", line="HEAD /models HTTP/1.1"))
    assert b"Content-Length: " in received
    assert received.endswith(b"\r\n\r\n")
    (line,) = new_lines()
    assert (line["path"], line["bytes"], line["ended"]) == ("/models", 0, "done")


def test_the_usage_of_many_requests_is_what_the_provider_counted(
    served: Server, new_lines: Lines, emulator: Emulator
) -> None:
    """Three keys, whole and streamed, some cut: the report of the log and the emulator agree."""
    keys = list(KEYS.values())
    for number in range(200):
        prompt = "[[close=middle,gap=0.001]]" if number % 10 == 9 else f"word number {number}"
        answer_to(served, post(prompt, stream=number % 2 == 1, key=keys[number % 3]))
    rows, others = summed(json.dumps(line) for line in new_lines(200))
    assert others == 0
    assert [row["key"] for row in rows] == sorted(KEYS)
    told = [received.usage for received in emulator.requests if received.done.is_set()]
    assert len(told) == 180
    for name in ("prompt_tokens", "completion_tokens", "total_tokens"):
        assert sum(row[name] for row in rows) == sum(usage[name] for usage in told if usage)
    assert sum(row["requests"] for row in rows) == len(emulator.requests) == 200
    assert sum(row["errors"] for row in rows) == 20


def test_what_gunicorn_refuses_leaves_a_line_too(served: Server) -> None:
    answer = answer_to(served, b"GET / HTTP/1.1\r\nbroken header\r\n\r\n")
    lines = [text for text in served.log.splitlines() if answer.headers["X-Request-Id"] in text]
    line = json.loads(lines[0])
    assert (line["status"], line["code"], line["ended"]) == (400, "invalid_http", "refused")
    assert (line["raised"], line["client"]) == ("InvalidHeader", serving.HOST)
