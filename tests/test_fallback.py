"""Fallback models: the next one is asked after a complete refusal that was not billed."""

import threading
from typing import Any

import pytest
import requests
import responses
import serving
from conftest import Serve
from flask.testing import FlaskClient
from serving import BEARER, asking

from app import create_app
from emulator import Emulator

A, B, C = "@cf/meta/a", "@cf/meta/b", "@cf/meta/c"


@pytest.fixture
def client(env: dict[str, str]) -> FlaskClient:
    return create_app(env | {"LLAMA_PROVIDER_MODELS": f"chat={A}|{B}|{C}"}).test_client()


def ask(client: FlaskClient, text: str = "Hi", **fields: Any) -> Any:
    response = client.post("/", json=asking(text, **fields), headers=BEARER)
    response.get_data()
    response.close()
    return response


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


@pytest.mark.parametrize("text", ["[[close=middle]]", "[[no_done]]", "[[junk]]"])
def test_what_was_begun_is_not_asked_again(
    client: FlaskClient, emulator: Emulator, text: str
) -> None:
    ask(client, text, stream=True)
    assert asked(emulator) == [A]


def test_no_connection(emulator: Emulator, env: dict[str, str]) -> None:
    """Each model is tried: a gateway may route them differently."""
    nobody = f"http://127.0.0.1:{serving.free_port()}"
    models = {"LLAMA_PROVIDER_BASE_URL": nobody, "LLAMA_PROVIDER_MODELS": f"chat={A}|{B}"}
    response = ask(create_app(env | models).test_client())
    assert response.json["error"]["code"] == "provider_unreachable"


def test_all_share_the_deadline(
    caplog: pytest.LogCaptureFixture, emulator: Emulator, env: dict[str, str]
) -> None:
    emulator.refused = {A: (429, 3040)}
    models = {"LLAMA_PROVIDER_MODELS": f"chat={A}|{B}", "LLAMA_PROVIDER_TIMEOUT": "1"}
    response = ask(create_app(env | models).test_client(), "[[silent]]")
    assert response.json["error"]["code"] == "provider_timeout"
    assert asked(emulator) == [A, B]
    line = caplog.records[-1].msg.to_json()
    assert (line["provider_model"], line["provider_status"]) == (B, None)  # not the 429 of A


def test_without_a_fallback_the_model_is_not_shown(
    client: FlaskClient, env: dict[str, str]
) -> None:
    alias = create_app(env | {"LLAMA_PROVIDER_MODELS": f"chat={A}"}).test_client()
    assert "X-Provider-Model" not in ask(alias).headers


def test_a_model_withdrawn_under_load_loses_no_request(
    serve: Serve, env: dict[str, str], emulator: Emulator
) -> None:
    """Four callers, 48 requests; the first model is withdrawn in the middle."""
    texts: list[str] = []

    def call(url: str) -> None:
        for number in range(12):
            asked = asking(f"Say {number}", stream=True)
            texts.append(requests.post(url, json=asked, headers=BEARER, timeout=30).text)
            if len(texts) >= 20:
                emulator.refused[A] = (410, 5028)

    with serve(env | {"LLAMA_PROVIDER_MODELS": f"chat={A}|{B}"}) as server:
        callers = [threading.Thread(target=call, args=(server.url,)) for _ in range(4)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
    assert len(texts) == 48
    assert all(text.endswith("data: [DONE]\n\n") and "Say" in text for text in texts)
    assert {A, B} == set(asked(emulator))


def test_the_headers_of_a_refusal_are_not_the_answers(caplog: pytest.LogCaptureFixture) -> None:
    env = serving.settings("https://provider.example", "openai", LLAMA_PROVIDER_MODELS="chat=a|b")
    text = {"choices": [{"message": {"content": "Hi"}, "finish_reason": "stop"}]}
    theirs = {"X-Request-Id": "theirs", "X-Ignored-Parameters": "seed"}
    with responses.RequestsMock() as provider:
        url = "https://provider.example/v1/chat/completions"
        provider.post(url, status=429, json={}, headers=theirs)
        provider.post(url, json=text)
        response = ask(create_app(env).test_client())
    assert response.headers["X-Provider-Model"] == "b"
    assert not {"X-Ignored-Parameters", "X-Provider-Request-Id"} & set(response.headers.keys())
    assert caplog.records[-1].msg.to_json()["provider_request_id"] is None
