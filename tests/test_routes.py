"""HTTP, through Flask's test client: the order of checks, each status, headers, and streams."""

import io
import json
import re
from collections.abc import Iterator
from itertools import product
from typing import Any
from unittest.mock import ANY, Mock

import pytest
import serving
from flask.testing import FlaskClient
from serving import ACCOUNT, BEARER, KEY, MODEL, PROVIDER_KEY, asking
from test_provider_cases import events, heard_in
from werkzeug.exceptions import BadRequest, InternalServerError, RequestHeaderFieldsTooLarge
from werkzeug.test import TestResponse

from app import create_app
from emulator import Emulator
from proxy import __version__, incoming
from proxy.errors import ClientGone, ProxyError
from proxy.upstream import Reply, Upstream
from proxy.watchdog import Timeouts

PATHS = ["/", "/v1/chat/completions", "/chat/completions"]
SAID = 'This is the emulator, not a model. You said: "Hi"'
NATIVE_PATH = f"/client/v4/accounts/{ACCOUNT}/ai/run/{MODEL}"


@pytest.fixture(params=["workers-ai", "openai"])
def either(request: pytest.FixtureRequest, emulator: Emulator) -> FlaskClient:
    """The application with each provider."""
    return create_app(serving.settings(emulator.url, request.param)).test_client()


def app_with(env: dict[str, str], **more: str) -> FlaskClient:
    return create_app({**env, **more}).test_client()


def post(client: FlaskClient, prompt: str = "Hi", **fields: Any) -> TestResponse:
    return client.post("/", json=asking(prompt, **fields), headers=BEARER, buffered=True)


def error_of(response: TestResponse) -> dict[str, Any]:
    """The error object, after checking all that every error has."""
    assert response.content_type == "application/json"
    body = json.loads(response.data)
    assert list(body) == ["error"]
    error: dict[str, Any] = body["error"]
    assert set(error) == {"message", "type", "param", "code"}
    known = ProxyError(error["code"])
    assert (response.status_code, error["type"]) == (known.status, known.type)
    assert error["message"].endswith(response.headers["X-Request-Id"])
    assert "\n" not in error["message"]
    assert ("X-Should-Retry" in response.headers) == (response.status_code >= 429)
    text = response.get_data(as_text=True)
    assert not any(secret in text for secret in (KEY, PROVIDER_KEY, ACCOUNT, "127.0.0.1"))
    return error


def code_of(response: TestResponse) -> str:
    """The error's code, which decides its status and its type."""
    code: str = error_of(response)["code"]
    return code


# --- the order of checks ----------------------------------------------------------------------


UNKNOWN = ["/v1", "/v1/", "/v1/models/", "/model", "/v1/chat/completions/", "/x", "/static/x"]
UNKNOWN += ["/v1//chat/completions", "/../", "/V1/chat/completions"]


@pytest.mark.parametrize("settings", [{}, None], ids=["no settings", "settings"])
def test_path_comes_first(env: dict[str, str], settings: dict[str, str] | None) -> None:
    """404 without a key, without settings, by any method; the message names where to go."""
    client = app_with(env if settings is None else settings)
    for path, method in product(UNKNOWN, ("GET", "POST", "OPTIONS")):
        response = client.open(
            method=method,
            base_url="http://evil.example.org",
            environ_overrides={"PATH_INFO": path},  # the client itself would tidy up //
        )
        error = error_of(response)
        assert error["code"] == "not_found"
        assert "/v1/chat/completions" in error["message"]
        assert "evil" not in error["message"]


def test_no_path_is_answered_with_a_redirect(client: FlaskClient) -> None:
    for path in ("", "//", "///", "//v1/chat/completions"):
        response = client.open(method="POST", environ_overrides={"PATH_INFO": path})
        assert code_of(response) in ("not_found", "invalid_api_key")


RESPONSES = ["createOpenAICompatible", "OpenAIChatCompletionsModel"]
COMPLETIONS = ["is_chat_model=True", "ChatOpenAI"]
HINTS = {
    "/v1/responses": RESPONSES,
    "/responses/": RESPONSES,
    "/v1/completions": COMPLETIONS,
    "/completions": COMPLETIONS,
    "/v1/embeddings": [],
}


def test_the_path_of_another_api_says_what_to_set(client: FlaskClient) -> None:
    for path, hints in HINTS.items():
        message = error_of(client.post(path))["message"]
        assert [hint for hint in RESPONSES + COMPLETIONS if hint in message] == hints


METHODS = ["GET", "HEAD", "OPTIONS", "PUT", "PATCH", "DELETE", "TRACE", "FOO"]


@pytest.mark.parametrize("method", METHODS)
def test_method_comes_second(env: dict[str, str], method: str) -> None:
    for client, path in product((app_with(env), app_with({})), PATHS):
        response = client.open(path, method=method)
        assert response.status_code == 405
        assert response.headers["Allow"] == "POST"
        assert method == "HEAD" or code_of(response) == "method_not_allowed"


def test_a_proxy_without_keys_says_so_before_it_calls_a_key_wrong(env: dict[str, str]) -> None:
    """The message names the variable, and no other to who has shown no key."""
    broken = env | {"WORKER_ACCESS_KEY": "", "LLAMA_PROVIDER": "nonsense"}
    for keys, named in ("", "WORKER_ACCESS_KEY"), ("no-name-at-all-0123", "WORKER_ACCESS_KEYS"):
        client = app_with(broken, WORKER_ACCESS_KEYS=keys)
        for headers in ({}, BEARER):
            error = error_of(client.post("/", data=b"nonsense", headers=headers))
            assert error["code"] == "proxy_misconfigured"
            assert f"must fix {named}." in error["message"]


def test_then_the_key_then_the_other_settings_then_the_body(env: dict[str, str]) -> None:
    broken = app_with(env, LLAMA_PROVIDER_API_KEY="", LLAMA_PROVIDER_TIMEOUT="soon")
    assert code_of(broken.post("/", data=b"nonsense")) == "invalid_api_key"
    error = error_of(broken.post("/", data=b"nonsense", headers=BEARER))
    assert error["code"] == "proxy_misconfigured"
    assert "LLAMA_PROVIDER_API_KEY, LLAMA_PROVIDER_TIMEOUT." in error["message"]
    small = app_with(env, MAX_REQUEST_BYTES="10")
    assert code_of(small.post("/", data=b"x" * 11)) == "invalid_api_key"
    assert code_of(small.post("/", data=b"x" * 11, headers=BEARER)) == "request_too_large"


def test_problems_and_warnings_are_logged_a_line_each(
    env: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    create_app({**env, "LOG_LEVEL": "loud", "CLOUDFLARE_ACCOUNT_ID": "", "WORKER_ACCESS_KEY": "k"})
    assert [record.levelname for record in caplog.records] == ["INFO", "ERROR", "ERROR", "WARNING"]
    first, *names, last = [record.getMessage().partition(":")[0] for record in caplog.records]
    assert first == f"llm-proxy {__version__} starts"
    assert ({*names}, last) == ({"CLOUDFLARE_ACCOUNT_ID", "LOG_LEVEL"}, "WORKER_ACCESS_KEY")


def test_a_key_elsewhere_is_no_key(client: FlaskClient) -> None:
    elsewhere: list[dict[str, Any]] = [
        {"json": asking(), "query_string": {"key": KEY, "api_key": KEY}},
        {"json": asking(), "headers": {"Cookie": f"Authorization={KEY}"}},
        {"json": asking(), "headers": {"X-Api-Key": KEY, "Api-Key": KEY}},
        {"json": asking(api_key=KEY, authorization=f"Bearer {KEY}")},
    ]
    for asked in elsewhere:
        assert code_of(client.post("/", **asked)) == "invalid_api_key"


NO_KEYS = [
    *("", "Bearer", "Bearer ", "Bearer wrong", "Basic dXNlcjpwYXNz", "Bearer \xff\xfe"),
    *(
        KEY,
        f"Basic {KEY}",
        f"Token {KEY}",
        f"Bearer{KEY}",
        f"Bearer\t{KEY}",
        f"Bearer \t{KEY}",
        f"Bearer {KEY}\0",
    ),
    *(f"Bearer {KEY[:-1]}", f"Bearer {KEY}x", f"Bearer {KEY.upper()}", f"Bearer {PROVIDER_KEY}"),
    *(f'Bearer "{KEY}"', f"Bearer {KEY},Bearer {KEY}", f'Bearer realm="x", token="{KEY}"'),
]


@pytest.mark.parametrize("value", NO_KEYS)
def test_a_wrong_key_whatever_is_wrong_with_it_is_the_same_401(
    client: FlaskClient, emulator: Emulator, value: str
) -> None:
    headers = {"X-Request-Id": "abc"}
    without = client.post("/", json=asking(), headers=headers)
    response = client.post("/", json=asking(), headers={**headers, "Authorization": value})
    assert code_of(response) == "invalid_api_key"
    assert response.headers["WWW-Authenticate"] == "Bearer"
    assert response.data == without.data
    assert emulator.requests == []


@pytest.mark.parametrize("key", [KEY, "sk-a=b==", "a,b,c=d; e=f", "inner blank", "q\"u'o\\te"])
def test_the_right_key_whatever_is_in_it(env: dict[str, str], key: str) -> None:
    client = app_with(env, WORKER_ACCESS_KEY=key)
    for value in ("Bearer {}", "bearer {}", "BEARER {}", "bEaReR {}", "Bearer  {}", "Bearer {} "):
        headers = {"Authorization": value.format(key)}
        assert client.post("/", json=asking(), headers=headers).status_code == 200


# --- the request's id -------------------------------------------------------------------------


def test_a_clean_request_id_is_kept(client: FlaskClient) -> None:
    for request_id, key, path in product(["a", "A-Z_0.9", "x" * 128], (BEARER, {}), ("/", "/x")):
        response = client.post(path, json=asking(), headers={**key, "X-Request-Id": request_id})
        assert response.headers.getlist("X-Request-Id") == [request_id]


def test_another_gets_a_new_one(client: FlaskClient) -> None:
    unclean = ["", "x" * 129, "a b", "a/b", "<b>", "a,b", "é", "a\tb", "a\0"]
    asked = [{**BEARER, "X-Request-Id": request_id} for request_id in 2 * unclean]
    given = {client.post("/", headers=headers).headers["X-Request-Id"] for headers in asked}
    assert len(given) == len(asked)
    assert all(re.fullmatch("[0-9a-f]{32}", request_id) for request_id in given)


# --- the body ---------------------------------------------------------------------------------

BODY, MARK = json.dumps(asking()).encode(), b"\xef\xbb\xbf"
TYPES = ["text/plain", "x", "a/b; charset=x", "application/x-www-form-urlencoded"]
TYPES += ["multipart/form-data; boundary=x"]
READ = [
    (MARK + BODY, {}),
    *((BODY, {"Content-Type": kind}) for kind in TYPES),
    *((BODY, {"Content-Encoding": coding}) for coding in ("", " ", "identity", "Identity")),
]
NOT_READ = [
    *((body, {}) for body in (b"nonsense", b"", b" \r\n", MARK)),
    *((BODY, {"Content-Encoding": coding}) for coding in ("gzip", "br", "x", "identity, gzip")),
]


@pytest.mark.parametrize(("body", "headers"), READ + NOT_READ)
def test_which_bodies_are_read(
    client: FlaskClient, emulator: Emulator, body: bytes, headers: dict[str, str]
) -> None:
    response = client.post("/", data=body, headers={**BEARER, **headers})
    if (body, headers) in READ:
        assert response.status_code == 200
    else:
        assert code_of(response) == "invalid_json"
        assert emulator.requests == []
        assert body.strip(MARK + b" \r\n") or "it is empty" in error_of(response)["message"]


def post_input(
    client: FlaskClient, stream: io.BytesIO, length: int | str = "", *, terminated: bool = True
) -> TestResponse:
    """As gunicorn gives a chunked body: no length, and an input that ends."""
    environ = {"wsgi.input_terminated": terminated, "CONTENT_LENGTH": str(length)}
    options: Any = {"headers": BEARER, "environ_overrides": environ, "buffered": True}
    return client.post("/", input_stream=stream, **options)


@pytest.mark.parametrize("is_chunked", [False, True], ids=["length", "chunked"])
def test_the_limit_for_the_body(env: dict[str, str], is_chunked: bool) -> None:
    client = app_with(env, MAX_REQUEST_BYTES="1000")
    for size in (1000, 1001, 500_000):
        response = post_input(client, io.BytesIO(BODY.ljust(size)), "" if is_chunked else size)
        if size == 1000:
            assert response.status_code == 200
        else:
            assert code_of(response) == "request_too_large"
            assert "1000" in error_of(response)["message"]


@pytest.mark.parametrize("terminated", [True, False], ids=["gunicorn", "another server"])
def test_a_body_shorter_than_it_claimed(client: FlaskClient, terminated: bool) -> None:
    """The client has closed its sending side, even if what came is a request by itself."""
    response = post_input(client, io.BytesIO(BODY), len(BODY) + 50, terminated=terminated)
    assert code_of(response) == "invalid_json"


@pytest.mark.parametrize(("raised", "ended"), [(ValueError, "refused"), (OSError, "client_gone")])
def test_a_body_that_cannot_be_read(
    client: FlaskClient, caplog: pytest.LogCaptureFixture, raised: type[Exception], ended: str
) -> None:
    """It is not HTTP, or the client has gone."""
    stream = Mock(wraps=io.BytesIO(), read=Mock(side_effect=raised("what the caller sent")))
    assert code_of(post_input(client, stream)) == "invalid_json"
    assert ended in caplog.text
    assert ("raised: ValueError" in caplog.text) == (raised is ValueError)
    assert "what the caller sent" not in caplog.text


OURS = Timeouts(first_byte=10, idle=6, total=30)
OLDER, NEWER = "x-stainless-timeout", "x-stainless-read-timeout"
ANNOUNCED = {  # more are in test_deadlines.py
    "a tenth less, at most a second": ({NEWER: "20"}, Timeouts(10, 6, 19)),
    "both": ({NEWER: "5", OLDER: "20"}, Timeouts(4.5, 4.5, 4.5)),
    "longer than ours": ({OLDER: "600"}, OURS),
    "nonsense": ({OLDER: "-5"}, OURS),
}


def test_a_timeout_ends_before_the_one_that_the_sdk_announces() -> None:
    app = create_app({})
    for case, (headers, used) in ANNOUNCED.items():
        with app.test_request_context(headers=headers):
            assert incoming.timeouts(OURS, stream=False) == used, case


# --- what goes to the provider ----------------------------------------------------------------


def test_nothing_from_the_caller_changes_where_it_goes(
    client: FlaskClient, emulator: Emulator
) -> None:
    evil = "http://evil.example.org/steal"
    response = client.post(
        "/v1/chat/completions?model=evil&base_url=" + evil,
        json=asking(
            api_base=evil, base_url=evil, url=evil, user_config={"api_base": evil},
            headers={"Authorization": "evil"}, extra_body={"url": evil}, account="evil",
        ),
        headers={
            **BEARER, "X-Forwarded-Host": "evil", "X-Forwarded-For": "1.2.3.4", "Via": "evil",
            "X-Original-URL": "/evil", "X-Portkey-Custom-Host": evil, "Cookie": "a=evil",
            "cf-aig-authorization": "evil", "User-Agent": "evil", "Accept-Encoding": "gzip",
        },
        base_url="http://evil.example.org",
    )  # fmt: skip
    assert response.status_code == 200
    (received,) = emulator.requests
    assert received.path == NATIVE_PATH
    assert received.headers["authorization"] == f"Bearer {PROVIDER_KEY}"
    assert "evil" not in str(received.headers)
    assert KEY not in str(received.headers)
    assert b"evil" not in received.body


def test_a_host_that_is_none_is_the_callers_fault(client: FlaskClient) -> None:
    """Each kind of them is in test_http.py."""
    assert code_of(client.post("/", headers={**BEARER, "Host": "a b"})) == "invalid_http"


def test_the_alias_is_what_callers_see(env: dict[str, str], emulator: Emulator) -> None:
    client = app_with(env, LLAMA_PROVIDER_MODELS=f"small={MODEL}")
    response = post(client, model="small")
    assert response.json
    assert response.json["model"] == "small"
    assert emulator.requests[0].path == NATIVE_PATH
    error = error_of(post(client, model=MODEL))
    assert error["code"] == "model_not_allowed"
    assert "small" in error["message"]
    assert {event["model"] for event in events(post(client, stream=True))[:-1]} == {"small"}


def test_what_the_provider_cannot_use_is_named(client: FlaskClient) -> None:
    response = post(client, user="me", store=True, metadata={"a": 1}, temperature=0.5)
    assert response.headers["X-Ignored-Parameters"] == "metadata, store, user"
    assert "X-Ignored-Parameters" in post(client, "[[status=500]]", user="me").headers
    assert "X-Ignored-Parameters" not in post(client, temperature=0.5).headers


def test_a_name_that_no_header_can_carry_is_not_named(client: FlaskClient) -> None:
    names = ["a\r\nSet-Cookie: evil=1", "a\n", "é", "a b", "", "x" * 65, "a,b", "\ud800", "ok"]
    response = post(client, **dict.fromkeys(names, 1))
    assert response.status_code == 200
    assert response.headers["X-Ignored-Parameters"] == "ok"
    many = post(client, **{f"p{number:03}": 1 for number in range(100)})
    assert many.headers["X-Ignored-Parameters"].split(", ") == [f"p{n:03}" for n in range(20)]


# --- failures of the provider -----------------------------------------------------------------

FAILURES = {  # before the first chunk: the code, X-Should-Retry and Retry-After
    "status=429,code=3021,retry_after=60": ("provider_rate_limited", "true", "60"),
    "reset=before": ("provider_failed", "false", None),
    "close=headers": ("provider_failed", "false", None),
    "junk,words=1": ("provider_bad_answer", "false", None),
}


@pytest.mark.parametrize(("directive", "expected"), FAILURES.items(), ids=FAILURES)
def test_a_failure_before_the_first_chunk_is_a_502_that_says_whether_to_try_again(
    client: FlaskClient, emulator: Emulator, directive: str, expected: tuple[str, ...]
) -> None:
    """Streamed or not. And the provider is asked once."""
    for stream in (False, True):
        response = post(client, f"[[{directive}]]", stream=stream)
        told = map(response.headers.get, ("X-Should-Retry", "Retry-After"))
        assert (code_of(response), *told) == expected
    assert len(emulator.requests) == 2


CUTS = {
    "reset=middle": "provider_failed",
    "close=middle,framing=length": "provider_failed",
    "no_done": "provider_failed",
    "junk": "provider_bad_answer",
}


@pytest.mark.parametrize(("directive", "code"), CUTS.items(), ids=CUTS)
def test_a_cut_stream_ends_with_an_error_after_what_had_come(
    client: FlaskClient, directive: str, code: str
) -> None:
    response = post(client, f"[[{directive},gap=0.01]]", stream=True)
    heard = heard_in(response)
    assert heard.content.startswith("This is ")
    assert heard.error == code
    assert events(response)[-1]["error"]["message"].endswith(response.headers["X-Request-Id"])


# --- failures of ours -------------------------------------------------------------------------

SECRET = f"Bearer {PROVIDER_KEY} and a private prompt"


def test_what_was_not_foreseen_is_a_500_whose_place_is_logged_and_not_its_text(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError(SECRET)

    monkeypatch.setattr(Upstream, "open", broken)
    response = post(client)
    assert code_of(response) == "internal_error"
    assert response.headers["X-Should-Retry"] == "false"
    line = caplog.records[-1]
    assert line.levelname == "ERROR"
    for shown in (response.headers["X-Request-Id"], "RuntimeError", "in broken"):
        assert shown in line.getMessage()
    assert SECRET not in caplog.text + response.text


def test_the_same_in_the_middle_of_a_stream(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    whole_pieces = Reply.pieces

    def broken_pieces(reply: Reply) -> Iterator[bytes]:
        yield next(whole_pieces(reply))
        raise RuntimeError(SECRET)

    monkeypatch.setattr(Reply, "pieces", broken_pieces)
    response = post(client, "one two three [[gap=0.2]]", stream=True)
    assert heard_in(response).error == "internal_error"
    assert "in broken_pieces" in caplog.text
    assert SECRET not in caplog.text + response.text


RAISED = {  # by Werkzeug, or as the client leaves
    BadRequest("secret"): "invalid_http",
    RequestHeaderFieldsTooLarge(): "invalid_http",
    InternalServerError(): "internal_error",
    ClientGone(): "invalid_json",
}


@pytest.mark.parametrize(("raised", "code"), RAISED.items(), ids=map(repr, RAISED))
def test_whose_fault_is_what_flask_or_a_server_raises(
    client: FlaskClient,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    raised: Exception,
    code: str,
) -> None:
    monkeypatch.setattr(Upstream, "open", Mock(side_effect=raised))
    response = post(client)
    assert code_of(response) == code
    assert "secret" not in response.text
    assert caplog.records[-1].levelname == ("ERROR" if code == "internal_error" else "INFO")


# --- answers ----------------------------------------------------------------------------------


def test_a_whole_answer(either: FlaskClient) -> None:
    response = post(either)
    assert response.status_code == 200
    assert response.content_type == "application/json"
    assert response.content_length == len(response.data)
    message = {"role": "assistant", "content": SAID, "refusal": None}
    assert response.json == {
        "id": ANY,
        "object": "chat.completion",
        "created": ANY,
        "model": MODEL,
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 10, "total_tokens": 11},
    }
    assert re.fullmatch("chatcmpl-[0-9a-f]{32}", response.json["id"])


def test_the_exact_sequence_of_a_stream(either: FlaskClient) -> None:
    response = post(either, "[[words=3]]", stream=True)
    assert response.status_code == 200
    assert response.headers["Cache-Control"] == "no-cache"
    assert response.headers["X-Accel-Buffering"] == "no"
    assert "Content-Length" not in response.headers
    *chunks, done = events(response)
    assert done == "[DONE]"
    (head,) = {(chunk["id"], chunk["created"], chunk["model"], chunk["object"]) for chunk in chunks}
    assert re.fullmatch("chatcmpl-[0-9a-f]{32}", head[0])
    assert head[2:] == (MODEL, "chat.completion.chunk")
    assert not any("usage" in chunk for chunk in chunks)
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    told = [(choice["index"], choice["delta"], choice["finish_reason"]) for choice in choices]
    assert told == [
        (0, {"role": "assistant", "content": ""}, None),
        (0, {"content": "This "}, None),
        (0, {"content": "is "}, None),
        (0, {"content": "the"}, None),
        (0, {}, "stop"),
    ]
    for is_wanted, last in (True, []), (False, choices[-1:]):
        options = {"include_usage": is_wanted}
        *_, chunk, _ = events(post(either, "[[words=3]]", stream=True, stream_options=options))
        assert chunk["choices"] == last  # the usage comes last, and only where it was asked for
        assert ("usage" in chunk) == is_wanted


def test_closing_a_stream_that_was_never_read_ends_the_providers_too(
    client: FlaskClient, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A generator that never began runs no `finally`. The reply is held: it is no garbage."""
    opened, held = Upstream.open, []
    monkeypatch.setattr(Upstream, "open", lambda *args: held.append(opened(*args)) or held[0])
    client.post("/", json=asking("[[endless,gap=0.05]]", stream=True), headers=BEARER).close()
    assert emulator.requests[0].gone.wait(serving.DEADLINE)


def test_a_body_over_the_memory_for_all_may_come_a_second_later(
    env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(incoming, "_MOST_AT_A_TIME", 10)  # a larger limit for one body stands
    app = create_app(env)
    bodies = app.extensions["proxy"].bodies
    bodies._bytes += 64 * 1024**2
    refused = post(app.test_client())
    assert code_of(refused) == "rate_limited"
    assert (refused.headers["Retry-After"], refused.headers["X-Should-Retry"]) == ("1", "true")
    bodies._bytes -= 64 * 1024**2
    assert post(app.test_client()).status_code == 200
    assert bodies._bytes == 0
