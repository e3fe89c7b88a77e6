"""The way to the provider: each failure by its name, nothing leaked, nothing held back."""

import gc
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
import requests
import responses
import serving
import trustme
import urllib3
import urllib3.util.connection
from crowd import Provider, answering, full_listener, received, reset
from serving import DEADLINE, HOST, PROVIDER_KEY, wait_until

from emulator import Emulator
from proxy import __version__, connections
from proxy.errors import ProviderError
from proxy.providers import UpstreamRequest
from proxy.upstream import Reply, Upstream
from proxy.watchdog import Call, Timeouts

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
    """Connections, and how long each call over them may take: here, where no watchdog is, the
    time to the first byte holds for each read."""

    upstream: Upstream
    timeouts: Timeouts


def soon(**timeouts: float) -> Way:
    long = {"first_byte": DEADLINE, "idle": DEADLINE, "total": 600.0}
    return Way(Upstream(), Timeouts(**{**long, **timeouts}))


@contextmanager
def opened(request: UpstreamRequest, way: Way | None = None) -> Iterator[Reply]:
    way = way or soon()
    call = Call()
    call.begin(way.timeouts)
    with closing(way.upstream.open(request, call)) as reply:
        yield reply


def read(request: UpstreamRequest, way: Way | None = None) -> bytes:
    with opened(request, way) as reply:
        return b"".join(reply.pieces())


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


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


# --- what is sent -----------------------------------------------------------------------------


def test_the_request_is_sent_as_the_provider_made_it() -> None:
    """The headers are ours and no others, the body is sent byte for byte."""
    with answering(OK.replace(b"200 OK", b"201 Created\r\nX-From: it")) as provider:
        with opened(post(f"{provider.url}/run/@cf/meta/model-8b")) as reply:
            assert (reply.status, reply.headers["x-from"]) == (201, "it")
            assert b"".join(reply.pieces()) == b"{}"
        (request,) = provider.requests
    head, _, body = request.partition(b"\r\n\r\n")
    first, *headers = head.decode().split("\r\n")
    assert (first, body) == ("POST /run/@cf/meta/model-8b HTTP/1.1", BODY)
    assert sorted(headers) == [
        "Accept-Encoding: identity",
        "Accept: application/json, text/event-stream",
        f"Authorization: Bearer {PROVIDER_KEY}",
        f"Content-Length: {len(BODY)}",
        "Content-Type: application/json",
        f"Host: {HOST}:{provider.port}",
        f"User-Agent: llm-proxy/{__version__}",
    ]


LARGE = UpstreamRequest("", {}, b"0123456789" * 800_000)  # not in the kernel's buffer at once


def test_a_large_body_may_take_longer_than_connecting(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a fresh connection, and on a kept one."""
    monkeypatch.setattr(connections, "CONNECT_TIMEOUT", 0.3)

    def talk(connection: socket.socket) -> None:
        while connection.recv(1, socket.MSG_PEEK):
            threading.Event().wait(0.5)  # as long as a slow line
            assert provider.received(connection).endswith(b"\r\n\r\n" + LARGE.body)
            connection.sendall(OK)

    with Provider(talk) as provider:
        way = soon()
        for _ in range(2):
            assert read(replace(LARGE, url=provider.url), way) == b"{}"


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
    header = f"\r\nContent-Type: {content_type}" if content_type else ""
    sent = OK.replace(b" OK", b" OK" + header.encode())
    with answering(sent) as provider, opened(post(provider.url)) as reply:
        assert reply.is_event_stream is is_stream


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
    with answering(*[OK.replace(b" OK", b" OK\r\nSet-Cookie: a=1; Path=/")] * 2) as provider:
        way = soon()
        assert [read(post(provider.url), way) for _ in range(2)] == [b"{}"] * 2
    assert len(provider.requests) == 2
    assert not any(b"cookie" in request.lower() for request in provider.requests)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_not_followed(emulator: Emulator, status: int) -> None:
    with opened(to_emulator(emulator, f"[[redirect={status}]]")) as reply:
        assert reply.status == status
    assert len(emulator.requests) == 1


# --- failures ---------------------------------------------------------------------------------

DIRECTIVES = {
    "silent": (TIMEOUT, {"first_byte": 0.3}),
    "wait=30": (TIMEOUT, {"first_byte": 0.3}),
    "stall=0": (TIMEOUT, {"first_byte": 0.3}),
    "no_end,framing=chunked": (TIMEOUT, {"first_byte": 0.3}),
    "no_end,framing=close": (TIMEOUT, {"first_byte": 0.3}),
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


@pytest.mark.parametrize(
    "directive",
    ["reset=middle", "close=middle", "stall=2", "reset=middle,framing=length"],
)
def test_what_came_before_a_cut_is_not_lost(emulator: Emulator, directive: str) -> None:
    pieces = []
    request = to_emulator(emulator, f"one two [[{directive},gap=0.01]]", stream=True)
    with opened(request, soon(first_byte=0.5)) as reply, pytest.raises(ProviderError) as caught:
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
    with full_listener() as port:
        assert told(failure(post(f"http://{HOST}:{port}/x"))) == UNREACHABLE


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
    with answering(sent) as provider:
        assert told(failure(post(provider.url))) == expected
    assert len(provider.requests) == 1


KEY_IN_TEXT = f"{URL} Bearer {PROVIDER_KEY} a very private prompt"
RAISED = {
    "requests, not connected": (
        requests.ConnectTimeout(urllib3.exceptions.ConnectTimeoutError(KEY_IN_TEXT)),
        UNREACHABLE,
    ),
    "requests, too late": (requests.ReadTimeout(KEY_IN_TEXT), TIMEOUT),
    "requests, no proper URL": (requests.exceptions.InvalidURL(KEY_IN_TEXT), FAILED),
    "requests, broken off": (requests.exceptions.ChunkedEncodingError(KEY_IN_TEXT), FAILED),
    "urllib3": (urllib3.exceptions.ProtocolError(KEY_IN_TEXT), FAILED),
    "the system": (OSError(KEY_IN_TEXT), FAILED),
    "a value": (ValueError(KEY_IN_TEXT), FAILED),
}


@pytest.mark.parametrize(("raised", "expected"), RAISED.values(), ids=RAISED)
def test_nothing_foreign_gets_out(raised: Exception, expected: tuple[str, str]) -> None:
    with responses.RequestsMock() as provider:
        provider.post(URL, body=raised)
        assert told(failure(post(URL))) == expected


def test_an_answer_under_way_does_not_keep_the_body() -> None:
    with answering(OK) as provider:
        body = b"a body of its own, %d" % provider.port
        with opened(UpstreamRequest(provider.url, {}, body)):
            assert [type(holder) for holder in gc.get_referrers(body)] == [UpstreamRequest]


# --- TLS --------------------------------------------------------------------------------------


class Authority(NamedTuple):
    """Who signs the provider's certificate."""

    bundle: str  # the file for LLAMA_PROVIDER_CA_BUNDLE
    context: ssl.SSLContext  # the provider's


@pytest.fixture(scope="module", name="authority")
def _authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    signs = trustme.CA()
    bundle = tmp_path_factory.mktemp("ca") / "ca.pem"
    signs.cert_pem.write_to_path(bundle)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    signs.issue_cert(HOST).configure_cert(context)
    return Authority(str(bundle), context)


def test_a_certificate_that_nobody_signed(authority: Authority) -> None:
    """The handshake fails, so nothing was sent: no connection could be made."""
    with answering(OK, tls=authority.context) as provider:
        assert told(failure(post(provider.url))) == UNREACHABLE
    assert provider.requests == []


def test_a_certificate_of_the_usual_authorities(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "DEFAULT_CA_BUNDLE_PATH", authority.bundle)
    with answering(OK, tls=authority.context) as provider:
        assert read(post(provider.url)) == b"{}"


def test_https_to_a_port_that_speaks_none(emulator: Emulator) -> None:
    """Nothing was sent here either."""
    url = emulator.url.replace("http:", "https:") + "/v1/chat/completions"
    assert told(failure(post(url))) == UNREACHABLE
    assert emulator.requests == []


def test_a_handshake_that_never_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connecting is bounded, TLS included; nothing was sent."""
    monkeypatch.setattr(connections, "CONNECT_TIMEOUT", 0.3)
    with Provider(serving.read_to_end) as provider:
        assert told(failure(post(provider.url.replace("http:", "https:")))) == UNREACHABLE


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
        received(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\n" + header + b"\r\n\r\n")
        for piece in (b"one", b"two", b"six"):
            connection.sendall(frame(piece))
            assert seen.acquire(timeout=DEADLINE)
        connection.sendall(frame(b"") if b"chunked" in header else b"")

    with Provider(talk) as provider, opened(post(provider.url)) as reply:
        pieces = reply.pieces()
        for expected in (b"one", b"two", b"six"):
            assert next(pieces) == expected
            seen.release()
        assert list(pieces) == []


def test_a_connection_is_used_again(emulator: Emulator) -> None:
    way = soon()
    before = emulator.connections
    for said in ("one", "two", "three"):
        assert said.encode() in read(to_emulator(emulator, said), way)
    assert emulator.connections - before == 1


@pytest.mark.parametrize("is_reset", [False, True], ids=["closed", "reset"])
def test_a_connection_that_ended_while_idle_is_replaced_silently(is_reset: bool) -> None:
    closed, was_read = threading.Event(), threading.Event()

    def talk(connection: socket.socket) -> None:
        provider.received(connection)
        connection.sendall(OK)
        assert was_read.wait(DEADLINE)
        was_read.clear()
        reset(connection) if is_reset else connection.close()
        closed.set()

    with Provider(talk) as provider:
        way = soon()
        for _ in range(2):
            assert read(post(provider.url), way) == b"{}"
            was_read.set()
            assert closed.wait(DEADLINE)
            closed.clear()
    assert len(provider.requests) == 2


def test_closing_an_answer_that_is_not_read_ends_the_connection(emulator: Emulator) -> None:
    """Nobody reads it, so nobody should pay for it."""
    with opened(to_emulator(emulator, "[[endless,gap=0.02]]", stream=True)) as reply:
        assert next(reply.pieces())
    assert emulator.requests[0].gone.wait(DEADLINE)


@pytest.mark.parametrize("ends", [True, False], ids=["ends", "does not end"])
def test_a_stream_that_was_read_to_its_done_is_given_its_end(ends: bool) -> None:
    """Under gunicorn its connection is kept then, else it is closed."""
    done = b"8\r\n[DONE]\n\n\r\n"

    def talk(connection: socket.socket) -> None:
        while received(connection):
            connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + done)
            assert was_read.wait(DEADLINE)
            was_read.clear()
            connection.sendall(b"0\r\n\r\n" if ends else b"zz\r\n")

    was_read, way, call = threading.Event(), soon(), Call(is_watched=True)
    call.begin(way.timeouts)
    with Provider(talk) as provider:
        with closing(way.upstream.open(post(provider.url), call)) as reply:
            assert next(reply.pieces()) == b"[DONE]\n\n"
            was_read.set()
        pool = way.upstream._adapter.pool(provider.url)
        (idle,) = pool.pool.queue
        assert idle.is_connected is ends


def test_closing_twice_does_no_harm(emulator: Emulator) -> None:
    with opened(to_emulator(emulator, "hello")) as reply:
        b"".join(reply.pieces())
        reply.close()


# --- one answer to each request ---------------------------------------------------------------

WHOLE = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n"


def answer(form: bytes, text: bytes) -> bytes:
    return form % (len(text), text)


# What a provider sends to the request with this text, besides its answer to it.
STRAYS: dict[str, Callable[[bytes, bytes], bytes]] = {
    "nothing": answer,
    "an interim answer": lambda form, text: (
        b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + answer(form, text)
    ),
    "many interim answers": lambda form, text: (
        b"HTTP/1.1 100 Continue\r\n\r\n"
        b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\n" * 3 + answer(form, text)
    ),
    "a second answer": lambda form, text: answer(form, text) + answer(form, b"not yours"),
    "bytes over the length": lambda form, text: answer(form, text) + b"not yours",
    "half a second answer": lambda form, text: answer(form, text) + b"HTTP/1.1 200 OK\r\nCont",
}


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("form", [WHOLE, CHUNKED], ids=["whole", "chunked"])
@pytest.mark.parametrize("stray", STRAYS.values(), ids=STRAYS)
def test_each_caller_gets_the_answer_to_its_own_request(
    stray: Callable[[bytes, bytes], bytes], form: bytes, scheme: str, authority: Authority
) -> None:
    """One after the other and side by side: what a provider sends over is nobody's."""

    def talk(connection: socket.socket) -> None:
        while request := received(connection):
            connection.sendall(stray(form, request.partition(b"\r\n\r\n")[2]))

    def ask(number: int) -> bool:
        text = b"for %d" % number
        return read(UpstreamRequest(provider.url, {}, text), way) == text

    way = Way(Upstream(authority.bundle), Timeouts(DEADLINE, DEADLINE, 600))
    tls = authority.context if scheme == "https" else None
    with Provider(talk, tls) as provider, ThreadPoolExecutor(4) as crowd:
        assert all(ask(number) for number in range(4))
        assert all(crowd.map(ask, range(4, 16)))


def test_an_answer_to_nobody_is_given_to_nobody() -> None:
    """It comes while the connection is idle."""
    answered = threading.Event()

    def talk(connection: socket.socket) -> None:
        while request := received(connection):
            connection.sendall(answer(WHOLE, request.partition(b"\r\n\r\n")[2]))
            assert answered.wait(DEADLINE)
            answered.clear()
            connection.sendall(answer(WHOLE, b"not yours"))
            sent.set()

    sent = threading.Event()
    with Provider(talk) as provider:
        way = soon()
        for number in range(5):
            text = b"for %d" % number
            assert read(UpstreamRequest(provider.url, {}, text), way) == text
            answered.set()
            assert sent.wait(DEADLINE)
            sent.clear()


def test_after_a_change_of_protocol_the_connection_is_not_kept() -> None:
    switch = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n"
    with answering(switch, switch) as provider:
        way = soon()
        for _ in range(2):
            with opened(post(provider.url), way) as reply:
                assert reply.status == 101
        assert len(provider.connections) == 2


# --- one more try -----------------------------------------------------------------------------


class Dying:
    """A provider whose connections die where `dies` says, by their number from 0."""

    def __init__(self, *dies: bool, late: float = 0.0, part: bytes = b"") -> None:
        self.dies, self.late, self.part = dies, late, part
        self.seen: list[int] = []  # the number of the connection of each request

    def __call__(self, connection: socket.socket) -> None:
        number = len(set(self.seen))
        while request := received(connection):
            is_second = number in self.seen
            self.seen.append(number)
            if self.dies[number] and (is_second or number):
                threading.Event().wait(self.late)
                connection.sendall(self.part)
                return
            connection.sendall(answer(WHOLE, request.partition(b"\r\n\r\n")[2]))


def test_a_kept_connection_that_ends_at_once_is_replaced() -> None:
    """Some servers close after an answer and do not say so: the request met the end on its way."""
    dying = Dying(True, False)
    with Provider(dying) as provider:
        way = soon()
        assert [read(post(provider.url), way) for _ in range(2)] == [BODY, BODY]
        assert dying.seen == [0, 0, 1]


REPEATED_NEVER = {
    "its fresh connection dies too": (Dying(True, True), [0, 0, 1]),
    "it dies later": (Dying(True, False, late=1.2), [0, 0]),
    "a byte had come": (Dying(True, False, part=b"H"), [0, 0]),
}


@pytest.mark.parametrize(("dying", "seen"), REPEATED_NEVER.values(), ids=REPEATED_NEVER)
def test_what_the_provider_may_work_on_is_not_sent_again(dying: Dying, seen: list[int]) -> None:
    with Provider(dying) as provider:
        way = soon()
        assert read(post(provider.url), way) == BODY
        assert told(failure(post(provider.url), way)) == FAILED
        assert dying.seen == seen


def test_what_the_provider_closed_while_it_was_idle_does_not_pile_up() -> None:
    held, closing_all = threading.Barrier(8), threading.Event()

    def talk(connection: socket.socket) -> None:
        request = received(connection)
        held.wait(DEADLINE) if b"crowd" in request else None
        connection.sendall(answer(WHOLE, b"{}"))
        closing_all.wait(DEADLINE)

    with Provider(talk) as provider, ThreadPoolExecutor(8) as crowd:
        way = soon()
        assert all(
            crowd.map(lambda _: read(UpstreamRequest(provider.url, {}, b"crowd"), way), range(8))
        )
        pool = way.upstream._adapter.pool(provider.url)
        assert pool.pool.qsize() == 8
        closing_all.set()
        wait_until(lambda: not any(idle.is_connected for idle in pool.pool.queue))
        read(UpstreamRequest(provider.url, {}, b"one"), way)
        assert pool.pool.qsize() == 1
