"""What a refusal means, in whatever form; tests/corpus has what providers really sent."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recorded import CREATED, told_of

from proxy.errors import ProxyError
from proxy.providers import envelopes, facts, refusals
from proxy.providers.envelopes import Refusal

quick = settings(max_examples=40, derandomize=True, deadline=None, database=None)


def error(status: int, body: Any = b"", **headers: str) -> ProxyError:
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return refusals.error(Refusal(status, named, body), now=CREATED, address_settings="X")


@pytest.mark.parametrize(
    ("status", "code", "retry_if_complete", "retry_if_not"),
    [
        (302, "provider_bad_answer", "false", "false"),
        (401, "provider_auth_failed", "false", "false"),
        (402, "provider_quota_exhausted", "false", "false"),
        (403, "provider_auth_failed", "false", "false"),
        (404, "provider_not_found", "false", "false"),
        (405, "provider_not_found", "false", "false"),
        (408, "provider_timeout", "false", "false"),
        (410, "provider_model_unavailable", "false", "false"),
        (412, "provider_quota_exhausted", "false", "false"),
        (429, "provider_rate_limited", "true", "true"),
        (498, "provider_overloaded", "true", "true"),
        (500, "provider_failed", "true", "false"),
        (503, "provider_failed", "true", "false"),
        (524, "provider_timeout", "false", "false"),
        (529, "provider_overloaded", "true", "true"),
        (599, "provider_failed", "true", "false"),
    ],
)
def test_by_status(status: int, code: str, retry_if_complete: str, retry_if_not: str) -> None:
    """A complete refusal shows that the model is not at work any more."""
    for body, retry in (({"error": {"message": "x"}}, retry_if_complete), (b"<p>", retry_if_not)):
        assert told_of(error(status, body))[:4] == (502, code, None, retry)


@pytest.mark.parametrize("body", [{"error": "x"}, b"<p>", b"", [], {"code": "rate_limit_exceeded"}])
def test_413_is_always_the_callers(body: Any) -> None:
    assert error(413, body).code == "provider_rejected_input"


IDS = "Request id: abc"
OURS: dict[str, tuple[int, dict[str, Any], str, str | None]] = {
    "a failure": (502, {"code": "provider_failed"}, "provider_failed", "true"),
    "a timeout": (502, {"code": "provider_timeout"}, "provider_timeout", "false"),
    "the quota": (502, {"code": "provider_quota_exhausted"}, "provider_quota_exhausted", "false"),
    "nonsense": (502, {"code": "provider_bad_answer"}, "provider_bad_answer", "false"),
    "unreachable": (502, {"code": "provider_unreachable"}, "provider_unreachable", "true"),
    "too large": (413, {"code": "request_too_large"}, "request_too_large", None),
    "a parameter": (400, {"code": "invalid_parameter", "param": "n"}, "invalid_parameter", None),
    "its key": (401, {"code": "invalid_api_key"}, "provider_auth_failed", "false"),
    "its rate": (429, {"code": "rate_limited"}, "provider_rate_limited", "true"),
    "its models": (400, {"code": "model_not_allowed"}, "provider_model_unavailable", "false"),
    "its settings": (500, {"code": "proxy_misconfigured"}, "provider_failed", "true"),
    "its path": (404, {"code": "not_found"}, "provider_not_found", "false"),
}


@pytest.mark.parametrize(("status", "fields", "code", "retry"), OURS.values(), ids=OURS)
def test_another_proxy_like_this_one(
    status: int, fields: dict[str, Any], code: str, retry: str | None
) -> None:
    """It keeps its code where that means the same here; its advice not to retry is believed."""
    body = {"error": {"message": f"Something. {IDS}", "type": "x", "param": None, **fields}}
    got = error(status, body)
    assert (got.code, got.headers.get("X-Should-Retry")) == (code, retry)
    assert got.param == fields.get("param")
    stopped = error(status, body, X_Should_Retry="false").headers.get("X-Should-Retry")
    assert stopped == (retry and "false")


@pytest.mark.parametrize(
    ("message", "param", "place"),
    [
        ("Type mismatch of '/messages/0/content', 'array'", None, "messages[0].content"),
        ("oneOf at '/' not met, properties at '/messages/1' are", None, "messages[1]"),
        ("Additional properties '/seed' at '/' not allowed", None, "seed"),
        ("'/tools/0/function/parameters/properties/mine'", None, "tools[0].function.parameters"),
        ("Invalid value", "messages[1].content", "messages[1].content"),
        ("Invalid value", "temperature", "temperature"),
        ("Invalid value", "tools[0].function.name", "tools[0].function.name"),
        ("Invalid value", "My Secret", None),
        ("Invalid value", 7, None),
        ("Failed to read '/srv/models/mine.gguf'", None, None),  # a path of the provider's
        ("No route for '/client/v4/accounts'", None, None),
        ("", None, None),
    ],
)
def test_a_rejected_input_has_the_place(message: str, param: object, place: str | None) -> None:
    """A place in the request, and nothing else of the provider's prose."""
    got = facts.rejected_input([{"param": param}], message)
    assert told_of(got) == (400, "provider_rejected_input", place, None, None)
    assert (f"'{place}'" in got.message) is (place is not None)


def test_fastapi_has_the_place_in_a_list() -> None:
    detail = [{"loc": ["body", "messages", 0, "content"], "msg": "field required", "type": "x"}]
    assert told_of(error(422, {"detail": detail}))[:3] == (
        400,
        "provider_rejected_input",
        "messages[0].content",
    )


@quick
@given(st.text(), st.none() | st.text())
def test_prose_is_never_relayed(message: str, param: str | None) -> None:
    for got in (
        facts.context_exceeded(message),
        facts.rejected_input([{"param": param}], message),
        error(400, {"error": {"message": message, "code": param}}),
    ):
        assert got.message.isascii()
        assert "\n" not in got.message


@pytest.mark.parametrize(
    ("headers", "wait"),
    [
        ({"Retry_After": "7"}, "7"),
        ({"Retry_After": " 7 "}, "7"),
        ({"Retry_After": "0.2"}, "1"),
        ({"retry_after_ms": "1500"}, "2"),
        ({"retry_after_ms": "x", "Retry_After": "3"}, "3"),
        ({"Retry_After": "\u0665"}, None),
        ({"Retry_After": "9" * 5000}, None),
        ({}, None),
    ],
)
def test_a_wait_is_passed_on_in_seconds(headers: dict[str, str], wait: str | None) -> None:
    """RFC 9110, 10.2.3; also with a 503."""
    assert error(503, {"error": "x"}, **headers).headers.get("Retry-After") == wait


@pytest.mark.parametrize(
    ("frame", "is_error"),
    [
        ({"error": {"message": "x"}}, True),
        ({"error": "x"}, True),
        ({"errors": [{}]}, True),
        ({"error_code": 1}, True),
        ({"internalCode": 1}, True),
        ({"success": False}, True),
        ({"object": "error"}, True),
        ({"base_resp": {"status_code": 1004}}, True),
        ({"choices": [{"error": {"code": 1}}]}, True),
        ({"error": None, "errors": [], "success": True, "error_code": 0}, False),
        ({"error": {}, "base_resp": {"status_code": 0}}, False),
        ({"error": {"code": None, "message": ""}, "base_resp": 7}, False),
        ({"choices": [{"error": None, "delta": {"content": "error"}}]}, False),
        ({"object": "chat.completion.chunk"}, False),
        ({}, False),
    ],
)
def test_an_error_frame_is_seen(frame: dict[str, Any], is_error: bool) -> None:
    assert envelopes.is_error(frame) is is_error


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        ({"error": {"code": "429"}}, "provider_rate_limited"),
        ({"error": {"status": 503, "message": "x"}}, "provider_failed"),
        ({"error": {"http_status_code": 422, "message": "x"}}, "provider_rejected_input"),
        ({"error": {"type": "invalid_request_error", "message": "x"}}, "provider_rejected_input"),
        ({"error": {"message": "Input validation error"}}, "provider_rejected_input"),
        ({"error": {"message": "x"}}, "provider_failed"),
        ({"success": False}, "provider_bad_answer"),
        ({"error": {"message": json.dumps({"error": {"code": 401}})}}, "provider_auth_failed"),
    ],
)
def test_an_error_in_a_200_has_a_status_of_its_own(frame: dict[str, Any], code: str) -> None:
    assert refusals.error(Refusal(200, frame=frame), now=0, address_settings="").code == code


def test_an_envelope_as_deep_as_json_may_be() -> None:
    """It is read to a bounded depth."""
    body: Any = {"error": {"code": "invalid_api_key"}}
    for _ in range(50):
        body = {"error": [body]}
    assert error(500, body).code == "provider_failed"


KINDS: dict[str, tuple[int, Any, str]] = {
    "a page with Cloudflare's number": (429, b"error code: 1015", "provider_rate_limited"),
    "a page with the status as number": (502, b"error code: 502\n", "provider_failed"),
    "409": (409, {"error": "x"}, "provider_bad_answer"),
    "418": (418, {"error": "x"}, "provider_bad_answer"),
    "blocked answer": (400, {"errors": [{"code": 2030}]}, "provider_bad_answer"),
    "413 with a known word": (
        413,
        {"error": {"code": "invalid_api_key"}},
        "provider_rejected_input",
    ),
    "413 and the context": (413, {"errors": [{"code": 5021}]}, "context_length_exceeded"),
    "balance as a rate": (
        429,
        {"error": {"type": "rate_limit_error", "message": "insufficient balance (1008)"}},
        "provider_quota_exhausted",
    ),
    "param model": (
        400,
        {"error": {"message": "bad", "param": "model"}},
        "provider_model_unavailable",
    ),
    "404 about a model": (404, {"error": "the model x"}, "provider_model_unavailable"),
    "401 about a model": (401, {"error": "model not found"}, "provider_auth_failed"),
    "429 about tokens": (
        429,
        {"error": {"message": "Too many tokens: exceeds the maximum context length limit"}},
        "provider_rate_limited",
    ),
    "a quoted prompt": (
        400,
        {"error": {"message": "Invalid content: 'my prompt exceeds the maximum context length'"}},
        "provider_rejected_input",
    ),
}


@pytest.mark.parametrize(("status", "body", "code"), KINDS.values(), ids=KINDS)
def test_kinds(status: int, body: Any, code: str) -> None:
    assert error(status, body).code == code


def test_a_blocked_answer_was_understood() -> None:
    blocked = error(400, {"errors": [{"code": 2017}]})
    assert "could not be understood" not in blocked.message
    again = error(502, blocked.to_json("1"))  # from another proxy like this one
    assert (again.code, again.message) == (blocked.code, blocked.message)


def test_who_knows_no_such_address() -> None:
    assert error(404, {"error": "x"}).notes["fix"] == "X"
