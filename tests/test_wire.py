"""gunicorn's own wire corpus, sent to gunicorn as shipped: see tests/wire/README.md."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from crowd import answer_to, error_of, exchange, post, request
from serving import KEY, HTTPAnswer, Server, answers

from emulator import Emulator

WIRE = Path(__file__).parent / "wire"
ESCAPES = {b"r": b"\r", b"n": b"\n", b"t": b"\t", b"0": b"\0"}


def unescaped(text: bytes) -> bytes:
    r"""The bytes to send: `\xHH` and the escapes stand for bytes, line breaks for nothing."""

    def byte(found: re.Match[bytes]) -> bytes:
        return bytes.fromhex(found[1].decode()) if found[1] else ESCAPES[found[2]]

    return re.sub(rb"\\(?:x([0-9A-Fa-f]{2})|(.))", byte, text.replace(b"\n", b""))


CORPUS = {
    f"{path.parent.name}/{path.stem}": unescaped(path.read_bytes())
    for path in sorted(WIRE.glob("*/*.http"))
}
# Invalid by settings that gunicorn can have, and does not have here.
INVALID_ELSEWHERE = {"010", "011", "012", "019", "040", "chunked_07"}
INVALID = {
    name: sent
    for name, sent in CORPUS.items()
    if name.startswith("invalid/") and name.removeprefix("invalid/") not in INVALID_ELSEWHERE
}

GOOD_AND_LAST = post("smuggled")


def at_our_door(sent: bytes) -> bytes:
    """The same body with the same framing, where somebody reads it."""
    line, _, rest = sent.partition(b"\r\n")
    version = line.rpartition(b" ")[2]
    return b"POST / %b\r\nAuthorization: Bearer %b\r\n%b" % (version, KEY.encode(), rest)


CHUNKED = {
    name: at_our_door(sent)
    for name, sent in INVALID.items()
    if sent.startswith((b"GET /", b"POST /", b"PUT /"))
    and b"ransfer-" in sent.partition(b"\r\n")[2]
}


def words(text: bytes) -> set[bytes]:
    return set(re.findall(rb"[A-Za-z0-9_]{4,}", text))


def fixed(answer: HTTPAnswer) -> bytes:
    """What an answer says, but for what differs each time and is nobody's text."""
    ours = answer.headers["X-Request-Id"]
    assert re.fullmatch("[0-9a-f]{32}", ours)
    headers = [f"{k}: {v}" for k, v in answer.headers.items() if k not in ("Date", "X-Request-Id")]
    return "\n".join(headers).encode() + answer.body.replace(ours.encode(), b"")


@pytest.fixture(scope="module")
def vocabulary(running_proxy: Server) -> set[bytes]:
    """The words with which anybody is refused."""
    lines = ["POST /a HTTP/1.1", "GET / HTTP/1.1", "? HTTP/1.1"]
    sent = [request(b"", line=line) for line in lines]
    sent += [request(b"", host="?"), request(b"", "Transfer-Encoding: x, chunked", length=None)]
    found = [answer_to(running_proxy, each) for each in sent]
    assert [answer.status for answer in found] == [404, 405, 400, 400, 501]
    return {word for answer in found for word in words(fixed(answer))} | words(b"keep-alive")


@pytest.fixture(scope="module", autouse=True)
def _one_worker_without_surprises(running_proxy: Server) -> Iterator[None]:
    """The worker that was started first serves still, and nothing surprised it."""
    yield
    answer = answer_to(running_proxy, request(b"", line="GET /healthz HTTP/1.1"))
    assert answer.status == 200
    assert running_proxy.log.count("Booting worker with pid: ") == 1
    assert "Traceback" not in running_proxy.log


def test_the_corpus_is_there() -> None:
    assert (len(CORPUS), len(INVALID), len(CHUNKED)) == (143, 75, 22)


@pytest.mark.parametrize("name", CORPUS)
def test_what_has_no_key_is_refused_in_json(
    proxy: Server, emulator: Emulator, vocabulary: set[bytes], name: str
) -> None:
    """Valid or not: one refusal for each request, and none of it is said back."""
    received = exchange(proxy, CORPUS[name], fin=True)
    found = answers(received)
    assert len(found) <= (1 if name in INVALID else 2), received
    if name in INVALID:  # where the next request begins cannot be known
        found.append(answer_to(proxy, INVALID[name] + GOOD_AND_LAST))
    for answer in found:
        assert answer.status in {400, 404, 405, 414, 431, 501}
        error_of(answer)
        assert not (words(fixed(answer)) - vocabulary) & words(CORPUS[name])
    assert emulator.requests == []


@pytest.mark.parametrize("name", CHUNKED)
def test_an_invalid_body_is_not_forwarded(proxy: Server, emulator: Emulator, name: str) -> None:
    """With a good key, where the body is read; nor is what follows it."""
    status, code = error_of(answer_to(proxy, CHUNKED[name] + GOOD_AND_LAST))
    assert (status, code) in {(400, "invalid_json"), (400, "invalid_http"), (501, "invalid_http")}
    assert emulator.requests == []
