"""Canaries: in the keys, the account, the prompt, and what the provider says of them."""

import json
import uuid
from collections.abc import Iterator
from typing import NamedTuple

import pytest
import serving
from conftest import Serve
from crowd import PROC, Wire, exchange, post, request, workers
from serving import Server

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


def openais(code: str) -> bytes:
    return json.dumps({"error": {"message": SAID_BACK, "type": PROSE, "code": code}}).encode()


def event(value: object) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


REFUSALS = [(400, 5006), (400, 5007), (400, 8001), (401, 10000), (403, 5035), (404, 7003)]
REFUSALS += [(408, 3046), (410, 5028), (413, 5021), (429, 3040), (429, 4006), (500, 3043)]
ANSWERS = {
    **{f"{status} {code}": http(status, envelope(code)) for status, code in REFUSALS},
    **{f"{status} in OpenAI's form": http(status, openais("x")) for status in (400, 401, 429, 500)},
    "502 as a page": http(502, f"<html>{SAID_BACK}</html>".encode(), "text/html"),
    "200 as a page": http(200, f"<html>{SAID_BACK}</html>".encode(), "text/html"),
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
    "a stream with an error": http(
        200, event({"response": "Hi"}) + event(json.loads(openais("x"))), "text/event-stream"
    ),
    "a stream with junk": http(
        200, event({"response": "Hi"}) + f"data: {SAID_BACK}\n\n".encode(), "text/event-stream"
    ),
    "a stream that is cut": http(
        200, event({"response": "Hi"}) + f": {SAID_BACK}\n\n".encode(), "text/event-stream"
    ),
    "an answer": http(200, json.dumps({"result": {"response": "Hi"}}).encode()),
}


def with_body(body: str) -> bytes:
    return request(body.encode(), key=KEY)


def with_prompt(name: str, stream: bool) -> bytes:
    """The play's name, after a message with the prompt."""
    messages = [{"role": "user", "content": said} for said in (PROMPT, name)]
    fields = {"messages": messages, "stream": stream, "user": PROMPT}
    return with_body(json.dumps(fields))


# What a caller may send; all of it with the key, most of it wrong.
SENT = {
    "a header line without a colon": post("an answer", f"Authorization Bearer {KEY}", key=KEY),
    "a header with a blank before its colon": post("an answer", f"X-Key : {KEY}", key=KEY),
    "a folded header": post("an answer", f"X-Key: a\r\n {KEY}", key=KEY),
    "a NUL in a header": post("an answer", f"X-Key: {KEY}\0", key=KEY),
    "a header without a name": post("an answer", f": {KEY}", key=KEY),
    "a long line": post("an answer", key=KEY).replace(b"POST /", f"POST /?{KEY * 150}".encode()),
    "a long header": post("an answer", f"X-Key: {KEY * 400}", key=KEY),
    "many headers": post("an answer", *[f"X-{n}: {KEY}" for n in range(120)], key=KEY),
    "another coding": post("an answer", f"Transfer-Encoding: {KEY}", key=KEY),
    "another method": post("an answer", key=KEY).replace(b"POST", KEY.encode()),
    "another path": post("an answer", key=KEY).replace(b"POST /", b"POST /x"),
    "a query": post("an answer", key=KEY).replace(b"POST /", f"POST /?key={KEY}".encode()),
    "user info": post("an answer", key=KEY).replace(b"POST /", f"POST http://{KEY}@x/".encode()),
    "a referer": post("an answer", f"Referer: {KEY}", f"User-Agent: {KEY}", key=KEY),
    "a request id": post("an answer", f"X-Request-Id: {KEY}!", key=KEY),
    "two keys": post("an answer", AUTHORIZATION, key=KEY),
    "a wrong key": post("an answer", key=WRONG_KEY),
    "another scheme": post("an answer", key=KEY).replace(b"Bearer", b"Basic"),
    "a key that is not ASCII": post("an answer", key=WRONG_KEY + "\xe9"),
    "no JSON": with_body(PROMPT),
    "JSON of another shape": with_body(json.dumps({"messages": PROMPT, PROMPT: PROMPT})),
    "another role": with_body(json.dumps({"messages": [{"role": PROMPT, "content": PROMPT}]})),
    "another model": with_body(json.dumps({"messages": [], "model": PROMPT})),
    "bare line feeds": post("an answer", key=KEY).replace(b"\r\n", b"\n"),
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
            for name in ANSWERS:
                for stream in (False, True):
                    sent = with_prompt(name, stream)
                    answers[f"{name}, {'stream' if stream else 'whole'}"] = exchange(server, sent)
            for name, sent in SENT.items():
                answers[f"asked with {name}"] = exchange(server, sent)
            assert len(wire.requests) >= 2 * len(ANSWERS)
            pids = [server.process.pid, *workers(server)]
            shown = b"".join((PROC / str(pid) / "cmdline").read_bytes() for pid in pids)
        yield Session(answers, server.log, shown)


CANARIES = {
    "tier-1 key": KEY,
    "tier-2 key": PROVIDER_KEY,
    "account": ACCOUNT,
    "prompt": PROMPT,
    "provider's prose": PROSE,
    "wrong key": WRONG_KEY,
}


@pytest.mark.parametrize("canary", CANARIES.values(), ids=CANARIES)
def test_no_answer_shows_it(session: Session, canary: str) -> None:
    """Not even those to a malformed request. (The names of ignored fields are the caller's own.)"""
    shown = [name for name, answer in session.answers.items() if canary.encode() in answer]
    assert shown == []


@pytest.mark.parametrize("canary", CANARIES.values(), ids=CANARIES)
def test_no_log_line_shows_it(session: Session, canary: str) -> None:
    assert [line for line in session.log.splitlines() if canary in line] == []


@pytest.mark.parametrize("canary", CANARIES.values(), ids=CANARIES)
def test_no_command_line_shows_it(session: Session, canary: str) -> None:
    assert b"gunicorn" in session.command_lines
    assert canary.encode() not in session.command_lines


def test_the_session_was_what_it_should_be(session: Session) -> None:
    """Answers of many kinds, and failures that the log tells of."""
    statuses = {answer[9:12] for answer in session.answers.values()}
    assert statuses >= {b"200", b"400", b"401", b"404", b"414", b"431", b"502"}
    codes = ["auth_failed", "model_unavailable", "bad_answer", "failed", "quota_exhausted"]
    assert [code for code in codes if f"provider_{code}" not in session.log] == []


def test_a_key_in_a_path_is_not_logged(proxy: Server) -> None:
    for path in (KEY, f"v1/{KEY}/chat", "%74" + serving.KEY[1:], WRONG_KEY):
        sent = post("Hi").replace(b"POST /", f"POST /{path}".encode())
        assert b" 404 " in exchange(proxy, sent)
    for secret in (KEY, serving.KEY[1:], WRONG_KEY):
        assert secret not in proxy.log


def test_there_is_no_access_log(session: Session) -> None:
    for trace in ('"POST ', "HTTP/1.1", "127.0.0.1 - -"):
        assert trace not in session.log
    assert "Traceback" not in session.log
