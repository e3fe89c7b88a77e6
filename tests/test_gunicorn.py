"""gunicorn as shipped, in front of the emulator: the wire, as clients and attackers see it."""

import json
import re
import socket
import subprocess
import sys

import pytest
import serving
from conftest import Serve
from crowd import (
    answer_to,
    asking,
    chunk,
    chunked,
    error_of,
    exchange,
    outcome,
    post,
    request,
)
from serving import ACCOUNT, DEADLINE, KEY, Server, answers, read_to_end, read_until

from emulator import Emulator

AUTHORIZATION = f"Authorization: Bearer {KEY}"
CURL = ["curl", "--silent", "--show-error", "--fail-with-body", "--max-time", "30"]


# --- it answers -------------------------------------------------------------------------------


def test_curl(proxy: Server) -> None:
    command = [*CURL, proxy.url, "-H", AUTHORIZATION, "-d", asking("Hi")]  # as a form, says curl
    result = subprocess.run(command, capture_output=True, check=True)
    assert json.loads(result.stdout)["choices"][0]["message"]["content"].endswith('"Hi"')


def test_curl_streams(proxy: Server) -> None:
    command = [*CURL, "-N", f"{proxy.url}/v1/chat/completions", "-H", AUTHORIZATION, "-d", "@-"]
    result = subprocess.run(command, input=asking("Hi", stream=True), capture_output=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.endswith(b"\n\ndata: [DONE]\n\n")


def test_headers_of_an_answer(proxy: Server) -> None:
    answer = answer_to(proxy, post("Hi", "X-Request-Id: mine-1"))
    assert answer.status == 200
    assert answer.headers.get_all("X-Request-Id") == ["mine-1"]
    assert answer.headers["Content-Length"] == str(len(answer.body))
    assert not {"cf-ray", "set-cookie"} & {name.lower() for name in answer.headers}


def test_a_body_in_chunks(proxy: Server) -> None:
    body = asking("Hi")
    assert answer_to(proxy, chunked(*(chunk(bytes([byte])) for byte in body))).status == 200


# --- streams come as they come ----------------------------------------------------------------


@pytest.mark.parametrize("framing", ["chunked", "length", "close"])
def test_a_token_arrives_before_the_provider_sends_the_next(
    proxy: Server, emulator: Emulator, framing: str
) -> None:
    """The emulator falls silent after two words, and the client has both."""
    with proxy.connect() as connection:
        connection.sendall(post(f"[[framing={framing},stall=2]]", stream=True))
        received = read_until(connection, b'"content":"is "')
        assert b"[DONE]" not in received
        assert b'"error"' not in received  # nor did it come with the end by a deadline
        assert not emulator.requests[0].done.is_set()


def test_a_stream_has_its_headers_and_proper_end(proxy: Server) -> None:
    answer = answer_to(proxy, post("Hi", stream=True))
    assert outcome(answer) == "done"
    assert {
        "Content-Type": "text/event-stream; charset=utf-8",
        "Cache-Control": "no-cache",
        "X-Accel-Buffering": "no",
        "Transfer-Encoding": "chunked",
    }.items() <= dict(answer.headers).items()


@pytest.mark.parametrize("directive", ["reset=middle", "no_done"])
def test_a_cut_stream_ends_properly_on_the_wire(proxy: Server, directive: str) -> None:
    """The body is complete in HTTP, and its last event is an error."""
    answer = answer_to(proxy, post(f"[[{directive},gap=0.01]]", stream=True))
    assert outcome(answer).startswith("provider_")


# --- malformed requests -----------------------------------------------------------------------

INVALID = (400, "invalid_http")
NOT_JSON = (400, "invalid_json")
GOOD_CHUNK = chunk(asking("Hi"))
LENGTH = "Content-Length: {}".format
MALFORMED = {
    "header line without a colon": (request(b"", f"Authorization Bearer {KEY}"), INVALID),
    "header with a blank before its colon": (request(b"", f"X-Key : {KEY}"), INVALID),
    "folded header": (request(b"", f"X-Key: a\r\n {KEY}"), INVALID),
    "NUL in a header": (request(b"", f"X-Key: {KEY}\0"), INVALID),
    "bare line feeds": (request().replace(b"\r\n", b"\n"), INVALID),
    "line too long": (request(line=f"POST /?{KEY}{'x' * 5000} HTTP/1.1"), (414, "invalid_http")),
    "header too long": (request(b"", f"X-Key: {KEY}{'x' * 9000}"), (431, "invalid_http")),
    "two equal lengths": (request(b"{}", LENGTH(2)), INVALID),
    "length and chunks": (request(b"0\r\n\r\n", "Transfer-Encoding: chunked"), INVALID),
    "length +2": (request(b"{}", LENGTH("+2"), length=None), INVALID),
    "length 2, 2": (request(b"{}", LENGTH("2, 2"), length=None), INVALID),
    "length \\xb2": (request(b"{}", LENGTH("\xb2"), length=None), INVALID),
    "length of 5000 digits": (request(b"{}", LENGTH("1" * 5000), length=None), INVALID),
    "coding without a name": (
        request(b"", "Transfer-Encoding: ,chunked", length=None),
        (501, "invalid_http"),
    ),
    "HTTP/9": (request(line="POST / HTTP/9.9"), INVALID),
    "HTTP/2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", INVALID),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"x" * 100 + b"\r\n\r\n", INVALID),
    "lower-case method": (request(line="post / HTTP/1.1"), INVALID),
    "chunk size that is none": (chunked(b"xyz\r\n{}\r\n"), NOT_JSON),
    "chunk longer than its size": (chunked(b"1\r\n{}\r\n"), NOT_JSON),
    "bare CR in a chunk extension": (chunked(b"2;a\rb\r\n{}\r\n"), NOT_JSON),
}


@pytest.mark.parametrize(("sent", "expected"), MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_request_is_one_answer_in_json(
    proxy: Server, emulator: Emulator, sent: bytes, expected: tuple[int, str]
) -> None:
    """Whatever follows on the wire is no second request, and nothing of it is shown."""
    received = exchange(proxy, sent + post("smuggled"))
    (answer,) = answers(received)
    assert error_of(answer) == expected
    assert KEY.encode() not in received
    assert emulator.requests == []
    assert KEY not in proxy.log


@pytest.mark.parametrize(
    "sent",
    [
        request(b"{}", length=100),
        request(asking("Hi"), length=len(asking("Hi")) + 1),
        chunked(b"a\r\n{}", end=b""),
        chunked(GOOD_CHUNK, end=b""),
    ],
    ids=["3 of 100 bytes", "all but one byte", "half a chunk", "no last chunk"],
)
def test_a_body_that_ends_too_soon(proxy: Server, emulator: Emulator, sent: bytes) -> None:
    assert error_of(answer_to(proxy, sent, fin=True)) == NOT_JSON
    assert emulator.requests == []


def test_a_body_over_the_limit(proxy: Server) -> None:
    """1,000,000 bytes here; in chunks it cannot be known before it is read."""
    big = asking("x" * 1_000_000)
    many = [chunk(big[start : start + 10_000]) for start in range(0, len(big), 10_000)]
    for sent in (request(big), chunked(*many), request(b"", length=10**12)):
        assert error_of(answer_to(proxy, sent, fin=True)) == (413, "request_too_large")


def test_an_answer_is_readable_while_five_megabytes_are_on_their_way(proxy: Server) -> None:
    for key, expected in (("wrong", (401, "invalid_api_key")), (KEY, (413, "request_too_large"))):
        assert error_of(answer_to(proxy, request(b"x" * 5_000_000, key=key))) == expected


def test_a_refused_head_is_answered_before_its_body_is_read(proxy: Server) -> None:
    """A client that sends on does not meet a reset, and can read the answer."""
    sent = request(b"x" * 1000, length=5_000_000).replace(b"\r\n", b"\r\nno colon\r\n", 1)
    with proxy.connect() as connection:
        connection.sendall(sent)
        answer = read_until(connection, b"}}")
        for _ in range(10):
            connection.sendall(b"x" * 100_000)
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(1) == b""
    assert answer.startswith(b"HTTP/1.1 400 ")


def test_a_wrong_key_is_refused_before_a_gigabyte_is_sent(proxy: Server) -> None:
    with proxy.connect() as connection:
        connection.sendall(request(b"x", key="wrong", length=10**9))
        assert read_until(connection, b"}}").startswith(b"HTTP/1.1 401 ")


# --- odd, and allowed -------------------------------------------------------------------------


def test_requests_sent_at_once_are_answered_in_order(proxy: Server) -> None:
    said = [f"number-{number}" for number in range(10)]
    found = answers(exchange(proxy, b"".join(post(text, keep=text != said[-1]) for text in said)))
    texts = [json.loads(answer.body)["choices"][0]["message"]["content"] for answer in found]
    assert [text.split('"')[1] for text in texts] == said


def test_a_body_that_looks_like_a_request_is_none(proxy: Server, emulator: Emulator) -> None:
    """A 401 does not read the body; what follows it is the next request all the same."""
    refused = request(post("smuggled"), key="wrong", keep=True)
    found = answers(exchange(proxy, refused + post("real")))
    assert [answer.status for answer in found] == [401, 200]
    assert [received.json["messages"][0]["content"] for received in emulator.requests] == ["real"]


def test_a_stream_in_http_1_0_has_no_chunks(proxy: Server) -> None:
    stream = exchange(proxy, post("Hi", stream=True, line="POST / HTTP/1.0"))
    assert b"Transfer-Encoding" not in stream
    assert stream.endswith(b"data: [DONE]\n\n")


LINES = {
    "OPTIONS / HTTP/1.1": 405,
    "FOO / HTTP/1.1": 405,
    "DELETE /v1/chat/completions HTTP/1.1": 405,
    "POST //v1/chat/completions HTTP/1.1": (200, 404),  # Werkzeug's router allows the first two
    "POST /v1//chat/completions HTTP/1.1": 404,
    "POST /v1/../ HTTP/1.1": 404,
    "POST /%2e%2e HTTP/1.1": 404,
    "POST /%ff HTTP/1.1": 404,
    "POST /?key=value HTTP/1.1": 200,
    "POST /%76%31/chat/completions HTTP/1.1": 200,
    "OPTIONS * HTTP/1.1": (404, 405),
    "CONNECT evil.example.org:443 HTTP/1.1": (400, 404, 405),
    "POST http://evil.example.org/ HTTP/1.1": (200, 404),
}


@pytest.mark.parametrize(("line", "expected"), LINES.items(), ids=LINES)
def test_the_request_line(
    proxy: Server, emulator: Emulator, line: str, expected: int | tuple[int, ...]
) -> None:
    answer = answer_to(proxy, post("Hi", line=line))
    assert answer.status in (expected if isinstance(expected, tuple) else (expected,))
    assert answer.headers["Content-Type"] == "application/json"
    assert "Location" not in answer.headers
    assert answer.status == 200 or b"evil" not in answer.body
    assert len(emulator.requests) == (answer.status == 200)


HEADERS = {
    "SCRIPT_NAME: /evil": (200, 400),
    "Script-Name: /evil": (200,),
    "PATH_INFO: /evil": (200, 400),
    "X-Forwarded-Host: evil": (200,),
    "X-Forwarded-Prefix: /evil": (200,),
    "X-Forwarded-Proto: https\r\nX-Forwarded-Ssl: off": (200, 400),
    "X-HTTP-Method-Override: GET": (200,),
    "Accept: text/html": (200,),
    "Accept-Encoding: gzip": (200,),
    "Content-Type: text/plain": (200,),
    "Cookie: \xff\xfe=evil": (200, 400),
}


@pytest.mark.parametrize(("header", "expected"), HEADERS.items(), ids=[f"{h!a}" for h in HEADERS])
def test_a_header_changes_nothing(
    proxy: Server, emulator: Emulator, header: str, expected: tuple[int, ...]
) -> None:
    answer = answer_to(proxy, post("Hi", header))
    assert answer.status in expected
    assert answer.headers["Content-Type"] == "application/json"
    assert b"evil" not in answer.body
    assert b"evil" not in b"".join(received.body for received in emulator.requests)
    assert {received.path.split("/")[4] for received in emulator.requests} <= {ACCOUNT}


def test_two_authorization_headers(proxy: Server) -> None:
    found = error_of(answer_to(proxy, request(b"{}", AUTHORIZATION)))
    assert found in ((401, "invalid_api_key"), INVALID)


def test_continue_is_said_before_the_body_is_sent(proxy: Server) -> None:
    body = asking("Hi")
    with proxy.connect() as connection:
        connection.sendall(request(b"", "Expect: 100-continue", length=len(body)))
        assert read_until(connection, b"\r\n\r\n").startswith(b"HTTP/1.1 100 ")
        connection.sendall(body)
        (answer,) = answers(read_to_end(connection))
    assert answer.status == 200


# --- the process ------------------------------------------------------------------------------


def test_what_gunicorn_itself_needs_must_make_sense() -> None:
    """A line for each variable, without its value, and an end."""
    wrong = {"PORT": "70000", "WEB_CONCURRENCY": "65", "GRACEFUL_TIMEOUT": "25s"}
    result = subprocess.run(
        [sys.executable, "-m", "gunicorn", "app:app"],
        cwd=serving.ROOT,
        env={**serving.system_environment(), **serving.BLANK, **wrong},
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )
    assert result.returncode != 0
    lines = result.stderr.splitlines()
    assert {line.partition(": ")[0] for line in lines} == wrong.keys()
    assert len(lines) == len(wrong)
    assert not set(wrong.values()) & set(result.stderr.split())


def test_with_broken_settings_it_serves_500_and_says_why_once(
    serve: Serve, emulator: Emulator
) -> None:
    """A missing key must not take down the health check."""
    env = serving.settings(emulator.url, LLAMA_PROVIDER_API_KEY="", LOG_LEVEL="loud")
    with serve(env) as server:
        assert error_of(answer_to(server, request())) == (500, "proxy_misconfigured")
        for name in ("LLAMA_PROVIDER_API_KEY", "LOG_LEVEL"):
            lines = [line for line in server.log.splitlines() if f'"{name}: ' in line]
            assert len(lines) == 1


def test_it_listens_where_it_should(proxy: Server) -> None:
    """With PORT set, as a platform does, on all addresses, IPv6's too."""
    found = re.findall(r"Listening at: http://(\S+):[0-9]+ ", proxy.log)
    assert found in (["[::]"], ["0.0.0.0"])  # noqa: S104
    if found == ["[::]"] and socket.has_ipv6:
        with socket.create_connection(("::1", proxy.port), timeout=DEADLINE):
            pass
