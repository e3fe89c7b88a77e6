"""HTTP on the wire, as clients and attackers send it: raw bytes to gunicorn as shipped.

RFC 9110 and 9112 say what a server must do. (`test_wire` has gunicorn's own corpus.)
"""

import json
import re
import socket
import time
from contextlib import ExitStack, suppress

import pytest
import serving
from conftest import Serve
from crowd import SLACK, answer_to, asking, chunk, chunked, error_of, exchange, post, request
from serving import ACCOUNT, DEADLINE, KEY, Server, answers, read_to_end, read_until

from emulator import Emulator

# --- malformed requests -----------------------------------------------------------------------

NOT_HTTP = "not valid HTTP"
CODINGS = {
    **dict.fromkeys(("identity, chunked", "gzip,CHUNKED", ",chunked"), (501, "is chunked")),
    "identity\r\nTransfer-Encoding: chunked": (501, "is chunked"),
    **dict.fromkeys(("chunked, chunked", "chunked, gzip", "gzip"), (400, NOT_HTTP)),
}
REFUSED = {  # and what the message says
    "a long line": (request(line=f"POST /{'x' * 5000} HTTP/1.1"), 414, "4094 bytes"),
    "a long field": (request(b"", "X: " + "x" * 9000), 431, "8190 bytes"),
    "many fields": (request(b"", *[f"X-{n}: x" for n in range(120)]), 431, "more than 100"),
    "an unknown expectation": (b"\r\n" + request(b"", "Expect: else"), 417, "100-continue"),
    "no colon": (request(b"", "no colon", line="POST / HTTP/1.9"), 400, NOT_HTTP),
    "NUL in a field": (request(b"", "X: \0"), 400, NOT_HTTP),
    "two equal hosts": (request(b"", "Host: proxy"), 400, NOT_HTTP),
    "two hosts": (request(b"", "host: other"), 400, NOT_HTTP),
    "two equal lengths": (request(b"{}", "Content-Length: 2"), 400, NOT_HTTP),
    "a length in Latin-1": (request(b"", "Content-Length: \xb2", length=None), 400, NOT_HTTP),
    "a long length": (request(b"", f"Content-Length: {'1' * 5000}", length=None), 400, NOT_HTTP),
    "HTTP/9": (request(line="POST / HTTP/9.9"), 400, NOT_HTTP),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, NOT_HTTP),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"x" * 100 + b"\r\n\r\n", 400, ""),
    "a method in small letters": (request(line="post / HTTP/1.1"), 400, NOT_HTTP),
    **{
        f"coding {coding!r}": (request(b"", f"Transfer-Encoding: {coding}", length=None), *expected)
        for coding, expected in CODINGS.items()
    },
}


@pytest.mark.parametrize(("sent", "status", "says"), REFUSED.values(), ids=REFUSED)
def test_a_malformed_request_is_one_answer_that_says_what_was_wrong(
    proxy: Server, emulator: Emulator, sent: bytes, status: int, says: str
) -> None:
    """In HTTP/1.1 and in JSON. Whatever follows on the wire is no second request."""
    received = exchange(proxy, sent + post("smuggled"))
    assert received.startswith(b"HTTP/1.1 ")
    (answer,) = answers(received)
    assert error_of(answer) == (status, "invalid_http")
    assert says in json.loads(answer.body)["error"]["message"]
    assert answer.headers["X-Should-Retry"] == "false"
    assert emulator.requests == []


def test_no_refusal_of_head_has_a_body(proxy: Server) -> None:
    """A client would take it for the start of the next answer."""
    refused = [sent for sent, status, _ in REFUSED.values() if status != 414]  # no method was read
    for sent in (*refused, request(b"")):
        if b"POST" in sent:
            received = exchange(proxy, sent.replace(b"POST", b"HEAD", 1))
            assert re.match(rb"HTTP/1.1 (4..|501) ", received), sent
            assert received.index(b"\r\n\r\n") == len(received) - 4, sent


BODY = asking("Hi")
BROKEN = {
    "all but one byte": request(BODY, length=len(BODY) + 1),
    "half a chunk": chunked(b"a\r\n{}", end=b""),
    "no last chunk": chunked(chunk(BODY), end=b""),
    "a chunk longer than its size": chunked(b"1\r\n{}\r\n"),
    "a chunk size that is none": chunked(b"xyz\r\n{}\r\n"),
}


@pytest.mark.parametrize("sent", BROKEN.values(), ids=BROKEN)
def test_a_body_that_breaks_off(proxy: Server, emulator: Emulator, sent: bytes) -> None:
    assert error_of(answer_to(proxy, sent, fin=True)) == (400, "invalid_json")
    assert emulator.requests == []


TOO_LARGE = (413, "request_too_large")
MUCH = {
    "a wrong key": (request(b"x" * 5_000_000, key="wrong"), (401, "invalid_api_key")),
    "over the limit": (request(b"x" * 5_000_000), TOO_LARGE),
    "over the limit, in chunks": (chunked(*[chunk(b"x" * 10_000)] * 500), TOO_LARGE),
    "over the limit, as it says": (request(b"", length=10**12), TOO_LARGE),
}


@pytest.mark.parametrize(("sent", "expected"), MUCH.values(), ids=MUCH)
def test_an_answer_is_readable_while_megabytes_are_on_their_way(
    proxy: Server, sent: bytes, expected: tuple[int, str]
) -> None:
    assert error_of(answer_to(proxy, sent, fin=True)) == expected


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (request(b"x", "no colon", length=10**9), b"400"),
        (request(b"x", key="wrong", length=10**9), b"401"),
    ],
    ids=["no colon", "a wrong key"],
)
def test_a_refusal_does_not_wait_for_the_body(proxy: Server, sent: bytes, status: bytes) -> None:
    """A client that sends on does not meet a reset."""
    with proxy.connect() as connection:
        connection.sendall(sent)
        assert read_until(connection, b"}}").startswith(b"HTTP/1.1 %b " % status)
        for _ in range(10):
            connection.sendall(b"x" * 100_000)
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(1) == b""


# --- odd, and allowed -------------------------------------------------------------------------


def test_chunks_of_a_byte_each(proxy: Server) -> None:
    sent = request(b"", "Transfer-Encoding: Chunked", length=None)
    sent += b"".join(chunk(bytes([byte])) for byte in BODY) + b"0\r\n\r\n"
    assert answer_to(proxy, sent).status == 200


def test_a_body_that_looks_like_a_request_is_none(proxy: Server, emulator: Emulator) -> None:
    """A 401 does not read the body; what follows it is the next request all the same."""
    refused = request(post("smuggled"), key="wrong", keep=True)
    found = answers(exchange(proxy, refused + post("real")))
    assert [answer.status for answer in found] == [401, 200]
    assert [received.json["messages"][0]["content"] for received in emulator.requests] == ["real"]


@pytest.mark.parametrize("key", [KEY, "wrong"])
def test_what_follows_a_broken_body_is_no_request(proxy: Server, key: str) -> None:
    """Also where nobody has read it."""
    head = request(b"", "Transfer-Encoding: chunked", length=None, key=key, keep=True)
    with proxy.connect() as connection:
        connection.sendall(head + b"xyz\r\n{}\r\n")
        read_until(connection, b"}}")
        with suppress(OSError):
            connection.sendall(post("smuggled"))
        assert read_to_end(connection) == b""


def test_http_1_0_needs_no_host_and_gets_no_chunks(proxy: Server) -> None:
    stream = exchange(proxy, post("Hi", stream=True, line="POST / HTTP/1.0", host=None))
    assert b"Transfer-Encoding" not in stream
    assert stream.endswith(b"data: [DONE]\n\n")
    assert answer_to(proxy, post("Hi", line="POST / HTTP/1.0", host="a b")).status == 400


LINES = {
    "POST /?key=value": {200},
    "POST /%76%31/chat/completions": {200},
    "POST //v1/chat/completions": {200, 404},  # Werkzeug's router allows it
    "POST /v1/../": {404},
    "POST /%2e%2e": {404},
    "POST /%ff": {404},
    "OPTIONS *": {404, 405},
    "CONNECT evil.example.org:443": {400, 404, 405},
    "POST http://evil.example.org/": {200, 404},
}
HEADERS = {
    "SCRIPT_NAME: /evil": {200, 400},
    "Script-Name: /evil": {200},
    "PATH_INFO: /evil": {200, 400},
    "X-Forwarded-Host: evil": {200},
    "X-Forwarded-Prefix: /evil": {200},
    "X-Forwarded-Proto: https\r\nX-Forwarded-Ssl: off": {200, 400},
    "X-HTTP-Method-Override: GET": {200},
    "Accept: text/html": {200},
    "Accept-Encoding: gzip": {200},
    "Cookie: \xff\xfe=evil": {200, 400},
    "Upgrade: WebSocket\r\nConnection: upgrade\r\nSec-WebSocket-Version: 13": {200},
    "Upgrade: h2c\r\nConnection: upgrade": {200},
    f"Authorization: Bearer {KEY}": {401},  # a second one
}
ODD = {line: (post("Hi", line=f"{line} HTTP/1.1"), allowed) for line, allowed in LINES.items()}
ODD |= {header: (post("Hi", header), allowed) for header, allowed in HEADERS.items()}


@pytest.mark.parametrize(("sent", "allowed"), ODD.values(), ids=map(ascii, ODD))
def test_an_odd_line_or_header_leads_nowhere_else(
    proxy: Server, emulator: Emulator, sent: bytes, allowed: set[int]
) -> None:
    answer = answer_to(proxy, sent)
    assert answer.status in allowed
    assert answer.headers["Content-Type"] == "application/json"
    assert "Location" not in answer.headers
    assert b"evil" not in answer.body
    assert len(emulator.requests) == (answer.status == 200)
    for received in emulator.requests:
        assert received.path.split("/")[4] == ACCOUNT
        assert b"evil" not in received.body


# --- Host -------------------------------------------------------------------------------------

GOOD_HOSTS = [
    *("localhost", "LOCALHOST:8000", "127.0.0.1", "127.0.0.1:8000", "[::1]", "[::1]:8000"),
    *("llm_proxy", "llm-proxy.example.org", "llm-proxy.example.org.", "xn--bcher-kva.example:443"),
    *("a.b:65535", "a.b:", "x" * 63 + ".example"),
]
BAD_HOSTS = [
    *("", " ", "a..b", ".", "..", ".a", "a b", "a,b", "user@host", "user:pw@host", "host/path"),
    *("host?q", "host#f", "http://host", "\xe9", "b\xfccher.example", "[", "[::1", "::1", "[x]"),
    *("host:x", "host:-1", "host:1:2", "host:8000,other", "x" * 64, '"host"', "%00", None),
]


def test_a_host_is_a_name_or_an_address(proxy: Server) -> None:
    for host in GOOD_HOSTS:
        assert answer_to(proxy, post("Hi", host=host)).status == 200, host


@pytest.mark.parametrize("path", ["/", "/healthz", "/nothing"])
def test_any_other_host_is_the_callers_fault(proxy: Server, path: str) -> None:
    """Not a failure of this proxy, which would be logged with a traceback."""
    before = len(proxy.log)
    for host in BAD_HOSTS:
        answer = answer_to(proxy, post("Hi", line=f"POST {path} HTTP/1.1", host=host))
        assert error_of(answer) == (400, "invalid_http"), host
        assert "Host" in json.loads(answer.body)["error"]["message"]
    logged = proxy.log[before:]
    assert '"level":"error"' not in logged
    assert "Traceback" not in logged


# --- connections ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "connection", "is_kept"),
    [
        ("HTTP/1.1", None, True),
        ("HTTP/1.1", "closed, not-close", True),
        ("HTTP/1.1", "keep-alive,CLOSE ,x", False),
        ("HTTP/1.1", "a\r\nConnection: close", False),
        ("HTTP/1.2", None, True),
        ("HTTP/1.9", "close", False),
        ("HTTP/1.0", None, False),
        ("HTTP/1.0", "x, Keep-Alive", True),
        ("HTTP/1.0", "keep-alive, close", False),
    ],
)
def test_which_connection_is_kept(
    proxy: Server, version: str, connection: str | None, is_kept: bool
) -> None:
    """By the first request; a second one is answered only where it is."""
    fields = [f"Connection: {connection}"] if connection else []
    first = post("Hi", *fields, line=f"POST / {version}", keep=True)
    received = exchange(proxy, first + post("Hi"))
    assert received.startswith(b"HTTP/1.0 " if version == "HTTP/1.0" else b"HTTP/1.1 ")
    found = answers(received)
    assert [answer.status for answer in found] == [200] * (1 + is_kept)
    assert found[0].headers["Connection"] == ("keep-alive" if is_kept else "close")


def test_a_connection_that_waits_has_its_time_and_does_not_delay_the_end(
    serve: Serve, emulator: Emulator
) -> None:
    """Kept connections wait for `keepalive`; a head has 5 seconds, however it comes.

    Two seconds after SIGTERM idle ones are closed; a request that came before is answered.
    """
    settings = serving.settings(emulator.url, GUNICORN_CMD_ARGS="--keep-alive 40")
    kept = post("Hi", keep=True)
    with serve(settings) as server, ExitStack() as stack:
        idle, used, half, new, silent, dripping = (
            stack.enter_context(server.connect()) for _ in range(6)
        )
        for connection in (idle, used, half):
            connection.sendall(kept)
            read_until(connection, b'"usage":')
        started = time.monotonic()
        half.sendall(kept[:40])
        new.sendall(kept[:40])
        dripping.settimeout(0.2)
        with suppress(ConnectionError):
            received = b"nothing yet"
            while received:
                dripping.sendall(b"X")
                with suppress(TimeoutError):
                    received = dripping.recv(1)
        for connection in (half, new, silent):
            assert read_to_end(connection) == b""
        assert 4 < time.monotonic() - started < 5 + SLACK
        server.process.terminate()
        used.sendall(kept)
        assert read_to_end(used).startswith(b"HTTP/1.1 200 OK\r\n")
        started = time.monotonic()
        assert read_to_end(idle) == b""
        server.process.wait(DEADLINE)
        assert time.monotonic() - started < 5 + SLACK / 2
