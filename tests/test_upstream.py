"""The way to the provider: each failure by its name, nothing leaked, nothing held back."""

import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
import requests
import serving
import urllib3
import urllib3.util.connection
from serving import DEADLINE, HOST, PROVIDER_KEY

from emulator import Emulator
from proxy import connections, upstream, watch
from proxy.errors import ProviderError
from proxy.providers import UpstreamRequest
from proxy.upstream import Reply, Upstream
from proxy.watch import Timeouts

BODY = b'{"messages":[{"role":"user","content":"a very private prompt"}]}'
URL = "https://api.example.org/accounts/acc0unt-id/ai/run/model"


def post(url: str, said: str = "", *, stream: bool = False) -> UpstreamRequest:
    body = BODY
    if said:
        asks = b',"stream":true' if stream else b""
        body = b'{"messages":[{"role":"user","content":"%s"}]%s}' % (said.encode(), asks)
    return UpstreamRequest(url, {"Authorization": f"Bearer {PROVIDER_KEY}"}, body)


def to_emulator(emulator: Emulator, said: str, *, stream: bool = False) -> UpstreamRequest:
    return post(f"{emulator.url}/v1/chat/completions", said, stream=stream)


class Way(NamedTuple):
    """Connections, and how long each call over them may take."""

    upstream: Upstream
    timeouts: Timeouts


def soon(**timeouts: float) -> Way:
    return Way(Upstream(), Timeouts(**{"first_byte": DEADLINE, "idle": DEADLINE, **timeouts}))


@contextmanager
def opened(request: UpstreamRequest, way: Way | None = None) -> Iterator[Reply]:
    way = way or soon()
    with watch.call(way.timeouts) as call, closing(way.upstream.open(request, call)) as reply:
        yield reply


def read(request: UpstreamRequest, way: Way | None = None) -> bytes:
    with opened(request, way) as reply:
        return reply.read()


def failure(request: UpstreamRequest, way: Way | None = None) -> ProviderError:
    """How opening and reading fail; nothing that is reachable from it shows what was sent."""
    with pytest.raises(ProviderError) as caught:
        read(request, way)
    error: BaseException | None = caught.value
    assert error is not None
    assert error.__cause__ is None
    assert error.__suppress_context__ or error.__context__ is None
    shown = f"{error} {error!r} {error.args} {vars(error)}"
    for secret in (PROVIDER_KEY, "private prompt", "acc0unt-id", HOST, "Bearer"):
        assert secret not in shown
    return caught.value


def told(error: ProviderError) -> tuple[str, str]:
    return error.code, error.headers["X-Should-Retry"]


UNREACHABLE = ("provider_unreachable", "true")
TIMEOUT = ("provider_timeout", "false")
FAILED = ("provider_failed", "false")
BAD_ANSWER = ("provider_bad_answer", "false")


@contextmanager
def provider(talk: Callable[[socket.socket], None]) -> Iterator[str]:
    """A provider whose every connection is handed to `talk`; its URL."""
    threads: list[threading.Thread] = []

    def serve(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            connection.settimeout(DEADLINE)
            talk(connection)

    def accept() -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                threads.append(threading.Thread(target=serve, args=(connection,)))
                threads[-1].start()

    with socket.create_server((HOST, 0)) as listener:
        acceptor = threading.Thread(target=accept)
        acceptor.start()
        try:
            yield f"http://{HOST}:{listener.getsockname()[1]}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)  # accept() returns
            acceptor.join(DEADLINE)
            for thread in threads:
                thread.join(DEADLINE)


def receive(connection: socket.socket) -> bytes:
    """A whole request; empty where the client has gone."""
    received = b""
    while b"\r\n\r\n" not in received:
        piece = connection.recv(65536)
        if not piece:
            return b""
        received += piece
    head, _, body = received.partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
    while len(body) < length:
        body += connection.recv(65536)
    return head + b"\r\n\r\n" + body


# --- what is sent -----------------------------------------------------------------------------


def test_the_request_is_sent_as_the_provider_made_it() -> None:
    """The headers are ours and no others, the body is sent byte for byte."""
    received = []

    def talk(connection: socket.socket) -> None:
        received.append(receive(connection))
        connection.sendall(b"HTTP/1.1 201 Created\r\nX-From: it\r\nContent-Length: 2\r\n\r\n{}")

    with provider(talk) as url:
        with opened(post(f"{url}/run/model")) as reply:
            assert reply.status == 201
            assert reply.headers["x-from"] == "it"
            assert reply.read() == b"{}"
        (request,) = received
        head, _, body = request.partition(b"\r\n\r\n")
        first, *headers = head.decode().split("\r\n")
        assert (first, body) == ("POST /run/model HTTP/1.1", BODY)
        assert sorted(headers) == [
            "Accept-Encoding: identity",
            "Accept: application/json, text/event-stream",
            f"Authorization: Bearer {PROVIDER_KEY}",
            f"Content-Length: {len(BODY)}",
            "Content-Type: application/json",
            f"Host: {url.removeprefix('http://')}",
            "User-Agent: llm-proxy",
        ]


def test_a_large_body_is_sent_whole() -> None:
    """It does not fit into the kernel's buffer at once."""
    received = []

    def talk(connection: socket.socket) -> None:
        received.append(receive(connection))
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")

    large = UpstreamRequest("", {}, b"0123456789" * 800_000)
    with provider(talk) as url:
        assert read(replace(large, url=url)) == b"{}"
    assert received[0].endswith(b"\r\n\r\n" + large.body)


def test_over_real_http(emulator: Emulator) -> None:
    with opened(to_emulator(emulator, "hello")) as reply:
        assert (reply.status, reply.is_event_stream) == (200, False)
        assert reply.headers["X-Request-Id"].startswith("req_")  # names in any case
        assert b"hello" in reply.read()
    (received,) = emulator.requests
    assert (received.method, received.path) == ("POST", "/v1/chat/completions")
    assert received.headers["authorization"] == f"Bearer {PROVIDER_KEY}"
    assert received.headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    ("content_type", "is_stream"),
    [
        ("text/event-stream", True),
        ("text/event-stream; charset=utf-8", True),
        ("Text/Event-Stream", True),
        ("application/json", False),
        ("text/html", False),
        (None, False),
    ],
)
def test_a_stream_is_known_by_its_content_type(content_type: str | None, is_stream: bool) -> None:
    def talk(connection: socket.socket) -> None:
        receive(connection)
        header = f"Content-Type: {content_type}\r\n" if content_type else ""
        connection.sendall(f"HTTP/1.1 200 OK\r\n{header}Content-Length: 0\r\n\r\n".encode())

    with provider(talk) as url, opened(post(url)) as reply:
        assert reply.is_event_stream is is_stream


def test_the_path_and_its_odd_letters_are_not_changed(emulator: Emulator) -> None:
    path = "/client/v4/accounts/a/ai/run/@cf/meta/llama-3.1-8b-instruct-fast"
    read(post(emulator.url + path, "x"))
    assert emulator.requests[0].path == path


# --- what does not go with it -----------------------------------------------------------------


def test_neither_netrc_nor_proxies_nor_ca_bundles_of_the_environment_are_used(
    emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A netrc would replace the key; a proxy would be given it; a missing bundle would break."""
    netrc = tmp_path / "netrc"
    netrc.write_text(f"machine {HOST} login me password pw\ndefault login you password pw\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    (tmp_path / ".netrc").write_text(netrc.read_text())
    monkeypatch.setenv("HOME", str(tmp_path))
    with closing(socket.create_server((HOST, 0))) as nobody:
        elsewhere = f"http://{HOST}:{nobody.getsockname()[1]}"
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, elsewhere)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.setenv(name, "/nonexistent/ca.pem")
    read(to_emulator(emulator, "hello"))
    (received,) = emulator.requests
    assert received.headers["authorization"] == f"Bearer {PROVIDER_KEY}"
    assert "proxy-connection" not in received.headers


def test_cookies_are_not_stored() -> None:
    seen = []

    def talk(connection: socket.socket) -> None:
        while request := receive(connection):
            seen.append(request)
            head = b"HTTP/1.1 200 OK\r\nSet-Cookie: a=1; Path=/\r\nContent-Length: 2\r\n\r\n"
            connection.sendall(head + b"{}")

    with provider(talk) as url:
        way = soon()
        for _ in range(2):
            assert read(post(url), way) == b"{}"
        del way
        assert len(seen) == 2
        assert not any(b"cookie" in request.lower() for request in seen)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_not_followed(emulator: Emulator, status: int) -> None:
    with opened(to_emulator(emulator, f"[[redirect={status}]]")) as reply:
        assert reply.status == status
    assert len(emulator.requests) == 1


# --- failures ---------------------------------------------------------------------------------

DIRECTIVES = {
    "silent": (TIMEOUT, {"first_byte": 0.3}),
    "wait=30": (TIMEOUT, {"first_byte": 0.3}),
    "silent,wait=0": (TIMEOUT, {"total": 0.3}),
    "stall=0": (TIMEOUT, {"first_byte": 0.3}),
    "no_end,framing=chunked": (TIMEOUT, {"idle": 0.3}),
    "no_end,framing=close": (TIMEOUT, {"idle": 0.3}),  # shut down, it looks like a proper end
    "reset=before": (FAILED, {}),
    "close=before": (FAILED, {}),
    "reset=headers": (FAILED, {}),
    "close=headers": (FAILED, {}),
    "reset=middle": (FAILED, {}),
    "close=middle": (FAILED, {}),
    "reset=middle,framing=chunked": (FAILED, {}),
    "close=middle,framing=chunked": (FAILED, {}),
    "garbage": (FAILED, {}),
    "drip_body=0.05": (TIMEOUT, {"total": 0.5}),
    f"huge={upstream.MAX_ANSWER + 1}": (BAD_ANSWER, {}),
    "endless,framing=chunked,sse_for_whole": (BAD_ANSWER, {}),
    f"gzip={100 * 1024**2}": (BAD_ANSWER, {}),
}


@pytest.mark.parametrize(
    ("directive", "expected", "timeouts"),
    [(directive, *rest) for directive, rest in DIRECTIVES.items()],
    ids=DIRECTIVES,
)
def test_a_failure_has_its_name_and_one_post(
    emulator: Emulator,
    directive: str,
    expected: tuple[str, str],
    timeouts: dict[str, float],
) -> None:
    """Each wait is bounded, drips too; what was sent once is not sent again."""
    assert told(failure(to_emulator(emulator, f"[[{directive}]]"), soon(**timeouts))) == expected
    assert len(emulator.requests) == 1


def test_headers_that_drip_are_bounded_too(emulator: Emulator) -> None:
    """They would take some 13 s to come; each read of them is quick."""
    began = time.monotonic()
    way = soon(first_byte=0.5, total=0.5)
    assert told(failure(to_emulator(emulator, "[[drip_headers=0.1]]"), way)) == TIMEOUT
    assert time.monotonic() - began < 8


@pytest.mark.parametrize(
    "directive",
    ["reset=middle", "close=middle", "stall=2", "reset=middle,framing=length"],
)
def test_what_came_before_a_cut_is_not_lost(emulator: Emulator, directive: str) -> None:
    pieces = []
    request = to_emulator(emulator, f"one two [[{directive},gap=0.01]]", stream=True)
    with opened(request, soon(idle=0.5)) as reply, pytest.raises(ProviderError) as caught:
        for piece in reply.pieces():
            pieces.append(piece)
    assert b"This " in b"".join(pieces)
    assert told(caught.value) in (FAILED, TIMEOUT)
    assert len(emulator.requests) == 1


def test_a_refused_connection() -> None:
    assert told(failure(post(f"http://{HOST}:{serving.free_port()}/x"))) == UNREACHABLE


def test_a_name_that_does_not_exist() -> None:
    assert told(failure(post("http://no-such-host.invalid/x"))) == UNREACHABLE


def test_a_connection_that_is_never_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "CONNECT_TIMEOUT", 0.3)
    with socket.socket() as full:
        full.bind((HOST, 0))
        full.listen(0)
        with closing(socket.create_connection(full.getsockname())):
            url = f"http://{HOST}:{full.getsockname()[1]}/x"
            assert told(failure(post(url))) == UNREACHABLE


def test_a_refused_connection_is_tried_once_more(
    emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`A POST is retried only when nothing was sent: once, when the connection was refused.`"""
    create, tries = urllib3.util.connection.create_connection, []

    def refused_at_first(*args: object, **options: object) -> socket.socket:
        tries.append(args)
        if len(tries) == 1:
            raise ConnectionRefusedError
        return create(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(urllib3.util.connection, "create_connection", refused_at_first)
    assert b"hello" in read(to_emulator(emulator, "hello"))
    assert (len(tries), len(emulator.requests)) == (2, 1)


RAW_ANSWERS = {
    "nothing": (b"", FAILED),
    "TLS": (b"\x15\x03\x01\x00\x02\x02\x46", FAILED),
    "too many headers": (b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 500 + b"\r\n{}", FAILED),
    "a header of 200 kB": (b"HTTP/1.1 200 OK\r\nA: " + b"b" * 200_000 + b"\r\n\r\n{}", FAILED),
    "chunk size that is none": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n{}\r\n",
        FAILED,
    ),
    "gzip that is none": (
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nnone",
        FAILED,
    ),
}


@pytest.mark.parametrize(("sent", "expected"), RAW_ANSWERS.values(), ids=RAW_ANSWERS)
def test_an_answer_that_is_not_http(sent: bytes, expected: tuple[str, str]) -> None:
    requests_seen = []

    def talk(connection: socket.socket) -> None:
        requests_seen.append(receive(connection))
        connection.sendall(sent)

    with provider(talk) as url:
        assert told(failure(post(url))) == expected
    assert len(requests_seen) == 1


KEY_IN_TEXT = f"{URL} Bearer {PROVIDER_KEY} a very private prompt"
EXCEPTIONS = [
    urllib3.exceptions.ConnectTimeoutError(KEY_IN_TEXT),
    urllib3.exceptions.ProtocolError(KEY_IN_TEXT),
    urllib3.exceptions.SSLError(KEY_IN_TEXT),
    requests.exceptions.InvalidURL(KEY_IN_TEXT),
    OSError(KEY_IN_TEXT),
    OSError(),
    ValueError(KEY_IN_TEXT),
]


@pytest.mark.parametrize("raised", EXCEPTIONS, ids=lambda raised: type(raised).__name__)
def test_nothing_that_requests_or_urllib3_raises_gets_out(
    raised: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What counts is whether the provider may have seen the request: here nothing is sent."""

    def urlopen(*_: object, **__: object) -> None:
        raise raised

    monkeypatch.setattr(urllib3.HTTPConnectionPool, "urlopen", urlopen)
    assert told(failure(post(URL))) == UNREACHABLE
    with watch.call(Timeouts()) as call, pytest.raises(ProviderError) as caught:
        call.sent = True
        Upstream().open(post(URL), call)
    assert told(caught.value) == FAILED
    assert PROVIDER_KEY not in str(caught.value)


# --- TLS --------------------------------------------------------------------------------------


def test_a_certificate_that_nobody_signed(tmp_path: Path) -> None:
    """The handshake fails, so nothing was sent: no connection could be made."""
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += ["-nodes", "-days", "2", "-subj", f"/CN={HOST}", "-addext"]
    command += [f"subjectAltName=IP:{HOST}", "-keyout", str(key), "-out", str(certificate)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("needs the openssl command, to make a certificate")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    requests_seen = []

    def talk(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as encrypted:
            requests_seen.append(receive(encrypted))

    with provider(talk) as url:
        assert told(failure(post(url.replace("http:", "https:")))) == UNREACHABLE
    assert requests_seen == []


def test_https_to_a_port_that_speaks_none(emulator: Emulator) -> None:
    """Nothing was sent here either."""
    url = emulator.url.replace("http:", "https:") + "/v1/chat/completions"
    assert told(failure(post(url))) == UNREACHABLE
    assert emulator.requests == []


def test_a_handshake_that_never_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connecting is bounded, TLS included; nothing was sent."""
    monkeypatch.setattr(connections, "CONNECT_TIMEOUT", 0.3)
    with provider(
        lambda connection: connection.recv(65536) and serving.read_to_end(connection)
    ) as url:
        assert told(failure(post(url.replace("http:", "https:")))) == UNREACHABLE


# --- as it comes ------------------------------------------------------------------------------

FRAMINGS = {
    "chunked": (b"Transfer-Encoding: chunked", lambda piece: b"%x\r\n%b\r\n" % (len(piece), piece)),
    "length": (b"Content-Length: 9", bytes),
    "close": (b"Connection: close", bytes),
}


@pytest.mark.parametrize(("header", "frame"), FRAMINGS.values(), ids=FRAMINGS)
def test_each_piece_is_given_before_the_next_is_sent(
    header: bytes, frame: Callable[[bytes], bytes]
) -> None:
    """The provider sends the next piece only when the test has seen the one before."""
    seen = threading.Semaphore(0)

    def talk(connection: socket.socket) -> None:
        receive(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\n" + header + b"\r\n\r\n")
        for piece in (b"one", b"two", b"six"):
            connection.sendall(frame(piece))
            assert seen.acquire(timeout=DEADLINE)
        connection.sendall(frame(b"") if b"chunked" in header else b"")

    with provider(talk) as url, opened(post(url)) as reply:
        pieces = reply.pieces()
        for expected in (b"one", b"two", b"six"):
            assert next(pieces) == expected
            seen.release()
        assert list(pieces) == []


def test_the_time_between_bytes_is_another_than_that_to_the_first(emulator: Emulator) -> None:
    """A provider may think for long before it answers, and not fall silent later."""
    request = to_emulator(emulator, "[[wait=0.6,gap=0.01]]", stream=True)
    assert read(request, soon(idle=0.3)).endswith(b"data: [DONE]\n\n")
    request = to_emulator(emulator, "[[gap=0.6,words=3]]", stream=True)
    assert read(request, soon(first_byte=0.3)).endswith(b"data: [DONE]\n\n")


def test_a_connection_is_used_again(emulator: Emulator) -> None:
    way = soon()
    before = emulator.connections
    for said in ("one", "two", "three"):
        assert said.encode() in read(to_emulator(emulator, said), way)
    assert emulator.connections - before == 1


def test_a_connection_that_was_closed_while_idle_is_replaced_silently() -> None:
    closed, seen = threading.Event(), []

    def talk(connection: socket.socket) -> None:
        seen.append(receive(connection))
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
        connection.close()
        closed.set()

    with provider(talk) as url:
        way = soon()
        for _ in range(2):
            assert read(post(url), way) == b"{}"
            assert closed.wait(DEADLINE)
            closed.clear()
    assert len(seen) == 2


def test_closing_an_answer_that_is_not_read_ends_the_connection(emulator: Emulator) -> None:
    """Nobody reads it, so nobody should pay for it."""
    with opened(to_emulator(emulator, "[[endless,gap=0.02]]", stream=True)) as reply:
        assert next(reply.pieces())
    assert emulator.requests[0].gone.wait(DEADLINE)


def test_closing_twice_does_no_harm(emulator: Emulator) -> None:
    with opened(to_emulator(emulator, "hello")) as reply:
        reply.read()
        reply.close()
