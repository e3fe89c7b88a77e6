"""The way to the provider: each failure by its name, nothing leaked, nothing held back."""

import gc
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import DEFAULT, Mock

import pytest
import requests
import responses
import serving
import trustme
import urllib3
from crowd import Provider, answering, asking, chunk, full_listener, reset
from serving import DEADLINE, HOST, PROVIDER_KEY, wait_until

from emulator import Emulator
from proxy import __version__, connections
from proxy.errors import ProviderError
from proxy.providers import UpstreamRequest
from proxy.upstream import Reply, Upstream
from proxy.watchdog import Call, Timeouts

BODY = b'{"messages":[{"role":"user","content":"a very private prompt"}]}'
CHAT = "/v1/chat/completions"  # of the emulator
URL = "https://api.example.org/accounts/acc0unt-id/ai/run/model"

WHOLE = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n"
OK = WHOLE % (2, b"{}")

UNREACHABLE = ("provider_unreachable", "true")
TIMEOUT = ("provider_timeout", "false")
FAILED = ("provider_failed", "false")


class Way:
    """Connections, and how long each call over them may take: here, where no watchdog is, the
    time to the first byte holds for each read."""

    def __init__(self, ca_bundle: str = "", **timeouts: float) -> None:
        self.upstream = Upstream(ca_bundle)
        long = {"first_byte": DEADLINE, "idle": DEADLINE, "total": 600.0}
        self.timeouts = Timeouts(**{**long, **timeouts})

    @contextmanager
    def opened(self, url: str, body: bytes = BODY, *, is_watched: bool = False) -> Iterator[Reply]:
        call = Call(is_watched=is_watched)
        call.begin(self.timeouts)
        request = UpstreamRequest(url, {"Authorization": f"Bearer {PROVIDER_KEY}"}, body)
        with closing(self.upstream.open(request, call)) as reply:
            yield reply

    def ask(self, url: str, body: bytes = BODY) -> bytes | tuple[str, str]:
        """The body of the answer, or the failure's code and advice. Nothing that is reachable from
        the error shows what was sent."""
        try:
            with self.opened(url, body) as reply:
                return b"".join(reply.pieces())
        except ProviderError as error:
            assert error.__cause__ is None
            assert error.__suppress_context__ or error.__context__ is None
            shown = f"{error} {error!r} {error.args} {vars(error)}"
            for secret in (PROVIDER_KEY, "private prompt", "acc0unt-id", HOST, "Bearer"):
                assert secret not in shown
            return error.code, error.headers["X-Should-Retry"]

    def idle(self, url: str) -> list[Any]:
        """The connections that wait for a request."""
        queue: list[Any] = self.upstream._adapter.pool(url).pool.queue
        return queue


# --- what is sent, and what is not ------------------------------------------------------------


def test_the_request_is_sent_as_the_provider_made_it() -> None:
    """The headers are ours and no others, a second time too; the body is sent byte for byte."""
    head = b"201 Created\r\nX-From: it\r\nSet-Cookie: a=1\r\nContent-Type: Text/Event-Stream; x=y"
    with answering(*[OK.replace(b"200 OK", head)] * 2) as provider:
        way = Way()
        for _ in range(2):
            with way.opened(f"{provider.url}/run/@cf/meta/model-8b") as reply:
                assert (reply.status, reply.headers["x-from"]) == (201, "it")
                assert reply.is_event_stream
                assert b"".join(reply.pieces()) == b"{}"
        assert len(provider.connections) == 1
        request, second = provider.requests
    assert request == second
    sent, _, body = request.partition(b"\r\n\r\n")
    first, *headers = sent.decode().split("\r\n")
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


def test_a_large_body_may_take_longer_than_connecting(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a fresh connection, and on a kept one."""
    monkeypatch.setattr(connections, "CONNECT_TIMEOUT", 0.2)
    large = b"0123456789" * 800_000  # not in the kernel's buffer at once

    def talk(connection: socket.socket) -> None:
        while connection.recv(1, socket.MSG_PEEK):
            threading.Event().wait(0.4)  # as long as a slow line
            assert provider.received(connection).endswith(b"\r\n\r\n" + large)
            connection.sendall(OK)

    with Provider(talk) as provider:
        way = Way()
        assert [way.ask(provider.url, large) for _ in range(2)] == [b"{}"] * 2


def test_an_answer_under_way_does_not_keep_the_body() -> None:
    with answering(OK) as provider:
        body = b"a body of its own, %d" % provider.port
        with Way().opened(provider.url, body):
            holders = {type(holder).__name__ for holder in gc.get_referrers(body)}
            assert holders == {"UpstreamRequest", "generator"}  # the request, and `opened`


def test_neither_netrc_nor_proxies_nor_ca_bundles_of_the_environment_are_used(
    emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A netrc would replace the key; a proxy would be given it; a missing bundle would break."""
    netrc = tmp_path / ".netrc"
    netrc.write_text(f"machine {HOST} login me password pw\ndefault login you password pw\n")
    netrc.chmod(0o600)
    proxies = ("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy", "ALL_PROXY")
    environ = dict.fromkeys(proxies, f"http://{HOST}:{serving.free_port()}")
    environ |= dict.fromkeys(("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"), "/nonexistent/ca.pem")
    for name, value in {**environ, "no_proxy": "", "NO_PROXY": "", "NETRC": str(netrc)}.items():
        monkeypatch.setenv(name, value)
    assert b"hello" in Way().ask(emulator.url + CHAT, asking("hello"))
    (seen,) = emulator.requests
    assert seen.headers["authorization"] == f"Bearer {PROVIDER_KEY}"
    assert "proxy-connection" not in seen.headers


# --- failures ---------------------------------------------------------------------------------

DIRECTIVES = {
    "silent": (TIMEOUT, {"first_byte": 0.2}),
    "no_end,framing=chunked": (TIMEOUT, {"first_byte": 0.2}),
    "no_end,framing=close": (TIMEOUT, {"first_byte": 0.2}),
    "drip_body=0.05": (TIMEOUT, {"total": 0.3}),
    "reset=before": (FAILED, {}),
    "close=middle": (FAILED, {}),
    "reset=middle,framing=chunked": (FAILED, {}),
}


@pytest.mark.parametrize("directive", DIRECTIVES)
def test_a_failure_has_its_name_and_one_post(emulator: Emulator, directive: str) -> None:
    """Each wait is bounded, drips too; what was sent once is not sent again."""
    expected, timeouts = DIRECTIVES[directive]
    assert Way(**timeouts).ask(emulator.url + CHAT, asking(f"[[{directive}]]")) == expected
    assert len(emulator.requests) == 1


RAW_ANSWERS = {
    "nothing": b"",
    "TLS": b"\x15\x03\x01\x00\x02\x02\x46",
    "too many headers": b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 500 + b"\r\n{}",
    "a header of 200 kB": b"HTTP/1.1 200 OK\r\nA: " + b"b" * 200_000 + b"\r\n\r\n{}",
    "chunk size that is none": CHUNKED.replace(b"%x", b"xyz") % b"{}",
    "gzip that is none": OK.replace(b" OK", b" OK\r\nContent-Encoding: gzip"),
}


@pytest.mark.parametrize("sent", RAW_ANSWERS.values(), ids=RAW_ANSWERS)
def test_an_answer_that_is_not_http(sent: bytes) -> None:
    with answering(sent) as provider:
        assert Way().ask(provider.url) == FAILED
    assert len(provider.requests) == 1


KEY_IN_TEXT = f"{URL} Bearer {PROVIDER_KEY} a very private prompt"
RAISED = [requests.exceptions.InvalidURL, urllib3.exceptions.ProtocolError, OSError, ValueError]


@pytest.mark.parametrize("raised", RAISED)
def test_nothing_foreign_gets_out(raised: type[Exception]) -> None:
    with responses.RequestsMock() as provider:
        provider.post(URL, body=raised(KEY_IN_TEXT))
        assert Way().ask(URL) == FAILED


# --- no connection ----------------------------------------------------------------------------


def test_a_connection_that_cannot_be_made(
    emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Connecting has three seconds, TLS included; nothing is sent."""
    assert connections.CONNECT_TIMEOUT == 3
    monkeypatch.setattr(connections, "CONNECT_TIMEOUT", 0.2)
    with full_listener() as full, Provider(serving.read_to_end) as silent:
        started = time.monotonic()
        for url in (
            "http://no-such-host.invalid/x",
            f"http://{HOST}:{full}/x",
            silent.url.replace("http:", "https:"),
            emulator.url.replace("http:", "https:"),
        ):
            assert Way().ask(url) == UNREACHABLE
        assert time.monotonic() - started < DEADLINE
        assert len(silent.connections) == 1  # what takes too long is not tried again
    assert emulator.requests == []


def test_a_refused_connection_is_tried_once_more(
    emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing was sent."""
    create = urllib3.util.connection.create_connection
    tries = Mock(wraps=create, side_effect=[ConnectionRefusedError, DEFAULT])
    monkeypatch.setattr(urllib3.util.connection, "create_connection", tries)
    assert b"hello" in Way().ask(emulator.url + CHAT, asking("hello"))
    assert (tries.call_count, len(emulator.requests)) == (2, 1)


Authority = tuple[str, ssl.SSLContext]  # the file for LLAMA_PROVIDER_CA_BUNDLE; the provider's


@pytest.fixture(scope="module", name="authority")
def _authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Who signs the provider's certificate."""
    signs, bundle = trustme.CA(), tmp_path_factory.mktemp("ca") / "ca.pem"
    signs.cert_pem.write_to_path(bundle)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    signs.issue_cert(HOST).configure_cert(context)
    return str(bundle), context


def test_a_certificate_needs_one_of_the_usual_authorities(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the handshake fails, so nothing was sent: no connection could be made."""
    bundle, context = authority
    with answering(OK, tls=context) as provider:
        assert Way().ask(provider.url) == UNREACHABLE
        assert provider.requests == []
        monkeypatch.setattr(connections, "DEFAULT_CA_BUNDLE_PATH", bundle)
        assert Way().ask(provider.url) == b"{}"


# --- as it comes ------------------------------------------------------------------------------


def test_chunks_that_have_come_together_are_one_piece() -> None:
    sent = CHUNKED.replace(b"0\r\n\r\n", chunk(b"two")) % (3, b"one") + b"0\r\n\r\n"
    with answering(sent) as provider, Way().opened(provider.url) as reply:
        assert list(reply.pieces()) == [b"onetwo"]


# --- kept connections -------------------------------------------------------------------------


WHILE_IDLE: dict[str, tuple[Callable[[socket.socket], object], bytes]] = {
    "it is closed": (socket.socket.close, OK),
    "it is reset": (reset, OK),
    "an answer to nobody comes": (
        lambda idle: (idle.sendall(WHOLE % (9, b"not yours")), idle.recv(1)),
        OK,
    ),
    "it is closed, and the next one too": (socket.socket.close, b""),
}


@pytest.mark.parametrize(("happens", "then"), WHILE_IDLE.values(), ids=WHILE_IDLE)
def test_an_idle_connection_that_is_of_no_use_is_replaced_silently_once(
    happens: Callable[[socket.socket], object], then: bytes
) -> None:
    was_read = threading.Event()

    def talk(connection: socket.socket) -> None:
        provider.received(connection)
        connection.sendall(then if was_read.is_set() else OK)
        assert was_read.wait(DEADLINE)
        happens(connection)

    with Provider(talk) as provider:
        way = Way()
        assert way.ask(provider.url) == b"{}"
        was_read.set()
        wait_until(lambda: not way.idle(provider.url)[0].is_connected)
        assert way.ask(provider.url) == (b"{}" if then else FAILED)
    assert len(provider.requests) == 2


@pytest.mark.parametrize("ends", [True, False], ids=["ends", "does not end"])
def test_a_stream_that_was_read_to_its_done_is_given_its_end(ends: bool) -> None:
    """Under gunicorn its connection is kept then, else it is closed."""
    done = b"[DONE]\n\n"

    def talk(connection: socket.socket) -> None:
        while provider.received(connection):
            connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            connection.sendall(chunk(done))
            assert was_read.wait(DEADLINE)
            connection.sendall(b"0\r\n\r\n" if ends else b"zz\r\n")

    was_read, way = threading.Event(), Way()
    with Provider(talk) as provider:
        with way.opened(provider.url, is_watched=True) as reply:
            assert next(reply.pieces()) == done
            was_read.set()
        assert [idle.is_connected for idle in way.idle(provider.url)] == [ends]


def test_what_the_provider_closed_while_it_was_idle_does_not_pile_up() -> None:
    held, closing_all = threading.Barrier(8), threading.Event()

    def talk(connection: socket.socket) -> None:
        if provider.received(connection).endswith(b"crowd"):
            held.wait(DEADLINE)
        connection.sendall(OK)
        closing_all.wait(DEADLINE)

    with Provider(talk) as provider, ThreadPoolExecutor(8) as crowd:
        way = Way()
        assert {*crowd.map(lambda _: way.ask(provider.url, b"crowd"), range(8))} == {b"{}"}
        assert len(way.idle(provider.url)) == 8
        closing_all.set()
        wait_until(lambda: not any(idle.is_connected for idle in way.idle(provider.url)))
        assert way.ask(provider.url) == b"{}"
        assert len(way.idle(provider.url)) == 1


# --- one answer to each request ---------------------------------------------------------------

# What a provider sends before its answer, after it, and after the next request that comes there.
STRAYS = {
    "nothing": (b"", b"", b""),
    "an interim answer": (b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n", b"", b""),
    "many interim answers": (b"HTTP/1.1 100 Go\r\n\r\nHTTP/1.1 102 OK\r\n\r\n" * 3, b"", b""),
    "a second answer": (b"", WHOLE % (9, b"not yours"), b""),
    "bytes over the length": (b"", b"not yours", b""),
    "half a second answer": (b"", b"HTTP/1.1 200 OK\r\nCont", b"ent-Length: 9\r\n\r\nnot yours"),
}


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("form", [WHOLE, CHUNKED], ids=["whole", "chunked"])
@pytest.mark.parametrize("stray", STRAYS)
def test_each_caller_gets_the_answer_to_its_own_request(
    stray: str, form: bytes, scheme: str, authority: Authority
) -> None:
    """One after the other and side by side: what a provider sends over is nobody's."""
    before, after, late = STRAYS[stray]

    def talk(connection: socket.socket) -> None:
        is_next = False
        while request := provider.received(connection):
            text = request.partition(b"\r\n\r\n")[2]
            answer = before + form % (len(text), text) + after
            connection.sendall(late * is_next + answer)
            is_next = True

    bundle, context = authority
    way, texts = Way(bundle), [b"for %d" % number for number in range(11)]
    with (
        Provider(talk, context if scheme == "https" else None) as provider,
        ThreadPoolExecutor(4) as crowd,
    ):
        ask = partial(way.ask, provider.url)
        assert [*map(ask, texts[:3])] == texts[:3]
        assert [*crowd.map(ask, texts)] == texts


def test_after_a_change_of_protocol_the_connection_is_not_kept() -> None:
    switch = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n"
    with answering(switch, switch) as provider:
        way = Way()
        for _ in range(2):
            with way.opened(provider.url) as reply:
                assert (reply.status, list(reply.pieces())) == (101, [])
        assert len(provider.connections) == 2


# --- one more try -----------------------------------------------------------------------------


# A kept connection lives so many seconds after its second request, and sends a part of an answer;
# the fresh one answers, or it ends after so many seconds -> what comes of it.
DEATHS = {
    "at once": (0.0, b"", None, b"{}"),
    "at once, and the fresh one too": (0.0, b"", 0.0, FAILED),
    "at once, and the fresh one is silent": (0.0, b"", 2.0, TIMEOUT),
    "later": (1.1, b"", None, FAILED),
    "after a byte": (0.0, b"H", None, FAILED),
    "after an interim answer": (0.0, b"HTTP/1.1 103 x\r\n\r\n", None, FAILED),
}


@pytest.mark.parametrize(("lives", "part", "fresh", "expected"), DEATHS.values(), ids=DEATHS)
def test_a_kept_connection_that_dies_is_replaced_if_the_provider_cannot_have_begun(
    lives: float, part: bytes, fresh: float | None, expected: bytes | tuple[str, str]
) -> None:
    """Some servers close after an answer and do not say so: the request met the end on its way."""

    def talk(connection: socket.socket) -> None:
        is_first = len(provider.connections) == 1
        for seconds in (None, lives) if is_first else (fresh,):
            assert provider.received(connection)
            time.sleep(seconds or 0)
            connection.sendall(OK if seconds is None else part)

    way = Way(first_byte=1.6)
    with Provider(talk) as provider:
        assert way.ask(provider.url) == b"{}"
        assert way.ask(provider.url) == expected
        replaced = lives == 0 and not part
        assert (len(provider.connections), len(provider.requests)) == (1 + replaced, 2 + replaced)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_kept_connection_that_dies_while_a_body_leaves_is_replaced_too(
    scheme: str, authority: Authority
) -> None:
    def talk(connection: socket.socket) -> None:
        is_first = len(provider.connections) == 1
        provider.received(connection)
        connection.sendall(OK)
        if is_first:
            connection.recv(1)

    bundle, context = authority
    with Provider(talk, context if scheme == "https" else None) as provider:
        way = Way(bundle)
        for body in (BODY, b"0123456789" * 800_000):
            assert way.ask(provider.url, body) == b"{}"
        assert len(provider.connections) == 2
