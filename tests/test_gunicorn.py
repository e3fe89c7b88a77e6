"""gunicorn as shipped, in front of the emulator: the wire, as clients and attackers see it."""

import json
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import pytest
import serving
from conftest import Serve
from serving import (
    ACCOUNT,
    DEADLINE,
    KEY,
    PROVIDER_KEY,
    HTTPAnswer,
    Server,
    answers,
    read_to_end,
    read_until,
)

from emulator import Emulator

HELLO = {"messages": [{"role": "user", "content": "Hi"}]}
AUTHORIZATION = f"Authorization: Bearer {KEY}"


def asking(said: str, **fields: Any) -> bytes:
    return json.dumps({"messages": [{"role": "user", "content": said}], **fields}).encode()


def request(
    body: bytes = json.dumps(HELLO).encode(),
    *headers: str,
    line: str = "POST / HTTP/1.1",
    length: int | None = None,
) -> bytes:
    """A request with a good key; the connection is to end after it."""
    length = len(body) if length is None else length
    head = [line, "Host: proxy", AUTHORIZATION, "Connection: close", f"Content-Length: {length}"]
    return "\r\n".join([*head, *headers, "", ""]).encode("latin-1") + body


def chunked(*chunks: bytes, end: bytes = b"0\r\n\r\n") -> bytes:
    """A request whose body is said to be in chunks, and then these bytes."""
    head = request(b"", "Transfer-Encoding: chunked").replace(b"Content-Length: 0\r\n", b"")
    return head + b"".join(chunks) + end


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def without_length(*headers: str, line: str = "POST / HTTP/1.1") -> bytes:
    head = [line, "Host: proxy", AUTHORIZATION, "Connection: close", *headers, "", ""]
    return "\r\n".join(head).encode("latin-1")


def exchange(proxy: Server, sent: bytes, *, fin: bool = False) -> bytes:
    """All that comes back until the proxy closes."""
    with proxy.connect() as connection:
        with suppress(ConnectionError):  # it may answer and close before it has read all
            connection.sendall(sent)
            if fin:
                connection.shutdown(socket.SHUT_WR)
        return read_to_end(connection)


def error_of(answer: HTTPAnswer) -> tuple[int, str]:
    assert answer.headers["Content-Type"] == "application/json"
    error = json.loads(answer.body)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"].endswith(answer.headers["X-Request-Id"])
    return answer.status, error["code"]


def only_error(proxy: Server, sent: bytes, *, fin: bool = False) -> tuple[int, str]:
    """The one answer, an error in our form."""
    (answer,) = answers(exchange(proxy, sent, fin=fin))
    return error_of(answer)


@contextmanager
def streaming(proxy: Server, said: str, **fields: Any) -> Iterator[socket.socket]:
    """A connection on which a stream was asked."""
    with proxy.connect() as connection:
        connection.sendall(request(asking(said, stream=True, **fields)))
        yield connection


# --- it answers -------------------------------------------------------------------------------


def test_curl(proxy: Server) -> None:
    command = ["curl", "--silent", "--show-error", "--fail-with-body", "--max-time", "30"]
    command += [proxy.url, "-H", AUTHORIZATION, "-d", json.dumps(HELLO)]  # as a form, says curl
    result = subprocess.run(command, capture_output=True, check=True)
    assert json.loads(result.stdout)["choices"][0]["message"]["content"].endswith('"Hi"')


def test_curl_streams(proxy: Server) -> None:
    command = ["curl", "--silent", "--show-error", "--fail-with-body", "--max-time", "30", "-N"]
    command += [f"{proxy.url}/v1/chat/completions", "-H", AUTHORIZATION, "-d", "@-"]
    result = subprocess.run(command, input=asking("Hi", stream=True), capture_output=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.endswith(b"\n\ndata: [DONE]\n\n")


def test_headers_of_an_answer(proxy: Server) -> None:
    (answer,) = answers(exchange(proxy, request(asking("Hi"), "X-Request-Id: mine-1")))
    assert answer.status == 200
    assert answer.headers.get_all("X-Request-Id") == ["mine-1"]
    assert answer.headers["Content-Length"] == str(len(answer.body))
    assert not {"cf-ray", "set-cookie"} & {name.lower() for name in answer.headers}


def test_a_body_in_chunks(proxy: Server) -> None:
    body = asking("Hi")
    (answer,) = answers(exchange(proxy, chunked(*(chunk(bytes([byte])) for byte in body))))
    assert answer.status == 200


# --- streams come as they come ----------------------------------------------------------------


@pytest.mark.parametrize("framing", ["chunked", "length", "close"])
@pytest.mark.parametrize("spoken", [1, 2, 5])
def test_a_token_arrives_before_the_provider_sends_the_next(
    proxy: Server, emulator: Emulator, framing: str, spoken: int
) -> None:
    """The emulator falls silent after as many words, and the client has them all."""
    with streaming(proxy, f"[[framing={framing},stall={spoken}]]") as connection:
        words = ["This", "is", "the", "emulator,", "not"]
        received = read_until(connection, f'"content":"{words[spoken - 1]} "'.encode())
        assert b"[DONE]" not in received
        assert not emulator.requests[0].done.is_set()


def test_a_stream_has_its_headers_and_proper_end(proxy: Server) -> None:
    with streaming(proxy, "Hi") as connection:
        (answer,) = answers(read_to_end(connection))
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["Cache-Control"] == "no-cache"
    assert answer.headers["X-Accel-Buffering"] == "no"
    assert answer.headers["Transfer-Encoding"] == "chunked"
    assert answer.body.endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize("directive", ["reset=middle", "close=middle", "no_done", "junk"])
def test_a_cut_stream_ends_properly_on_the_wire(proxy: Server, directive: str) -> None:
    """The body is whole in HTTP, and its last event is an error."""
    with streaming(proxy, f"[[{directive},gap=0.01]]") as connection:
        (answer,) = answers(read_to_end(connection))
    assert b"[DONE]" not in answer.body
    last = json.loads(answer.body.decode().strip().split("\n\n")[-1].removeprefix("data: "))
    assert last["error"]["type"] == "provider_error"


def test_fifty_streams_at_once(proxy: Server, emulator: Emulator) -> None:
    """All are held by the emulator after the first word, and all have it."""
    with ExitStack() as stack:
        connections = [stack.enter_context(streaming(proxy, "[[stall=1]]")) for _ in range(50)]
        for connection in connections:
            read_until(connection, b'"content":"This "')
        assert len(emulator.requests) == 50
        for connection in connections:  # the proxy's own limit for silence ends them
            end = read_to_end(connection)
            assert b"provider_timeout" in end
            assert b"[DONE]" not in end


# --- malformed requests -----------------------------------------------------------------------

INVALID = (400, "invalid_http")
NOT_JSON = (400, "invalid_json")
GOOD_CHUNK = chunk(asking("Hi"))
MALFORMED = {
    "header line without a colon": (request(b"", f"Authorization Bearer {KEY}"), INVALID),
    "header with a blank before its colon": (request(b"", f"X-Key : {KEY}"), INVALID),
    "folded header": (request(b"", f"X-Key: a\r\n {KEY}"), INVALID),
    "NUL in a header": (request(b"", f"X-Key: {KEY}\0"), INVALID),
    "bare line feeds": (request(b"{}").replace(b"\r\n", b"\n"), INVALID),
    "header without a name": (request(b"", f": {KEY}"), INVALID),
    "line too long": (request(line=f"POST /?{KEY}{'x' * 5000} HTTP/1.1"), (414, "invalid_http")),
    "header too long": (request(b"", f"X-Key: {KEY}{'x' * 9000}"), (431, "invalid_http")),
    "too many headers": (
        request(b"", *[f"X-{n}: {KEY}" for n in range(120)]),
        (431, "invalid_http"),
    ),
    "unknown transfer coding": (
        without_length("Transfer-Encoding: xchunked"),
        (501, "invalid_http"),
    ),
    "two lengths": (request(b"{}", "Content-Length: 3"), INVALID),
    "two equal lengths": (request(b"{}", "Content-Length: 2"), INVALID),
    "length and chunks": (request(b"0\r\n\r\n", "Transfer-Encoding: chunked"), INVALID),
    "gzip as the transfer coding": (without_length("Transfer-Encoding: gzip"), INVALID),
    "chunks, then identity": (without_length("Transfer-Encoding: chunked, identity"), INVALID),
    "length +2": (without_length("Content-Length: +2") + b"{}", INVALID),
    "length -2": (without_length("Content-Length: -2") + b"{}", INVALID),
    "length 0x2": (without_length("Content-Length: 0x2") + b"{}", INVALID),
    "length of 5000 digits": (without_length("Content-Length: " + "1" * 5000) + b"{}", INVALID),
    "two hosts": (request(b"{}", "Host: other"), INVALID),
    "HTTP/0.9": (b"GET /\r\n\r\n", INVALID),
    "HTTP/9": (request(line="POST / HTTP/9.9"), INVALID),
    "no HTTP": (b"hello there\r\n\r\n", INVALID),
    "HTTP/2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", INVALID),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"x" * 100 + b"\r\n\r\n", INVALID),
    "lower-case method": (request(line="post / HTTP/1.1"), INVALID),
    "chunk size that is none": (chunked(b"xyz\r\n{}\r\n"), NOT_JSON),
    "chunk size 0x": (chunked(b"0x2\r\n{}\r\n"), NOT_JSON),
    "chunk size below zero": (chunked(b"-2\r\n{}\r\n"), NOT_JSON),
    "chunk longer than its size": (chunked(b"1\r\n{}\r\n"), NOT_JSON),
    "bare CR in a chunk extension": (chunked(b"2;a\rb\r\n{}\r\n"), NOT_JSON),
}  # fmt: skip


@pytest.mark.parametrize(("sent", "expected"), MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_request_is_one_answer_in_json(
    proxy: Server, emulator: Emulator, sent: bytes, expected: tuple[int, str]
) -> None:
    """Whatever follows on the wire is no second request, and nothing of it is shown."""
    received = exchange(proxy, sent + request(asking("smuggled")))
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
    assert only_error(proxy, sent, fin=True) == NOT_JSON
    assert emulator.requests == []


def test_a_client_that_leaves_in_the_middle_of_its_headers(proxy: Server) -> None:
    assert exchange(proxy, request()[:40], fin=True) == b""


def test_a_body_over_the_limit(proxy: Server) -> None:
    """1,000,000 bytes here; in chunks it cannot be known before it is read."""
    big = asking("x" * 1_000_000)
    assert only_error(proxy, request(big)) == (413, "request_too_large")
    many = [chunk(big[start : start + 10_000]) for start in range(0, len(big), 10_000)]
    assert only_error(proxy, chunked(*many)) == (413, "request_too_large")
    assert only_error(proxy, request(b"", length=10**12)) == (413, "request_too_large")


@pytest.mark.parametrize(
    ("authorization", "expected"),
    [("Bearer wrong", (401, "invalid_api_key")), (f"Bearer {KEY}", (413, "request_too_large"))],
    ids=["401", "413"],
)
def test_an_answer_is_readable_while_five_megabytes_are_on_their_way(
    proxy: Server, authorization: str, expected: tuple[int, str]
) -> None:
    body = b"x" * 5_000_000
    sent = request(body).replace(
        AUTHORIZATION.encode(), b"Authorization: " + authorization.encode()
    )
    assert only_error(proxy, sent) == expected


# --- odd, and allowed -------------------------------------------------------------------------


def test_pipelined_requests_are_answered_in_order(proxy: Server) -> None:
    one, two = (
        request(asking(said)).replace(b"Connection: close\r\n", b"") for said in ("one", "two")
    )
    found = answers(exchange(proxy, one + two + request(asking("three"))))
    assert [answer.status for answer in found] == [200, 200, 200]
    texts = [json.loads(a.body)["choices"][0]["message"]["content"] for a in found]
    assert [text.split('"')[1] for text in texts] == ["one", "two", "three"]


def test_a_body_that_looks_like_a_request_is_none(proxy: Server, emulator: Emulator) -> None:
    """A 401 does not read the body; what follows it is the next request all the same."""
    smuggled = request(asking("smuggled"))
    refused = request(smuggled).replace(AUTHORIZATION.encode(), b"X-No-Key: 1", 1)
    refused = refused.replace(b"Connection: close\r\n", b"", 1)
    found = answers(exchange(proxy, refused + request(asking("real"))))
    assert [answer.status for answer in found] == [401, 200]
    assert [received.json["messages"][0]["content"] for received in emulator.requests] == ["real"]


def test_a_connection_stays_open_for_more(proxy: Server) -> None:
    keep = request().replace(b"Connection: close\r\n", b"")
    with proxy.connect() as connection:
        for _ in range(3):
            connection.sendall(keep)
            assert read_until(connection, b'"usage":').startswith(b"HTTP/1.1 200 OK\r\n")


def test_http_1_0(proxy: Server) -> None:
    whole = exchange(proxy, request(line="POST / HTTP/1.0"))
    (answer,) = answers(whole)
    assert answer.status == 200
    stream = exchange(proxy, request(asking("Hi", stream=True), line="POST / HTTP/1.0"))
    assert b"Transfer-Encoding" not in stream
    assert stream.endswith(b"data: [DONE]\n\n")


def test_head_has_headers_only(proxy: Server) -> None:
    received = exchange(proxy, request(line="HEAD / HTTP/1.1"))
    (answer,) = answers(received, "HEAD")
    assert (answer.status, answer.headers["Allow"]) == (405, "POST")
    assert received.endswith(b"\r\n\r\n")


LINES = {
    "OPTIONS / HTTP/1.1": 405,
    "GET / HTTP/1.1": 405,
    "TRACE / HTTP/1.1": 405,
    "FOO / HTTP/1.1": 405,
    "DELETE /v1/chat/completions HTTP/1.1": 405,
    "GET /v1/engines HTTP/1.1": 404,
    "POST // HTTP/1.1": (200, 404),  # Werkzeug's router does not see a doubled first slash
    "POST //v1/chat/completions HTTP/1.1": (200, 404),
    "POST /v1//chat/completions HTTP/1.1": 404,
    "POST /v1/chat/completions/ HTTP/1.1": 404,
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
    (answer,) = answers(exchange(proxy, request(line=line)))
    assert answer.status in (expected if isinstance(expected, tuple) else (expected,))
    assert answer.headers["Content-Type"] == "application/json"
    assert "Location" not in answer.headers
    assert answer.status == 200 or b"evil" not in answer.body
    assert len(emulator.requests) == (answer.status == 200)


HEADERS = {
    "SCRIPT_NAME: /evil": (200, 400),
    "Script-Name: /evil": (200,),
    "SCRIPT_NAME: /": (200, 400),
    "PATH_INFO: /evil": (200, 400),
    "X_AUTH: evil": (200, 400),
    "X-Forwarded-Proto: https": (200,),
    "X-Forwarded-Host: evil": (200,),
    "X-Forwarded-Prefix: /evil": (200,),
    "X-HTTP-Method-Override: GET": (200,),
    "X-Original-URL: /evil": (200,),
    "Upgrade: h2c": (200,),
    "Accept: text/html": (200,),
    "Accept-Encoding: gzip": (200,),
    "Content-Type: text/plain": (200,),
    "Expect: 100-continue": (200,),
    "Expect: nonsense": (200, 400, 417),
    "Proxy: http://evil": (200,),
    "Cookie: \xff\xfe=evil": (200, 400),
}


@pytest.mark.parametrize(("header", "expected"), HEADERS.items(), ids=[f"{h!a}" for h in HEADERS])
def test_a_header_changes_nothing(
    proxy: Server, emulator: Emulator, header: str, expected: tuple[int, ...]
) -> None:
    (answer,) = answers(exchange(proxy, request(asking("Hi"), header)))
    assert answer.status in expected
    assert answer.headers["Content-Type"] == "application/json"
    assert b"evil" not in answer.body
    assert b"evil" not in b"".join(received.body for received in emulator.requests)
    assert {received.path.split("/")[4] for received in emulator.requests} <= {ACCOUNT}


def test_conflicting_forwarded_schemes_are_no_500(proxy: Server) -> None:
    headers = ("X-Forwarded-Proto: https", "X-Forwarded-Ssl: off")
    (answer,) = answers(exchange(proxy, request(asking("Hi"), *headers)))
    assert answer.status in (200, 400)


@pytest.mark.parametrize(
    "host", ["x/#", "x/?", "evil.example.org", "a b", "", "[", "x:99999", "\xe9"]
)
def test_the_host_changes_nothing(proxy: Server, emulator: Emulator, host: str) -> None:
    """Not who is let in, nor where it goes; at worst it is refused."""
    with_key = request(asking("Hi")).replace(b"Host: proxy", f"Host: {host}".encode("latin-1"))
    without_key = with_key.replace(AUTHORIZATION.encode(), b"X-No-Key: 1")
    (answer,) = answers(exchange(proxy, without_key))
    assert error_of(answer)[0] in (400, 401)
    assert emulator.requests == []
    (answer,) = answers(exchange(proxy, with_key))
    assert answer.status in (200, 400)
    assert answer.headers["Content-Type"] == "application/json"


def test_two_authorization_headers(proxy: Server) -> None:
    assert only_error(proxy, request(b"{}", AUTHORIZATION)) in ((401, "invalid_api_key"), INVALID)


def test_continue_is_said_before_the_body_is_sent(proxy: Server) -> None:
    body = asking("Hi")
    with proxy.connect() as connection:
        connection.sendall(request(b"", "Expect: 100-continue", length=len(body)))
        assert read_until(connection, b"\r\n\r\n").startswith(b"HTTP/1.1 100 ")
        connection.sendall(body)
        (answer,) = answers(read_to_end(connection))
    assert answer.status == 200


# --- clients that leave, and others that wait -------------------------------------------------


@pytest.mark.parametrize("how", ["close", "reset"])
def test_a_client_that_leaves_a_stream_ends_the_providers(
    proxy: Server, emulator: Emulator, how: str
) -> None:
    """An answer nobody reads is money."""
    with streaming(proxy, "[[endless,gap=0.05]]") as connection:
        read_until(connection, b'"content":"This "')
        if how == "reset":
            linger = (socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            connection.setsockopt(*linger)
    assert emulator.requests[0].gone.wait(DEADLINE)


def test_idle_and_half_sent_requests_cost_others_nothing(proxy: Server) -> None:
    with ExitStack() as stack:
        for sent in (b"", b"POST / HT", request()[:60], request(b"{", length=100)) * 10:
            stack.enter_context(proxy.connect()).sendall(sent)
        (answer,) = answers(exchange(proxy, request()))
    assert answer.status == 200


@pytest.mark.parametrize("asks", ["stream", "whole"])
def test_a_client_that_leaves_while_the_provider_is_silent(
    serve: Serve, emulator: Emulator, asks: str
) -> None:
    """`A client that leaves closes the provider's connection within a second, also while the
    provider is silent.`"""
    with serve(serving.settings(emulator.url, GRACEFUL_TIMEOUT="1")) as server:
        with server.connect() as connection:
            directive = "[[stall=1]]" if asks == "stream" else "[[silent]]"
            connection.sendall(request(asking(directive, stream=asks == "stream")))
            if asks == "stream":
                read_until(connection, b'"content":"This "')
            serving.wait_until(lambda: emulator.requests)
        assert emulator.requests[0].gone.wait(8)


# --- the process ------------------------------------------------------------------------------


def test_sigterm_lets_an_open_stream_finish(serve: Serve, emulator: Emulator) -> None:
    with serve(serving.settings(emulator.url)) as server:
        with streaming(server, "[[gap=0.4,words=5]]") as connection:
            received = read_until(connection, b'"content":"This "')
            assert b"[DONE]" not in received
            server.process.terminate()
            received += read_to_end(connection)
        (answer,) = answers(received)
        assert answer.body.endswith(b"data: [DONE]\n\n")
        assert server.process.wait(DEADLINE) == 0


def test_what_outlives_the_grace_is_told_that_it_was_cut(serve: Serve, emulator: Emulator) -> None:
    """Two seconds before gunicorn would kill it: an error event, and a body that ends properly."""
    with serve(serving.settings(emulator.url, GRACEFUL_TIMEOUT="3")) as server:
        with streaming(server, "[[endless,gap=0.1]]") as connection:
            received = read_until(connection, b'"content":"This "')
            server.process.terminate()
            received += read_to_end(connection)
        (answer,) = answers(received)
        last = json.loads(answer.body.decode().strip().split("\n\n")[-1].removeprefix("data: "))
        assert last["error"]["type"] == "proxy_error"
        assert b"[DONE]" not in answer.body
        assert emulator.requests[0].gone.wait(DEADLINE)
        assert server.process.wait(DEADLINE) == 0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "abc"),
        ("PORT", "70000"),
        ("WEB_CONCURRENCY", "65"),
        ("GRACEFUL_TIMEOUT", "-1"),
        ("GRACEFUL_TIMEOUT", "25s"),
    ],
)
def test_what_gunicorn_itself_needs_must_make_sense(name: str, value: str) -> None:
    """One line that names the variable, and an end."""
    result = subprocess.run(
        [sys.executable, "-m", "gunicorn", "app:app"],
        cwd=serving.ROOT,
        env={
            **serving.system_environment(),
            **serving.BLANK,
            "WEB_CONCURRENCY": "1",
            name: value,
        },
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )
    assert result.returncode != 0
    assert result.stderr.count("\n") == 1, result.stderr
    assert result.stderr.startswith(f"{name}: ")
    assert value not in result.stderr.split()


def test_with_broken_settings_it_serves_500_and_says_why_once(
    serve: Serve, emulator: Emulator
) -> None:
    """A missing key must not take down the health check."""
    env = serving.settings(emulator.url, LLAMA_PROVIDER_API_KEY="", LOG_LEVEL="loud")
    with serve(env) as server:
        assert only_error(server, request()) == (500, "proxy_misconfigured")
        for name in ("LLAMA_PROVIDER_API_KEY", "LOG_LEVEL"):
            lines = [line for line in server.log.splitlines() if f'"{name}: ' in line]
            assert len(lines) == 1


def test_it_listens_where_it_should(serve: Serve, emulator: Emulator) -> None:
    """With PORT set, as a platform does, on all addresses, IPv6's too."""
    with serve(serving.settings(emulator.url)) as server:
        found = re.findall(r"Listening at: http://(\S+):[0-9]+ ", server.log)
        assert found in (["[::]"], ["0.0.0.0"])  # noqa: S104
        if found == ["[::]"] and socket.has_ipv6:
            with socket.create_connection(("::1", server.port), timeout=DEADLINE):
                pass


def test_no_secret_and_no_prompt_is_in_the_log(proxy: Server) -> None:
    """At LOG_LEVEL=debug, whatever happens."""
    canary = "canary-in-the-prompt-7361"
    directives = ["", "[[status=401]]", "[[status=400]]", "[[reset=middle]]", "[[junk]]"]
    directives += ["[[close=before]]", "[[garbage]]", "[[no_done]]", "[[status=429]]"]
    for directive in directives:
        for stream in (False, True):
            body = asking(f"{canary} {directive}", stream=stream, canary_name=canary)
            headers = (f"X-Canary: {canary}", f"Referer: http://{canary}/", f"User-Agent: {canary}")
            exchange(proxy, request(body, *headers, line=f"POST /?q={canary} HTTP/1.1"))
    exchange(proxy, request(canary.encode()))
    exchange(proxy, request(asking("Hi", model=canary)))
    exchange(proxy, request(b"", f"{canary} {KEY}"))
    exchange(proxy, without_length(f"Authorization: Basic {canary}"))
    assert "provider_auth_failed" in proxy.log
    for secret in (canary, KEY, PROVIDER_KEY, ACCOUNT):
        assert secret not in proxy.log
    assert "Traceback" not in proxy.log


def test_no_secret_is_on_a_command_line(proxy: Server) -> None:
    with open(f"/proc/{proxy.process.pid}/cmdline", "rb") as file:
        shown = file.read()
    assert KEY.encode() not in shown
    assert PROVIDER_KEY.encode() not in shown
