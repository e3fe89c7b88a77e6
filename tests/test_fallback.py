"""Fallback models: the next one is asked after a complete refusal that was not billed."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import responses
import serving
from conftest import Serve
from crowd import EVENTS, answer_to, answering, chunk, outcome, post
from flask.testing import FlaskClient
from serving import BEARER, asking

from app import create_app
from emulator import Emulator

A, B, C = "@cf/meta/a", "@cf/meta/b", "@cf/meta/c"


def app_with(env: dict[str, str], *models: str, **more: str) -> FlaskClient:
    more["LLAMA_PROVIDER_MODELS"] = f"chat={'|'.join(models)}"
    return create_app(env | more).test_client()


@pytest.fixture
def client(env: dict[str, str]) -> FlaskClient:
    return app_with(env, A, B, C)


def ask(client: FlaskClient, text: str = "Hi", **fields: Any) -> Any:
    return client.post("/", json=asking(text, **fields), headers=BEARER, buffered=True)


def asked(emulator: Emulator) -> list[str]:
    return [request.path.partition("/run/")[2] for request in emulator.requests]


FALL_BACK = {
    "withdrawn": (410, 5028),
    "no such model": (400, 5007),
    "only for payers": (403, 5035),
    "no capacity": (429, 3040),
    "rate limited": (429, 3021),
}
END_AT_ONCE = {
    "daily allowance": ((429, 4006), "provider_quota_exhausted"),
    "wrong key": ((401, 10000), "provider_auth_failed"),
    "context": ((413, 5021), "context_length_exceeded"),
    "bad input": ((400, 5006), "provider_rejected_input"),
    "timeout": ((408, 3046), "provider_timeout"),
    "internal error": ((500, 3043), "provider_failed"),
    "wrong account": ((404, 7003), "provider_not_found"),
}


@pytest.mark.parametrize("refusal", FALL_BACK.values(), ids=FALL_BACK)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_the_next_model_is_asked(
    caplog: pytest.LogCaptureFixture,
    client: FlaskClient,
    emulator: Emulator,
    refusal: tuple[int, int],
    stream: bool,
) -> None:
    emulator.refused = {A: refusal, B: refusal}
    response = ask(client, stream=stream)
    assert response.status_code == 200
    assert asked(emulator) == [A, B, C]
    assert response.headers["X-Provider-Model"] == C
    line = caplog.records[-1].msg.to_json()
    assert (line["model"], line["provider_model"], line["code"]) == ("chat", C, None)
    assert response.headers["X-Provider-Request-Id"] == line["provider_request_id"]


@pytest.mark.parametrize(("refusal", "code"), END_AT_ONCE.values(), ids=END_AT_ONCE)
def test_other_failures_end_it_at_once(
    client: FlaskClient, emulator: Emulator, refusal: tuple[int, int], code: str
) -> None:
    emulator.refused = {A: (429, 3040), B: refusal}
    response = ask(client)
    assert response.json["error"]["code"] == code
    assert asked(emulator) == [A, B]
    assert response.headers["X-Provider-Model"] == B


@pytest.mark.parametrize(
    ("first", "last", "code", "retry"),
    [
        ((410, 5028), (410, 5028), "provider_model_unavailable", "false"),
        ((429, 3040), (410, 5028), "provider_overloaded", "true"),
        ((410, 5028), (429, 3040), "provider_overloaded", "true"),
        ((429, 3021), (429, 3040), "provider_rate_limited", "true"),
        ((410, 5028), (500, 3043), "provider_failed", "true"),  # another failure stands
    ],
)
def test_where_all_refuse_a_retry_is_advised_if_one_would_help(
    client: FlaskClient, emulator: Emulator, first: Any, last: Any, code: str, retry: str
) -> None:
    emulator.refused = {A: first, B: (410, 5028), C: last}
    response = ask(client)
    assert asked(emulator) == [A, B, C]
    assert response.json["error"]["code"] == code
    assert response.headers["X-Should-Retry"] == retry


def test_what_was_begun_is_not_asked_again() -> None:
    events = [chunk(b'data: {"response":"Hi"}\n\n'), chunk(b'data: {"errors":[{"code":3040}]}\n\n')]
    with answering(EVENTS + b"".join(events)) as provider:
        response = ask(app_with(serving.settings(provider.url), A, B), stream=True)
    assert "provider_overloaded" in response.text
    assert len(provider.requests) == 1


def test_without_a_connection_each_model_is_tried(env: dict[str, str]) -> None:
    """A gateway may route them differently."""
    nobody = f"http://127.0.0.1:{serving.free_port()}"
    response = ask(app_with(env, A, B, LLAMA_PROVIDER_BASE_URL=nobody))
    assert response.json["error"]["code"] == "provider_unreachable"
    assert response.headers["X-Provider-Model"] == B


def test_the_log_has_the_model_that_failed_last(
    caplog: pytest.LogCaptureFixture, emulator: Emulator, env: dict[str, str]
) -> None:
    emulator.refused = {A: (429, 3040)}
    response = ask(app_with(env, A, B, LLAMA_PROVIDER_TIMEOUT="1"), "[[silent]]")
    assert response.json["error"]["code"] == "provider_timeout"
    assert asked(emulator) == [A, B]
    line = caplog.records[-1].msg.to_json()
    assert (line["provider_model"], line["provider_status"]) == (B, None)  # not the 429 of A


def test_without_a_fallback_the_model_is_not_shown(env: dict[str, str]) -> None:
    assert "X-Provider-Model" not in ask(app_with(env, A)).headers


def test_a_model_withdrawn_under_load_loses_no_request(
    serve: Serve, env: dict[str, str], emulator: Emulator
) -> None:
    """Four callers, 48 requests; the first model is withdrawn in the middle."""

    def call(number: int) -> str:
        if number == 20:
            emulator.refused[A] = (410, 5028)
        return outcome(answer_to(server, post(f"Say {number}", stream=True)))

    env["LLAMA_PROVIDER_MODELS"] = f"chat={A}|{B}"
    with serve(env) as server, ThreadPoolExecutor(4) as callers:
        assert [*callers.map(call, range(48))] == ["done"] * 48
    assert {A, B} == set(asked(emulator))


def test_the_headers_of_a_refusal_are_not_the_answers(caplog: pytest.LogCaptureFixture) -> None:
    text = {"choices": [{"message": {"content": "Hi"}, "finish_reason": "stop"}]}
    theirs = {"X-Request-Id": "theirs", "X-Ignored-Parameters": "seed"}
    with responses.RequestsMock() as provider:
        url = "https://provider.example/v1/chat/completions"
        provider.post(url, status=429, json={}, headers=theirs)
        provider.post(url, json=text)
        env = serving.settings("https://provider.example", "openai")
        response = ask(app_with(env, "a", "b"))
    assert response.headers["X-Provider-Model"] == "b"
    assert not {"X-Ignored-Parameters", "X-Provider-Request-Id"} & set(response.headers.keys())
    assert caplog.records[-1].msg.to_json()["provider_request_id"] is None
