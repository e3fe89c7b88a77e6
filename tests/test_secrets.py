"""Canaries: in the keys, the account, the prompt, and what the provider says of them."""

import json
import uuid
from collections.abc import Iterator
from itertools import product
from typing import NamedTuple

import pytest
import serving
from conftest import Serve
from crowd import PROC, Wire, exchange, post, request, workers

KEY, PROVIDER_KEY, ACCOUNT, PROMPT, PROSE, WRONG_KEY = (
    f"canary-{name}-{uuid.uuid4().hex}"
    for name in ("tier1", "tier2", "account", "prompt", "prose", "wrong")
)
AUTHORIZATION = f"Authorization: Bearer {KEY}"
SAID_BACK = f"{PROSE} you sent {PROMPT} to {ACCOUNT} with {PROVIDER_KEY}"


def http(status: int, body: bytes, kind: str = "application/json", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} {PROSE}", f"Content-Type: {kind}", f"X-Secret: {SAID_BACK}"]
    lines += [f"cf-ai-req-id: {SAID_BACK}", f"Set-Cookie: a={PROSE}", f"cf-ray: {PROSE}"]
    lines += [*headers, f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode() + body


def envelope(code: int) -> bytes:
    errors = [{"code": code, "message": SAID_BACK}]
    return json.dumps({"result": {}, "success": False, "errors": errors}).encode()


def stream(end: object) -> bytes:
    """A stream that begins well; then a line of this."""
    body = f'data: {{"response": "Hi"}}\n\n{end}\n\n'
    return http(200, body.encode(), "text/event-stream")


OPENAIS = json.dumps({"error": {"message": SAID_BACK, "type": PROSE, "code": "x"}})
PAGE = f"<html>{SAID_BACK}</html>".encode()
REFUSALS = [(400, 5006), (400, 5007), (400, 8001), (401, 10000), (403, 5035), (404, 7003)]
REFUSALS += [(408, 3046), (410, 5028), (413, 5021), (429, 3040), (429, 4006), (500, 3043)]
ANSWERS = {
    **{f"{status} {code}": http(status, envelope(code)) for status, code in REFUSALS},
    **{f"{status} of OpenAI": http(status, OPENAIS.encode()) for status in (400, 401, 429, 500)},
    **{f"{status} as a page": http(status, PAGE, "text/html") for status in (502, 200)},
    "200 without success": http(200, envelope(3043)),
    "a redirect": http(302, b"", "text/html", f"Location: http://127.0.0.1:1/{SAID_BACK}"),
    "no HTTP": f"{SAID_BACK}\r\n\r\n".encode(),
    "a header that is none": f"HTTP/1.1 200 OK\r\n{SAID_BACK}\r\n\r\n".encode(),
    "a length that is none": f"HTTP/1.1 200 OK\r\nContent-Length: {SAID_BACK}\r\n\r\n".encode(),
    "a coding that is none": http(200, b"{}", "application/json", f"Content-Encoding: {PROSE}"),
    "nothing": b"",
    "a body that is cut": http(200, b"x" * 99)[:-50],
    "JSON that is cut": http(200, json.dumps({"result": SAID_BACK}).encode()[:-2]),
    "JSON of another shape": http(200, json.dumps([SAID_BACK]).encode()),
    "fields of another shape": http(200, json.dumps({"result": {"said": [PROSE]}}).encode()),
    "a stream with an error": stream(f"data: {OPENAIS}"),
    "a stream with junk": stream(f"data: {SAID_BACK}"),
    "a stream that is cut": stream(f": {SAID_BACK}"),
    "an answer": http(200, json.dumps({"result": {"response": "Hi"}}).encode()),
}


def with_body(body: str) -> bytes:
    return request(body.encode(), key=KEY)


def with_prompt(name: str, streams: bool) -> bytes:
    """The play's name, after a message with the prompt."""
    messages = [{"role": "user", "content": said} for said in (PROMPT, name)]
    fields = {"messages": messages, "stream": streams, "user": PROMPT}
    return with_body(json.dumps(fields))


# What a caller may send; all of it with the key, most of it wrong.
GOOD = post("an answer", key=KEY)
SENT = {
    **{
        f"header {number}": post("an answer", header, key=KEY)
        for number, header in enumerate((
            f"Authorization Bearer {KEY}", f"X-Key : {KEY}", f"X-Key: a\r\n {KEY}",
            f"X-Key: {KEY}\0", f": {KEY}", f"X-Key: {KEY * 400}", f"Transfer-Encoding: {KEY}",
            f"Referer: {KEY}", f"User-Agent: {KEY}", f"X-Request-Id: {KEY}!", AUTHORIZATION,
        ))
    },
    **{
        f"URL {number}": GOOD.replace(b"/", url.encode(), 1)
        for number, url in enumerate((
            f"/?{KEY * 150}", f"/?key={KEY}", f"http://{KEY}@x/", f"/{KEY}", f"/v1/{KEY}/chat",
            f"/%63{KEY[1:]}", f"/{WRONG_KEY}",
        ))
    },
    **{
        f"{new[:9]!r} for {old!r}": GOOD.replace(old, new)
        for old, new in ((b"POST", KEY.encode()), (b"Bearer", b"Basic"), (b"\r\n", b"\n"))
    },
    "many headers": post("an answer", *[f"X-{n}: {KEY}" for n in range(120)], key=KEY),
    "a wrong key": post("an answer", key=WRONG_KEY),
    "a key that is not ASCII": post("an answer", key=WRONG_KEY + "\xe9"),
    "no JSON": with_body(PROMPT),
    "JSON of another shape": with_body(json.dumps({"messages": PROMPT, PROMPT: PROMPT})),
    "another role": with_body(json.dumps({"messages": [{"role": PROMPT, "content": PROMPT}]})),
    "another model": with_body(json.dumps({"messages": [], "model": PROMPT})),
}  # fmt: skip


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
                answers[f"{name}, {streams}"] = exchange(server, with_prompt(name, streams))
            for name, sent in SENT.items():
                answers[f"asked with {name}"] = exchange(server, sent)
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
    """Answers of many kinds, and failures that the log tells of."""
    statuses = {answer[9:12] for answer in session.answers.values()}
    assert statuses >= {b"200", b"400", b"401", b"404", b"414", b"431", b"502"}
    codes = ["auth_failed", "model_unavailable", "bad_answer", "failed", "quota_exhausted"]
    assert [code for code in codes if f"provider_{code}" not in session.log] == []


def test_there_is_no_access_log(session: Session) -> None:
    for trace in ('"POST ', "HTTP/1.1", "127.0.0.1 - -"):
        assert trace not in session.log
    assert "Traceback" not in session.log
