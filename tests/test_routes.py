"""HTTP, through Flask's test client: the order of checks, each status, headers, and streams."""

import io
import json
import re
from collections.abc import Iterator
from itertools import product
from typing import Any
from unittest.mock import Mock

import pytest
import serving
from flask.testing import FlaskClient
from serving import ACCOUNT, BEARER, KEY, MODEL, PROVIDER_KEY, asking
from werkzeug.exceptions import BadRequest, InternalServerError, RequestHeaderFieldsTooLarge
from werkzeug.test import TestResponse

from app import create_app
from emulator import Emulator
from proxy import __version__, incoming
from proxy.errors import ClientGone
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


def post(client: FlaskClient, said: str = "Hi", **fields: Any) -> TestResponse:
    """A whole answer is closed too, as a server does; of a stream only the status has come."""
    asked = asking(said, **fields)
    return client.post("/", json=asked, headers=BEARER, buffered=not fields.get("stream"))


def post_bytes(client: FlaskClient, body: bytes, **headers: str) -> TestResponse:
    return client.post("/", data=body, headers={**BEARER, **headers}, buffered=True)


def error_of(response: TestResponse) -> dict[str, Any]:
    """The error object, after checking all that every error has."""
    assert response.content_type == "application/json"
    body = json.loads(response.data)
    assert list(body) == ["error"]
    error: dict[str, Any] = body["error"]
    assert set(error) == {"message", "type", "param", "code"}
    request_id = response.headers["X-Request-Id"]
    assert error["message"].endswith(request_id)
    assert "\n" not in error["message"]
    assert ("X-Should-Retry" in response.headers) == (response.status_code >= 500)
    text = response.get_data(as_text=True)
    assert not any(secret in text for secret in (KEY, PROVIDER_KEY, ACCOUNT, "127.0.0.1"))
    return error


def told(response: TestResponse) -> tuple[int, str, str]:
    error = error_of(response)
    return response.status_code, error["type"], error["code"]


def events(response: TestResponse) -> list[Any]:
    """The data of each event of a stream; [DONE] stays text."""
    assert response.status_code == 200
    assert response.content_type == "text/event-stream; charset=utf-8"
    *frames, rest = response.data.decode("ascii").split("\n\n")
    assert rest == ""
    assert all(frame.startswith("data: ") and "\n" not in frame for frame in frames)
    response.close()
    data = [frame.removeprefix("data: ") for frame in frames]
    return [text if text == "[DONE]" else json.loads(text) for text in data]


NOT_FOUND = (404, "invalid_request_error", "not_found")
WRONG_METHOD = (405, "invalid_request_error", "method_not_allowed")
NO_KEY = (401, "authentication_error", "invalid_api_key")
MISCONFIGURED = (500, "proxy_error", "proxy_misconfigured")
BROKE = (500, "proxy_error", "internal_error")
INVALID_JSON = (400, "invalid_request_error", "invalid_json")
INVALID_HTTP = (400, "invalid_request_error", "invalid_http")
TOO_LARGE = (413, "invalid_request_error", "request_too_large")

# --- the order of checks ----------------------------------------------------------------------


@pytest.mark.parametrize("path", PATHS)
def test_each_path_answers(client: FlaskClient, path: str) -> None:
    response = client.post(path, json=asking(), headers=BEARER)
    assert response.status_code == 200
    assert response.json
    assert response.json["choices"][0]["message"]["content"] == SAID


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
        assert told(response) == NOT_FOUND
        message = error_of(response)["message"]
        assert "/v1/chat/completions" in message
        assert "evil" not in message


def test_no_path_is_answered_with_a_redirect(client: FlaskClient) -> None:
    for path in ("", "//", "///", "//v1/chat/completions"):
        response = client.open(method="POST", environ_overrides={"PATH_INFO": path})
        assert told(response) in (NOT_FOUND, NO_KEY)


RESPONSES = ["createOpenAICompatible", "OpenAIChatCompletionsModel"]
COMPLETIONS = ["is_chat_model=True", "ChatOpenAI"]
HINTS = {
    "/v1/responses": RESPONSES,
    "/responses/": RESPONSES,
    "/v1/completions": COMPLETIONS,
    "/completions": COMPLETIONS,
    "/v1/chat/completions/": [],
    "/v1/embeddings": [],
    "/v1": [],
}


@pytest.mark.parametrize(("path", "hints"), HINTS.items(), ids=HINTS)
def test_the_path_of_another_api_says_what_to_set(
    client: FlaskClient, path: str, hints: list[str]
) -> None:
    response = client.post(path, headers=BEARER)
    assert told(response) == NOT_FOUND
    message = error_of(response)["message"]
    assert [hint for hint in RESPONSES + COMPLETIONS if hint in message] == hints


METHODS = ["GET", "HEAD", "OPTIONS", "PUT", "PATCH", "DELETE", "TRACE", "FOO"]


@pytest.mark.parametrize("method", METHODS)
def test_method_comes_second(env: dict[str, str], method: str) -> None:
    for client, path in product((app_with(env), app_with({})), PATHS):
        response = client.open(path, method=method)
        assert response.status_code == 405
        assert response.headers["Allow"] == "POST"
        if method == "HEAD":
            assert response.data == b""
            assert response.content_type == "application/json"
        else:
            assert told(response) == WRONG_METHOD


@pytest.mark.parametrize(
    ("keys", "named"),
    [("", "WORKER_ACCESS_KEY"), ("no-name-at-all-0123", "WORKER_ACCESS_KEYS")],
    ids=["none", "one that makes no sense"],
)
def test_a_proxy_without_keys_says_so_before_it_calls_a_key_wrong(
    env: dict[str, str], keys: str, named: str
) -> None:
    """`The message and the log name the variable`, and no other to who has shown no key."""
    broken = {"WORKER_ACCESS_KEY": "", "WORKER_ACCESS_KEYS": keys, "LLAMA_PROVIDER": "nonsense"}
    client = app_with(env, **broken)
    for headers in ({}, BEARER):
        response = client.post("/", data=b"nonsense", headers=headers)
        assert told(response) == MISCONFIGURED
        assert f"must fix {named}." in error_of(response)["message"]


def test_then_the_key_then_the_other_settings_then_the_body(env: dict[str, str]) -> None:
    broken = app_with(env, LLAMA_PROVIDER_API_KEY="", LLAMA_PROVIDER_TIMEOUT="soon")
    assert told(broken.post("/", data=b"nonsense")) == NO_KEY
    response = broken.post("/", data=b"nonsense", headers=BEARER)
    assert told(response) == MISCONFIGURED
    message = error_of(response)["message"]
    assert "LLAMA_PROVIDER_API_KEY" in message
    assert "LLAMA_PROVIDER_TIMEOUT" in message
    small = app_with(env, MAX_REQUEST_BYTES="10")
    assert told(small.post("/", data=b"x" * 11)) == NO_KEY
    assert told(small.post("/", data=b"x" * 11, headers=BEARER)) == TOO_LARGE


def test_problems_and_warnings_are_logged_a_line_each(
    env: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    create_app({**env, "LOG_LEVEL": "loud", "CLOUDFLARE_ACCOUNT_ID": "", "WORKER_ACCESS_KEY": "k"})
    assert [record.levelname for record in caplog.records] == ["INFO", "ERROR", "ERROR", "WARNING"]
    first, *names, last = [record.getMessage().partition(":")[0] for record in caplog.records]
    assert first == f"llm-proxy {__version__} starts"
    assert ({*names}, last) == ({"CLOUDFLARE_ACCOUNT_ID", "LOG_LEVEL"}, "WORKER_ACCESS_KEY")


# --- tier 1 -----------------------------------------------------------------------------------


def test_a_key_elsewhere_is_no_key(client: FlaskClient) -> None:
    elsewhere: list[dict[str, Any]] = [
        {"json": asking(), "query_string": {"key": KEY, "api_key": KEY}},
        {"json": asking(), "headers": {"Cookie": f"Authorization={KEY}"}},
        {"json": asking(), "headers": {"X-Api-Key": KEY, "Api-Key": KEY}},
        {"json": asking(api_key=KEY, authorization=f"Bearer {KEY}")},
    ]
    for asked in elsewhere:
        assert told(client.post("/", **asked)) == NO_KEY


NO_KEYS = {
    "missing": None,
    "empty": "",
    "the scheme alone": "Bearer",
    "empty token": "Bearer ",
    "wrong": "Bearer wrong",
    "Basic": "Basic dXNlcjpwYXNz",
    "another scheme": f"Token {KEY}",
    "no scheme": KEY,
    "tab": f"Bearer\t{KEY}",
    "tab after the blank": f"Bearer \t{KEY}",
    "no blank": f"Bearer{KEY}",
    "prefix": f"Bearer {KEY[:-1]}",
    "superset": f"Bearer {KEY}x",
    "another case": f"Bearer {KEY.upper()}",
    "quoted": f'Bearer "{KEY}"',
    "twice": f"Bearer {KEY},Bearer {KEY}",
    "NUL": f"Bearer {KEY}\0",
    "high bytes": "Bearer \xff\xfe",
    "the provider's key": f"Bearer {PROVIDER_KEY}",
    "parameters": f'Bearer realm="x", token="{KEY}"',
}


@pytest.mark.parametrize("value", NO_KEYS.values(), ids=NO_KEYS)
def test_a_wrong_key_whatever_is_wrong_with_it_is_the_same_401(
    client: FlaskClient, emulator: Emulator, value: str | None
) -> None:
    headers = {"X-Request-Id": "abc"} | ({} if value is None else {"Authorization": value})
    response = client.post("/", json=asking(), headers=headers)
    assert told(response) == NO_KEY
    assert response.headers["WWW-Authenticate"] == "Bearer"
    assert response.data == client.post("/", headers={"X-Request-Id": "abc"}).data
    assert emulator.requests == []


@pytest.mark.parametrize("key", [KEY, "sk-a=b==", "a,b,c=d; e=f", "inner blank", "q\"u'o\\te"])
def test_the_right_key_whatever_is_in_it(env: dict[str, str], key: str) -> None:
    client = app_with(env, WORKER_ACCESS_KEY=key)
    for value in ("Bearer {}", "bearer {}", "BEARER {}", "bEaReR {}", "Bearer  {}", "Bearer {} "):
        headers = {"Authorization": value.format(key)}
        assert client.post("/", json=asking(), headers=headers).status_code == 200


# --- the request's id -------------------------------------------------------------------------


@pytest.mark.parametrize("request_id", ["a", "A-Z_0.9", "x" * 128])
def test_a_clean_request_id_is_kept(client: FlaskClient, request_id: str) -> None:
    for key, path in product((BEARER, {}), ("/", "/unknown")):
        response = client.post(path, json=asking(), headers={**key, "X-Request-Id": request_id})
        assert response.headers.getlist("X-Request-Id") == [request_id]


def test_another_gets_a_new_one(client: FlaskClient) -> None:
    unclean = ["", "x" * 129, "a b", "a/b", "<b>", "a,b", "é", "a\tb", "a\0"]
    asked = [{**BEARER, "X-Request-Id": request_id} for request_id in 2 * unclean]
    given = {client.post("/", headers=headers).headers["X-Request-Id"] for headers in asked}
    assert len(given) == len(asked)
    assert all(re.fullmatch("[0-9a-f]{32}", request_id) for request_id in given)


def test_the_providers_request_id_is_passed_on(either: FlaskClient) -> None:
    for said, stream in (("Hi", False), ("Hi", True), ("[[status=500]]", False)):
        response = post(either, said, stream=stream)
        assert re.fullmatch("[A-Za-z0-9._-]+", response.headers["X-Provider-Request-Id"])


# --- the body ---------------------------------------------------------------------------------


CONTENT_TYPES = [None, "application/json; charset=utf-8", "text/plain", "application/vnd.api+json"]
CONTENT_TYPES += ["x", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"]


def test_any_content_type_is_accepted(client: FlaskClient) -> None:
    for content_type in CONTENT_TYPES:
        body = json.dumps(asking()).encode()
        response = client.post("/", data=body, headers=BEARER, content_type=content_type)
        assert response.status_code == 200


BODY, MARK = json.dumps(asking()).encode(), b"\xef\xbb\xbf"
BODIES = {  # the body, its Content-Encoding, and whether it is read
    "no JSON": (b"nonsense", "", False),
    "a list": (b"[]", "", False),
    "a form": (b"messages=x", "", False),
    "deep": (b"[" * 100_000, "", False),
    "bad UTF-8": (b'{"messages":[{"role":"user","content":"\xff"}]}', "", False),
    "nothing": (b"", "", False),
    "only blanks": (b" \r\n", "", False),
    "only a byte order mark": (MARK, "", False),
    "after a byte order mark": (MARK + BODY, "", True),
    **{coding: (b"\x1f\x8b", coding, False) for coding in ("gzip", "br", "x", "identity, gzip")},
    **{f"coding {coding!r}": (BODY, coding, True) for coding in ("", " ", "identity", "Identity")},
}


@pytest.mark.parametrize(("body", "coding", "is_read"), BODIES.values(), ids=BODIES)
def test_which_bodies_are_read(
    client: FlaskClient, emulator: Emulator, body: bytes, coding: str, is_read: bool
) -> None:
    response = post_bytes(client, body, **{"Content-Encoding": coding})
    assert is_read == (response.status_code == 200) == bool(emulator.requests)
    assert is_read or told(response) == INVALID_JSON
    assert body.strip() or "it is empty" in error_of(response)["message"]


def post_input(
    client: FlaskClient, stream: io.BytesIO, length: int | None = None, *, terminated: bool = True
) -> TestResponse:
    """As gunicorn gives a chunked body: no length, and an input that ends."""
    environ = {"wsgi.input_terminated": terminated}
    environ |= {} if length is None else {"CONTENT_LENGTH": str(length)}
    return client.post(
        "/", input_stream=stream, headers=BEARER, environ_overrides=environ, buffered=True
    )


@pytest.mark.parametrize("is_chunked", [False, True], ids=["length", "chunked"])
def test_the_limit_for_the_body(env: dict[str, str], is_chunked: bool) -> None:
    client = app_with(env, MAX_REQUEST_BYTES="1000")
    for size, is_read in {1000: True, 1001: False, 5000: False, 500_000: False}.items():
        body = BODY.ljust(size)
        response = post_input(client, io.BytesIO(body), None if is_chunked else size)
        assert (response.status_code == 200) == is_read
        assert is_read or told(response) == TOO_LARGE
        assert is_read or "1000" in error_of(response)["message"]


@pytest.mark.parametrize("terminated", [True, False], ids=["gunicorn", "another server"])
def test_a_body_shorter_than_it_claimed(client: FlaskClient, terminated: bool) -> None:
    """The client has closed its sending side, even if what came is a request by itself."""
    response = post_input(client, io.BytesIO(BODY), len(BODY) + 50, terminated=terminated)
    assert told(response) == INVALID_JSON


UNREADABLE = {
    "not HTTP": (ValueError, None, INVALID_JSON, "refused"),
    "the client has gone": (OSError, None, INVALID_JSON, "client_gone"),
    "unread, because it is too large": (AssertionError, 10**9, TOO_LARGE, "refused"),
}


@pytest.mark.parametrize("case", UNREADABLE.values(), ids=UNREADABLE)
def test_a_body_that_cannot_be_read(
    client: FlaskClient, caplog: pytest.LogCaptureFixture, case: tuple[Any, ...]
) -> None:
    raised, length, error, ended = case
    stream = Mock(wraps=io.BytesIO(), read=Mock(side_effect=raised("what the caller sent")))
    assert told(post_input(client, stream, length)) == error
    assert ended in caplog.text
    assert ("raised: ValueError" in caplog.text) == (raised is ValueError)
    assert "what the caller sent" not in caplog.text


OURS = Timeouts(first_byte=10, idle=6, total=30)
OLDER, NEWER = "x-stainless-timeout", "x-stainless-read-timeout"
ANNOUNCED = {
    "none": ({}, False, OURS),
    "an older SDK": ({OLDER: "5"}, False, Timeouts(4.5, 4.5, 4.5)),
    "a newer SDK": ({NEWER: "20"}, False, Timeouts(10, 6, 19)),
    "both": ({NEWER: "5", OLDER: "20"}, False, Timeouts(4.5, 4.5, 4.5)),
    "a stream": ({OLDER: "5"}, True, Timeouts(4.5, 4.5, 30)),
    "longer than ours": ({OLDER: "600"}, False, OURS),
    "zero": ({OLDER: "0"}, False, OURS),
    "nonsense": ({OLDER: "-5"}, False, OURS),
}


def test_a_timeout_ends_before_the_one_that_the_sdk_announces() -> None:
    app = create_app({})
    for case, (headers, stream, used) in ANNOUNCED.items():
        with app.test_request_context(headers=headers):
            assert incoming.timeouts(OURS, stream) == used, case


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


HOSTS = {  # and whether it is one
    **dict.fromkeys(("evil.example.org", "llm_proxy:8000", "[::1]:8000", "x:", "x:99999"), True),
    **dict.fromkeys(("x/#", "x/?", "a b", "a..b", "", "[", "user@host", "\xe9", "x:1:2"), False),
}


@pytest.mark.parametrize(("host", "is_one"), HOSTS.items(), ids=map(repr, HOSTS))
def test_no_host_header_matters(
    client: FlaskClient,
    emulator: Emulator,
    caplog: pytest.LogCaptureFixture,
    host: str,
    is_one: bool,
) -> None:
    """Neither for the guard, nor for where the request goes; at worst it is a 400."""
    for key, status in ({}, 401), (BEARER, 200):
        response = client.post("/", json=asking(), headers={**key, "Host": host}, buffered=True)
        assert response.status_code == (status if is_one else 400)
        assert is_one or told(response) == INVALID_HTTP
    assert {received.path for received in emulator.requests} == ({NATIVE_PATH} if is_one else set())
    assert {record.levelname for record in caplog.records} == {"INFO"}


def test_the_alias_is_what_callers_see(env: dict[str, str], emulator: Emulator) -> None:
    client = app_with(env, LLAMA_PROVIDER_MODELS=f"small={MODEL}")
    response = post(client, model="small")
    assert response.json
    assert response.json["model"] == "small"
    assert emulator.requests[0].path == NATIVE_PATH
    refused = post(client, model=MODEL)
    assert told(refused) == (400, "invalid_request_error", "model_not_allowed")
    assert "small" in error_of(refused)["message"]
    assert [event["model"] for event in events(post(client, stream=True))[:-1]].count("small") > 3


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


# --- whole answers ----------------------------------------------------------------------------


def test_a_whole_answer(either: FlaskClient) -> None:
    response = post(either)
    assert response.status_code == 200
    assert response.content_type == "application/json"
    assert response.content_length == len(response.data)
    assert response.json
    answer = dict(response.json)
    assert re.fullmatch("chatcmpl-[0-9a-f]{32}", answer.pop("id"))
    assert isinstance(answer.pop("created"), int)
    (choice,) = answer.pop("choices")
    usage = {"prompt_tokens": 1, "completion_tokens": 10, "total_tokens": 11}
    assert answer == {"object": "chat.completion", "model": MODEL, "usage": usage}
    message = choice.pop("message")
    assert choice == {"index": 0, "logprobs": None, "finish_reason": "stop"}
    assert (message["role"], message["content"]) == ("assistant", SAID)


# --- refusals and failures of the provider ----------------------------------------------------

GZIP, EMPTY = f"gzip={100 * 1024**2}", "sample=empty_result_success.json"
BILLED, NONSENSE = ("provider_failed", "false", None), ("provider_bad_answer", "false", None)
FAILURES = {  # of the provider: the code, X-Should-Retry and Retry-After
    "status=401": ("provider_auth_failed", "false", None),
    "status=429": ("provider_overloaded", "true", "5"),
    "status=429,code=3021,retry_after=60": ("provider_rate_limited", "true", "60"),
    "status=429,code=3021,retry_after=61": ("provider_rate_limited", "false", "61"),
    "status=500": ("provider_failed", "true", None),
    **dict.fromkeys(("close=before", "reset=before", "garbage"), BILLED),
    **dict.fromkeys(("close=headers", "reset=headers", "close=middle", "reset=middle"), BILLED),
    **dict.fromkeys(("redirect=302", "status=204", "junk,words=1"), NONSENSE),
    **dict.fromkeys((f"huge={9 * 1024**2}", GZIP, EMPTY), NONSENSE),
    "close=headers,framing=close": BILLED,
}
ONCE = {"close=headers,framing=close": (True,)}  # asked for as a stream, or whole; others as both
ONCE |= dict.fromkeys(("close=middle", "reset=middle", GZIP, EMPTY), (False,))


@pytest.mark.parametrize(("directive", "expected"), FAILURES.items(), ids=FAILURES)
def test_a_failure_before_the_first_chunk_is_a_502_that_says_whether_to_try_again(
    env: dict[str, str], emulator: Emulator, directive: str, expected: tuple[str, ...]
) -> None:
    """And the provider is asked once."""
    for stream in ONCE.get(directive, (False, True)):
        emulator.clear()
        response = post(app_with(env), f"[[{directive}]]", stream=stream)
        headers = (response.headers["X-Should-Retry"], response.headers.get("Retry-After"))
        assert (*told(response), *headers) == (502, "provider_error", *expected)
        assert len(emulator.requests) == 1


def test_no_status_of_the_providers_passes_through(either: FlaskClient) -> None:
    """Nor does what it said. A 400 is the caller's fault."""
    assert told(post(either, "[[status=400]]"))[::2] == (400, "provider_rejected_input")
    for status in (401, 402, 403, 404, 405, 408, 409, 410, 418, 429, 500, 503):
        for stream in (False, True):
            response = post(either, f"[[status={status}]]", stream=stream)
            assert response.status_code == 502
            assert "asked for" not in error_of(response)["message"]


def test_an_unreachable_provider(env: dict[str, str], caplog: pytest.LogCaptureFixture) -> None:
    nobody = f"http://127.0.0.1:{serving.free_port()}/run"
    client = app_with(env, LLAMA_PROVIDER_BASE_URL=nobody)
    for stream in (False, True):
        response = post(client, stream=stream)
        assert told(response) == (502, "provider_error", "provider_unreachable")
        assert response.headers["X-Should-Retry"] == "true"
    assert "LLAMA_PROVIDER_BASE_URL" in caplog.text


FIRST, TOTAL = {"LLAMA_PROVIDER_TIMEOUT": "0.3"}, {"LLAMA_PROVIDER_TOTAL_TIMEOUT": "0.4"}
DRIP = "drip_body=0.05"
TOO_SLOW = [("silent", FIRST, False), ("stall=0", FIRST, True), ("first=20", FIRST, False)]
TOO_SLOW += [("first=20", FIRST, True), (DRIP, TOTAL, False), (DRIP, TOTAL, True)]


@pytest.mark.parametrize(("directive", "limit", "stream"), TOO_SLOW, ids=str)
def test_a_provider_that_is_too_slow(
    env: dict[str, str], emulator: Emulator, directive: str, limit: dict[str, str], stream: bool
) -> None:
    response = post(app_with(env, **limit), f"[[{directive}]]", stream=stream)
    assert told(response) == (502, "provider_error", "provider_timeout")
    assert response.headers["X-Should-Retry"] == "false"
    assert len(emulator.requests) == 1


def test_a_stream_without_an_end_for_a_whole_answer(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxy.providers.answers.MAX_ANSWER", 100_000)
    assert told(post(client, "[[sse_for_whole,endless]]"))[2] == "provider_bad_answer"


def test_a_stream_that_was_not_asked_for_is_a_whole_answer(client: FlaskClient) -> None:
    answer: Any = post(client, "[[sse_for_whole]]").json
    assert answer["object"] == "chat.completion"
    assert answer["choices"][0]["message"]["content"]
    assert answer["usage"]["total_tokens"]


# --- failures of ours -------------------------------------------------------------------------

SECRET = f"Bearer {PROVIDER_KEY} and a private prompt"


def test_what_was_not_foreseen_is_a_500_whose_place_is_logged_and_not_its_text(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError(SECRET)

    monkeypatch.setattr(Upstream, "open", broken)
    response = post(client)
    assert told(response) == BROKE
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
    *_, error = events(post(client, "one two three [[gap=0.2]]", stream=True))
    assert (error["error"]["type"], error["error"]["code"]) == BROKE[1:]
    assert "in broken_pieces" in caplog.text
    assert SECRET not in caplog.text


RAISED = {  # by Werkzeug, or as the client leaves
    BadRequest("secret"): INVALID_HTTP,
    RequestHeaderFieldsTooLarge(): INVALID_HTTP,
    InternalServerError(): BROKE,
    ClientGone(): INVALID_JSON,
}


@pytest.mark.parametrize(("raised", "expected"), RAISED.items(), ids=map(repr, RAISED))
def test_whose_fault_is_what_flask_or_a_server_raises(
    client: FlaskClient,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    raised: Exception,
    expected: tuple[int, str, str],
) -> None:
    monkeypatch.setattr(Upstream, "open", Mock(side_effect=raised))
    response = post(client)
    assert told(response) == expected
    assert "secret" not in response.text
    assert caplog.records[-1].levelname == ("ERROR" if expected == BROKE else "INFO")


# --- streams ----------------------------------------------------------------------------------


def test_the_exact_sequence_of_a_stream(either: FlaskClient) -> None:
    response = post(either, "[[words=3]]", stream=True)
    assert response.headers["Cache-Control"] == "no-cache"
    assert response.headers["X-Accel-Buffering"] == "no"
    assert "Content-Length" not in response.headers
    *chunks, done = events(response)
    assert done == "[DONE]"
    (head,) = {(chunk["id"], chunk["created"], chunk["model"], chunk["object"]) for chunk in chunks}
    assert re.fullmatch("chatcmpl-[0-9a-f]{32}", head[0])
    assert head[2:] == (MODEL, "chat.completion.chunk")
    assert all([choice["index"] for choice in chunk["choices"]] == [0] for chunk in chunks)
    assert not any("usage" in chunk for chunk in chunks)
    role, this, is_, the, end = [chunk["choices"][0] for chunk in chunks]
    assert role["delta"] == {"role": "assistant", "content": ""}
    texts = [{"content": "This "}, {"content": "is "}, {"content": "the"}]
    assert [this["delta"], is_["delta"], the["delta"], end["delta"]] == [*texts, {}]
    reasons = [choice["finish_reason"] for choice in (role, this, is_, the, end)]
    assert reasons == [None, None, None, None, "stop"]
    for options, last in ({"include_usage": True}, []), ({"include_usage": False}, [end]):
        *_, chunk, _ = events(post(either, "[[words=3]]", stream=True, stream_options=options))
        assert chunk["choices"] == last  # the usage comes last, and only where it was asked for
        assert ("usage" in chunk) == options["include_usage"]


def assert_cut(told_by_stream: list[Any], code: str) -> None:
    """An error event ends it, after whole chunks, and no [DONE]."""
    *chunks, last = told_by_stream
    assert set(last) == {"error"}
    assert set(last["error"]) == {"message", "type", "param", "code"}
    assert (last["error"]["type"], last["error"]["code"]) == ("provider_error", code)
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert "[DONE]" not in told_by_stream
    assert all(chunk["choices"][0]["finish_reason"] is None for chunk in chunks)


CUTS = {
    "reset=middle": "provider_failed",
    "close=middle": "provider_failed",
    "close=middle,framing=close": "provider_failed",
    "close=middle,framing=length": "provider_failed",
    "no_done": "provider_failed",
    "no_done,framing=close": "provider_failed",
    "junk": "provider_bad_answer",
    "stall=3": "provider_timeout",
}


@pytest.mark.parametrize(("directive", "code"), CUTS.items(), ids=CUTS)
def test_a_cut_stream_ends_with_an_error_and_without_done(
    emulator: Emulator, directive: str, code: str
) -> None:
    for provider in ("workers-ai", "openai"):
        env = serving.settings(emulator.url, provider, LLAMA_PROVIDER_TIMEOUT="0.5")
        response = post(app_with(env), f"[[{directive},gap=0.01]]", stream=True)
        sent = events(response)
        assert_cut(sent, code)
        assert sent[-1]["error"]["message"].endswith(response.headers["X-Request-Id"])


def test_an_endless_stream_ends_at_the_total_limit(env: dict[str, str]) -> None:
    client = app_with(env, LLAMA_PROVIDER_TOTAL_TIMEOUT="0.5")
    assert_cut(events(post(client, "[[endless,gap=0.05]]", stream=True)), "provider_timeout")


def test_a_json_answer_to_a_streaming_request_becomes_a_stream(either: FlaskClient) -> None:
    *chunks, done = events(post(either, "[[json_for_stream]] Hi", stream=True))
    assert done == "[DONE]"
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert "".join(delta.get("content", "") for delta in deltas) == SAID
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"


def test_closing_a_stream_that_was_never_read_ends_the_providers_too(
    client: FlaskClient, emulator: Emulator
) -> None:
    """A generator that never began runs no `finally`."""
    post(client, "[[endless,gap=0.05]]", stream=True).close()
    assert emulator.requests[0].gone.wait(serving.DEADLINE)


def test_a_wish_for_a_websocket_is_ignored(client: FlaskClient) -> None:
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket"}
    for key, status in ({}, 401), (BEARER, 200):
        assert client.get("/v1/models", headers={**upgrade, **key}).status_code == status


def test_a_body_over_the_memory_for_all_may_come_a_second_later(
    env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(incoming, "_MOST_AT_A_TIME", 10)  # a larger limit for one body stands
    app = create_app(env)
    bodies = app.extensions["proxy"].bodies
    bodies._bytes += 64 * 1024**2
    refused = post(app.test_client())
    assert (refused.status_code, refused.json["error"]["code"]) == (429, "rate_limited")
    assert (refused.headers["Retry-After"], refused.headers["X-Should-Retry"]) == ("1", "true")
    bodies._bytes -= 64 * 1024**2
    assert post(app.test_client()).status_code == 200
    assert bodies._bytes == 0
