"""Canaries: in the keys, the account, the prompt, and what the provider says of them."""

import json
import uuid
from collections.abc import Iterator
from itertools import product
from typing import Any, NamedTuple

import pytest
import serving
from conftest import Serve
from crowd import PROC, Wire, exchange, post, request, response, workers
from recorded import as_bytes

KEY, PROVIDER_KEY, ACCOUNT, PROMPT, PROSE, WRONG_KEY = (
    f"canary-{name}-{uuid.uuid4().hex}"
    for name in ("tier1", "tier2", "account", "prompt", "prose", "wrong")
)
SAID_BACK = f"{PROSE} you sent {PROMPT} to {ACCOUNT} with {PROVIDER_KEY}"
JSON = "application/json"


def http(status: int, body: Any, kind: str = JSON, *headers: str) -> bytes:
    lines = [f"Content-Type: {kind}", f"X-Secret: {SAID_BACK}", f"cf-ai-req-id: {SAID_BACK}"]
    lines += [f"Set-Cookie: a={PROSE}", f"cf-ray: {PROSE}", *headers]
    return response(body, *lines, status=f"{status} {PROSE}")


def envelope(code: int) -> dict[str, Any]:
    return {"result": {}, "success": False, "errors": [{"code": code, "message": SAID_BACK}]}


def stream(end: str) -> bytes:
    """A stream that begins well; then a line of this."""
    return http(200, f'data: {{"response": "Hi"}}\n\n{end}\n\n', "text/event-stream")


OPENAIS = {"error": {"message": SAID_BACK, "type": PROSE, "code": "x"}}
PAGE = f"<html>{SAID_BACK}</html>"
REFUSALS = [(400, 5006), (400, 5007), (400, 8001), (401, 10000), (403, 5035), (404, 7003)]
REFUSALS += [(408, 3046), (410, 5028), (413, 5021), (429, 3040), (429, 4006), (500, 3043)]
ANSWERS = {
    **{f"{status} {code}": http(status, envelope(code)) for status, code in REFUSALS},
    **{f"{status} of OpenAI": http(status, OPENAIS) for status in (400, 401, 429, 500)},
    **{f"{status} as a page": http(status, PAGE, "text/html") for status in (502, 200)},
    "200 without success": http(200, envelope(3043)),
    "a redirect": http(302, "", "text/html", f"Location: http://127.0.0.1:1/{SAID_BACK}"),
    "no HTTP": f"{SAID_BACK}\r\n\r\n".encode(),
    "a header that is none": f"HTTP/1.1 200 OK\r\n{SAID_BACK}\r\n\r\n".encode(),
    "a length that is none": f"HTTP/1.1 200 OK\r\nContent-Length: {SAID_BACK}\r\n\r\n".encode(),
    "a coding that is none": http(200, {}, JSON, f"Content-Encoding: {PROSE}"),
    "nothing": b"",
    "a body that is cut": http(200, "x" * 99)[:-50],
    "JSON that is cut": http(200, {"result": SAID_BACK})[:-2],
    "JSON of another shape": http(200, [SAID_BACK]),
    "fields of another shape": http(200, {"result": {"said": [PROSE]}}),
    "a stream with an error": stream(f"data: {json.dumps(OPENAIS)}"),
    "a stream with junk": stream(f"data: {SAID_BACK}"),
    "a stream that is cut": stream(f": {SAID_BACK}"),
    "an answer": http(200, {"result": {"response": "Hi"}}),
}


def asking(body: Any) -> bytes:
    return request(as_bytes(body), key=KEY)


def messages(role: str, *said: str) -> list[dict[str, str]]:
    return [{"role": role, "content": text} for text in said]


# What a caller may send; all of it with the key, most of it wrong.
GOOD = post("an answer", key=KEY)
HEADERS = [
    *(f"Authorization: Bearer {KEY}", f"Authorization Bearer {KEY}", f"X-Key : {KEY}"),
    *(f"X-Key: a\r\n {KEY}", f"X-Key: {KEY}\0", f": {KEY}", f"X-Key: {KEY * 400}"),
    *(f"Transfer-Encoding: {KEY}", f"Referer: {KEY}", f"User-Agent: {KEY}"),
    f"X-Request-Id: {KEY}!",
]
URLS = [
    *(f"/?{KEY * 150}", f"/?key={KEY}", f"http://{KEY}@x/", f"/{KEY}", f"/v1/{KEY}/chat"),
    *(f"/%63{KEY[1:]}", f"/{WRONG_KEY}"),
]
SENT = [
    *(post("an answer", header, key=KEY) for header in HEADERS),
    *(GOOD.replace(b"/", url.encode(), 1) for url in URLS),
    GOOD.replace(b"POST", KEY.encode()),
    GOOD.replace(b"Bearer", b"Basic"),
    GOOD.replace(b"\r\n", b"\n"),
    post("an answer", *[f"X-{n}: {KEY}" for n in range(120)], key=KEY),
    post("an answer", key=WRONG_KEY),
    post("an answer", key=WRONG_KEY + "\xe9"),
    asking(PROMPT),
    asking({"messages": PROMPT, PROMPT: PROMPT}),
    asking({"messages": messages(PROMPT, PROMPT)}),
    asking({"messages": [], "model": PROMPT}),
]


class Session(NamedTuple):
    """All that was said and shown."""

    answers: dict[str, bytes]
    log: str
    command_lines: bytes


@pytest.fixture(scope="module")
def session(serve: Serve) -> Iterator[Session]:
    """Every kind of request there is, at LOG_LEVEL=debug."""
    with Wire({name: (lambda sent=sent: [sent]) for name, sent in ANSWERS.items()}) as wire:
        env = serving.settings(
            wire.url,
            LOG_LEVEL="debug",
            WORKER_ACCESS_KEY=KEY,
            LLAMA_PROVIDER_API_KEY=PROVIDER_KEY,
            CLOUDFLARE_ACCOUNT_ID=ACCOUNT,
        )
        with serve(env) as server:
            answers = {}
            for name, streams in product(ANSWERS, (False, True)):
                said = messages("user", PROMPT, name)  # the play's name
                sent = asking({"messages": said, "stream": streams, "user": PROMPT})
                answers[f"{name}, {streams}"] = exchange(server, sent)
            answers |= {repr(sent): exchange(server, sent) for sent in SENT}
            assert len(wire.requests) >= 2 * len(ANSWERS)
            pids = [server.process.pid, *workers(server)]
            shown = b"".join((PROC / str(pid) / "cmdline").read_bytes() for pid in pids)
        yield Session(answers, server.log, shown)


CANARIES = {
    "tier-1 key": KEY[1:],  # its first letter may be percent-encoded
    "tier-2 key": PROVIDER_KEY,
    "account": ACCOUNT,
    "prompt": PROMPT,
    "provider's prose": PROSE,
    "wrong key": WRONG_KEY,
}


@pytest.mark.parametrize("canary", CANARIES.values(), ids=CANARIES)
def test_nothing_shows_it(session: Session, canary: str) -> None:
    """Not even an answer to a malformed request. (Names of ignored fields are the caller's own.)"""
    assert [name for name, answer in session.answers.items() if canary.encode() in answer] == []
    assert [line for line in session.log.splitlines() if canary in line] == []
    assert b"gunicorn" in session.command_lines
    assert canary.encode() not in session.command_lines


def test_the_session_was_what_it_should_be(session: Session) -> None:
    """Answers of many kinds, and failures that the log tells of; there is no access log."""
    statuses = {answer[9:12] for answer in session.answers.values()}
    assert statuses >= {b"200", b"400", b"401", b"404", b"414", b"431", b"502"}
    codes = ["auth_failed", "model_unavailable", "bad_answer", "failed", "quota_exhausted"]
    assert [code for code in codes if f"provider_{code}" not in session.log] == []
    unwanted = ('"POST ', "HTTP/1.1", "127.0.0.1 - -", "Traceback")
    assert [trace for trace in unwanted if trace in session.log] == []
