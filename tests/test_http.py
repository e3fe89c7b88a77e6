"""What RFC 9110 and 9112 ask of a server beyond framing: raw bytes to gunicorn as shipped."""

import json
import time
from contextlib import ExitStack, suppress
from typing import Any

import pytest
import serving
from conftest import Serve
from crowd import SLACK, answer_to, asking, chunk, error_of, exchange, request
from serving import DEADLINE, KEY, Server, answers, read_to_end, read_until

from emulator import Emulator


def post(*fields: str, **options: Any) -> bytes:
    """A good request, but for what is given."""
    return request(asking("Hi"), *fields, **options)


# --- Host -----------------------------------------------------------------------------------------

GOOD_HOSTS = [
    *("localhost", "LOCALHOST:8000", "127.0.0.1", "127.0.0.1:8000", "[::1]", "[::1]:8000"),
    *("llm_proxy", "llm-proxy.example.org", "llm-proxy.example.org.", "xn--bcher-kva.example:443"),
    *("a.b:65535", "a.b:", "x" * 63 + ".example"),
]
BAD_HOSTS = [
    *("", " ", "a..b", ".", "..", ".a", "a b", "a,b", "user@host", "user:pw@host", "host/path"),
    *("host?q", "host#f", "http://host", "\xe9", "b\xfccher.example", "[", "[::1", "::1", "[x]"),
    *("host:x", "host:-1", "host:1:2", "host:8000,other", "x" * 64, '"host"', "%00"),
]


def test_a_host_is_a_name_or_an_address(proxy: Server) -> None:
    for host in GOOD_HOSTS:
        assert answer_to(proxy, post(host=host)).status == 200, host


@pytest.mark.parametrize("path", ["/", "/healthz", "/nothing"])
def test_any_other_host_is_the_callers_fault(proxy: Server, path: str) -> None:
    """Not a failure of this proxy, which would be logged with a traceback."""
    before = len(proxy.log)
    for host in BAD_HOSTS if path == "/" else BAD_HOSTS[:3]:
        answer = answer_to(proxy, post(line=f"POST {path} HTTP/1.1", host=host))
        assert error_of(answer) == (400, "invalid_http"), host
        assert "Host" in json.loads(answer.body)["error"]["message"]
    logged = proxy.log[before:]
    assert '"level":"error"' not in logged
    assert "Traceback" not in logged


@pytest.mark.parametrize(
    ("line", "host", "status"),
    [
        ("POST / HTTP/1.1", None, 400),
        ("POST / HTTP/1.1", "a\r\nHost: a", 400),
        ("POST / HTTP/1.1", "a\r\nhost: b", 400),
        ("POST / HTTP/1.0", None, 200),
        ("POST / HTTP/1.0", "a..b", 400),
    ],
)
def test_http_1_1_has_one_host(proxy: Server, line: str, host: str | None, status: int) -> None:
    assert answer_to(proxy, post(line=line, host=host)).status == status


# --- Upgrade --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "key", "status"),
    [
        ("POST /", KEY, 200),
        ("POST /", "", 401),
        ("GET /v1/models", KEY, 200),
        ("GET /nothing", "", 404),
        ("GET /readyz", "", 200),
    ],
)
def test_upgrade_is_ignored(proxy: Server, line: str, key: str, status: int) -> None:
    before = len(proxy.log)
    for upgrade in ("WebSocket", "foo, websocket", "h2c"):
        fields = ["Connection: upgrade, close", f"Upgrade: {upgrade}", "Sec-WebSocket-Version: 13"]
        sent = post(*fields, line=f"{line} HTTP/1.1", key=key, keep=True)
        assert answer_to(proxy, sent).status == status
    assert '"level":"error"' not in proxy.log[before:]


# --- versions, connections, codings ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "connection", "is_kept"),
    [
        ("HTTP/1.1", None, True),
        ("HTTP/1.1", "keep-alive", True),
        ("HTTP/1.1", "closed, not-close", True),
        ("HTTP/1.1", "close", False),
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
    proxy: Server, line: str, connection: str | None, is_kept: bool
) -> None:
    """By the first request; a second one is answered only where it is."""
    fields = [f"Connection: {connection}"] if connection else []
    first = post(*fields, line=f"POST / {line}", keep=True)
    found = answers(exchange(proxy, first + post()))
    assert [answer.status for answer in found] == [200] * (1 + is_kept)
    assert found[0].headers["Connection"] == ("keep-alive" if is_kept else "close")


@pytest.mark.parametrize("fields", [[], ["no colon"]], ids=["answered", "refused"])
def test_a_later_http_1_is_answered_as_1_1(proxy: Server, fields: list[str]) -> None:
    assert exchange(proxy, post(*fields, line="POST / HTTP/1.9")).startswith(b"HTTP/1.1 ")


@pytest.mark.parametrize(
    ("line", "fields"),
    [
        ("HEAD / HTTP/1.1", ["Transfer-Encoding: gzip, chunked"]),
        ("HEAD / HTTP/1.1", ["X: " + "x" * 9000]),
        ("HEAD / HTTP/9.9", []),
        ("\r\nHEAD / HTTP/1.1", ["Expect: nothing"]),
        ("HEAD / HTTP/1.1", []),  # 405
    ],
)
def test_no_refusal_of_head_has_a_body(proxy: Server, line: str, fields: list[str]) -> None:
    """A client would take it for the start of the next answer."""
    whole = exchange(proxy, request(b"", *fields, line=line, length=None))
    assert whole.startswith(b"HTTP/1.1 4") or whole.startswith(b"HTTP/1.1 501")
    assert whole.endswith(b"\r\n\r\n")
    assert whole.count(b"\r\n\r\n") == 1


@pytest.mark.parametrize(
    ("codings", "status"),
    [
        (["Chunked"], 200),
        (["identity, chunked"], 501),
        (["gzip,CHUNKED"], 501),
        (["identity", "chunked"], 501),
        (["chunked, chunked"], 400),
        (["chunked, gzip"], 400),
        (["gzip"], 400),
    ],
    ids=str,
)
def test_the_only_transfer_coding_is_chunked(
    proxy: Server, codings: list[str], status: int
) -> None:
    """RFC 9112, 6.1 and 6.3; the body of any other could not be read."""
    fields = [f"Transfer-Encoding: {coding}" for coding in codings]
    body = chunk(asking("Hi")) + b"0\r\n\r\n"
    sent = request(b"", *fields, length=None) + body + post()
    assert answer_to(proxy, sent).status == status


@pytest.mark.parametrize(
    ("sent", "status", "says"),
    [
        (request(b"", line=f"GET /{'x' * 5000} HTTP/1.1"), 414, "4094 bytes"),
        (request(b"", "X: " + "x" * 9000), 431, "8190 bytes"),
        (request(b"", *[f"X-{number}: x" for number in range(120)]), 431, "more than 100"),
        (request(b"", "Transfer-Encoding: rot13, chunked"), 501, "chunked"),
        (request(b"", "Expect: the-unexpected"), 417, "100-continue"),
        (request(b"", "no colon"), 400, "not valid HTTP"),
    ],
    ids=["line", "field", "fields", "coding", "expectation", "colon"],
)
def test_a_refusal_says_what_was_wrong(proxy: Server, sent: bytes, status: int, says: str) -> None:
    answer = answer_to(proxy, sent)
    assert error_of(answer) == (status, "invalid_http")
    assert says in json.loads(answer.body)["error"]["message"]


# --- how long a connection may wait ---------------------------------------------------------------


def test_a_connection_that_waits_has_its_time_and_does_not_delay_the_end(
    serve: Serve, emulator: Emulator
) -> None:
    """Kept connections wait for `keepalive`; a head has 5 seconds, however it comes.

    Two seconds after SIGTERM idle ones are closed; a request that came before is answered.
    """
    settings = serving.settings(emulator.url, GUNICORN_CMD_ARGS="--keep-alive 40")
    kept = post(keep=True)
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
