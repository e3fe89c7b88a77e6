"""Any OpenAI-compatible API: the request goes as it came, and so does the answer, made complete."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recorded import (
    Told,
    byte_by_byte,
    refused,
    request_to,
    sse,
    streamed,
    told_of,
    whole,
    whole_from,
)

from proxy import strict_json
from proxy.errors import CallerError, ProviderError, ProxyError
from proxy.providers.envelopes import Refusal
from proxy.providers.openai_compatible import OpenAICompatible

quick = settings(max_examples=80, derandomize=True, deadline=None, database=None)

PROVIDER = OpenAICompatible(
    base_url="https://example.com/v1",
    key="tier-2",
    models={"m": ("gpt-5-mini",), "other": ("llama3.2:1b",)},
)
HI = {"role": "user", "content": "Hi"}
ZEROS = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}


def used(prompt: int, answer: int, **more: Any) -> dict[str, Any]:
    total = prompt + answer
    return {"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": total, **more}


# --- what is sent -------------------------------------------------------------------------------


def sent(**fields: Any) -> Any:
    return json.loads(request_to(PROVIDER, **fields).body)


def test_where_it_goes_and_with_which_key() -> None:
    request = request_to(PROVIDER)
    assert request.url == "https://example.com/v1/chat/completions"
    assert request.headers == {"Authorization": "Bearer tier-2"}
    assert request.ignored == ()
    assert "tier-2" not in repr(request) + repr(PROVIDER)


def test_without_a_key_none_is_sent() -> None:
    """A local server has none."""
    local = OpenAICompatible(base_url="http://127.0.0.1:11434/v1", key="", models={"m": ("x",)})
    assert request_to(local).headers == {}


@pytest.mark.parametrize(
    ("fields", "body"),
    [
        ({}, {"model": "gpt-5-mini", "messages": [HI]}),
        ({"model": "other"}, {"model": "llama3.2:1b", "messages": [HI]}),
        (
            {"stream": True},
            {
                "model": "gpt-5-mini",
                "messages": [HI],
                "stream": True,
                "stream_options": {"include_usage": True},
            },
        ),
        (
            {
                "stream": True,
                "stream_options": {"include_usage": False, "include_obfuscation": False},
            },
            {
                "model": "gpt-5-mini",
                "messages": [HI],
                "stream": True,
                "stream_options": {"include_usage": True, "include_obfuscation": False},
            },
        ),
        (
            {"max_completion_tokens": 7, "temperature": None, "user": "ann", "x": {"a": None}},
            {
                "model": "gpt-5-mini",
                "messages": [HI],
                "max_completion_tokens": 7,
                "user": "ann",
                "x": {"a": None},
            },
        ),
    ],
    ids=["smallest", "model mapped", "usage asked for", "stream_options kept", "all else kept"],
)
def test_bodies(fields: dict[str, Any], body: dict[str, Any]) -> None:
    """The caller's, with the model mapped; on streams the usage is always asked for."""
    assert sent(**fields) == body


@pytest.mark.parametrize(
    "message",
    [
        {"role": "developer", "content": "a"},
        {"role": "assistant", "content": None, "tool_calls": [CALL], "refusal": None},
        {"role": "user", "content": [{"type": "text", "text": "a"}], "name": "ann"},
        {"role": "assistant", "content": "a", "reasoning_content": "b"},
    ],
)
def test_messages_go_as_they_came(message: dict[str, Any]) -> None:
    assert sent(messages=[HI, message])["messages"] == [HI, message]


@quick
@given(st.lists(st.text(st.characters(exclude_categories=())), min_size=1))
def test_every_message_is_kept_in_order_with_its_text(texts: list[str]) -> None:
    messages = [{"role": "user", "content": text} for text in texts]
    assert sent(messages=messages)["messages"] == messages


# --- answers ------------------------------------------------------------------------------------


def answer(message: dict[str, Any], finish: Any = "stop", **more: Any) -> dict[str, Any]:
    choice = {"index": 0, "message": message, "finish_reason": finish}
    return {"id": "x", "object": "x", "created": 1, "model": "x", "choices": [choice], **more}


@pytest.mark.parametrize(
    ("body", "message", "finish", "more"),
    [
        (
            answer({"role": "assistant", "content": "Hi", "refusal": None}, usage=used(9, 3)),
            {"content": "Hi"},
            "stop",
            {"usage": used(9, 3)},
        ),
        (
            answer({"content": "Hi"}, system_fingerprint="fp", service_tier="default"),
            {"content": "Hi"},
            "stop",
            {"system_fingerprint": "fp", "service_tier": "default"},
        ),
        (
            answer({"content": None, "refusal": "No."}),
            {"content": None, "refusal": "No."},
            "stop",
            {},
        ),
        (
            answer({"content": "Hi", "annotations": [{"type": "url_citation"}]}),
            {"content": "Hi", "annotations": [{"type": "url_citation"}]},
            "stop",
            {},
        ),
        (
            answer({"content": None, "tool_calls": [CALL]}, "tool_calls"),
            {"content": None, "tool_calls": [CALL]},
            "tool_calls",
            {},
        ),
        (answer({"content": ""}, "length"), {"content": ""}, "length", {}),
        (answer({"content": ""}, None), {"content": ""}, "stop", {}),
        (
            answer({"content": "a"}, None, usage=used(1, 4096)),
            {"content": "a"},
            "stop",
            {"usage": used(1, 4096)},
        ),
        (answer({"content": "a"}, "content_filter"), {"content": "a"}, "content_filter", {}),
        (answer({"content": "a"}, "eos"), {"content": "a"}, "stop", {}),
        (
            answer({"content": "4", "reasoning": "Hm"}),
            {"content": "4", "reasoning_content": "Hm"},
            "stop",
            {},
        ),
        (
            answer(
                {"content": "a"},
                usage=used(9, 3, completion_tokens_details={"reasoning_tokens": 2}),
            ),
            {"content": "a"},
            "stop",
            {"usage": used(9, 3, completion_tokens_details={"reasoning_tokens": 2})},
        ),
    ],
)
def test_answers(body: Any, message: Any, finish: str, more: Any) -> None:
    """Unchanged in meaning; id, time and the model's public name are ours."""
    expected = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1_790_000_000,
        "model": "m",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "refusal": None, **message},
                "logprobs": None,
                "finish_reason": finish,
            }
        ],
        "usage": ZEROS,
        **more,
    }
    assert whole(PROVIDER, body) == expected
    told = Told.by(streamed(PROVIDER, [strict_json.dumps(body)], is_event_stream=False))
    assert (told.text, told.finish) == (message["content"] or "", finish)


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>", b"null", {}, {"choices": []}, answer({"content": None}, None), [answer({})]],
)
def test_a_200_that_is_no_answer(body: Any) -> None:
    with pytest.raises(ProviderError) as caught:
        whole(PROVIDER, body)
    assert caught.value.code == "provider_bad_answer"


def chunk(delta: dict[str, Any], finish: Any = None, **more: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return {"id": "x", "object": "x", "created": 1, "model": "x", "choices": [choice], **more}


STREAMS = {
    "OpenAI": (
        sse(
            chunk({"role": "assistant", "content": "", "refusal": None}, usage=None),
            chunk({"content": "Hel"}, usage=None),
            chunk({"content": "lo"}, usage=None),
            chunk({}, "stop", usage=None),
            {"choices": [], "usage": used(9, 2)},
        ),
        Told("Hello", finish="stop", usage=used(9, 2)),
    ),
    "no usage": (
        sse(chunk({"role": "assistant", "content": "a"}), chunk({}, "length")),
        Told("a", finish="length", usage=ZEROS),
    ),
    "the finish beside the last word": (
        sse(chunk({"content": "a"}), chunk({"content": "b"}, "stop")),
        Told("ab", finish="stop", usage=ZEROS),
    ),
    "no finish": (sse(chunk({"content": "a"})), Told("a", finish="stop", usage=ZEROS)),
    "no DONE": (
        sse(chunk({"content": "a"}), chunk({}, "stop"), done=False),
        Told("a", finish="stop", usage=ZEROS),
    ),
    "tool calls": (
        sse(
            chunk(
                {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [
                        {"index": 0, **CALL, "function": {"name": "f", "arguments": ""}}
                    ],
                }
            ),
            chunk({"tool_calls": [{"index": 0, "function": {"arguments": '{"a"'}}]}),
            chunk({"tool_calls": [{"index": 0, "function": {"arguments": ":1}"}}]}),
            chunk({}, "tool_calls"),
        ),
        Told(calls=[("f", '{"a":1}')], finish="tool_calls", usage=ZEROS),
    ),
    "reasoning": (
        sse(chunk({"reasoning_content": "Hm"}), chunk({"content": "4"}), chunk({}, "stop")),
        Told("4", reasoning="Hm", finish="stop", usage=ZEROS),
    ),
}
each_stream = pytest.mark.parametrize(("stream", "told"), STREAMS.values(), ids=STREAMS.keys())


@each_stream
def test_streams(stream: bytes, told: Told) -> None:
    assert Told.by(streamed(PROVIDER, [stream])) == told
    assert Told.by(streamed(PROVIDER, byte_by_byte(stream))) == told


@each_stream
def test_a_cut_stream_never_ends_well(stream: bytes, told: Told) -> None:
    for place in range(whole_from(stream)):
        heard = []
        with pytest.raises(ProviderError):
            for one in streamed(PROVIDER, [stream[:place]]):
                heard.append(one)
        assert not any(one["choices"][0]["finish_reason"] for one in heard)


def test_a_refusal_in_a_stream_is_relayed() -> None:
    stream = sse(chunk({"refusal": "No."}, system_fingerprint="fp"), chunk({}, "stop"))
    _, said, *_ = streamed(PROVIDER, [stream])
    assert said["choices"][0]["delta"] == {"refusal": "No."}
    assert said["system_fingerprint"] == "fp"


@pytest.mark.parametrize(
    "error",
    [
        {"message": "secret", "type": "server_error", "code": None},
        {"message": "secret", "code": 500},
        "secret",
    ],
)
def test_an_error_in_a_stream(error: Any) -> None:
    """What came is said, then the failure."""
    heard = []
    with pytest.raises(ProviderError) as caught:
        for one in streamed(PROVIDER, [sse(chunk({"content": "a"}), {"error": error})]):
            heard.append(one)
    assert len(heard) == 2
    assert "secret" not in caught.value.message
    with pytest.raises(ProviderError):
        next(streamed(PROVIDER, [sse({"error": error})]))


# --- refusals -----------------------------------------------------------------------------------


def provider(code: str, retry: str = "false", after: str | None = None) -> tuple[Any, ...]:
    return 502, f"provider_{code}", None, retry, after


def caller(code: str, param: str | None) -> tuple[Any, ...]:
    return 400, code, param, None, None


def openai(code: Any, type: str = "invalid_request_error", **more: Any) -> dict[str, Any]:
    return {"error": {"message": "secret", "type": type, "param": None, "code": code, **more}}


TOO_LONG = "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens"
TOO_LONG_FOR_LLAMA = (
    "the request exceeds the available context size (4096 tokens), try increasing it"
)

REFUSALS = {
    "OpenAI: bad input": (
        400,
        openai(None, param="messages[0].content"),
        caller("provider_rejected_input", "messages[0].content"),
    ),
    "OpenAI: unsupported": (
        400,
        openai("unsupported_parameter", param="max_tokens"),
        caller("provider_rejected_input", "max_tokens"),
    ),
    "OpenAI: context": (
        400,
        openai("context_length_exceeded", param="messages"),
        caller("context_length_exceeded", "messages"),
    ),
    "OpenAI: bad key": (401, openai("invalid_api_key"), provider("auth_failed")),
    "OpenAI: country": (403, openai("unsupported_country"), provider("auth_failed")),
    "OpenAI: model": (404, openai("model_not_found"), provider("model_unavailable")),
    "OpenAI: rate": (
        429,
        openai("rate_limit_exceeded", "requests"),
        provider("rate_limited", "true", "15"),
    ),
    "OpenAI: quota": (
        429,
        openai("insufficient_quota", "insufficient_quota"),
        provider("quota_exhausted"),
    ),
    "OpenAI: billing": (
        429,
        openai("billing_hard_limit_reached"),
        provider("quota_exhausted"),
    ),
    "OpenAI: broken": (500, openai(None, "server_error"), provider("failed", "true")),
    "OpenAI: busy": (503, openai(None, "server_error"), provider("failed", "true")),
    "Anthropic: overloaded": (
        529,
        openai(None, "overloaded_error"),
        provider("overloaded", "true", "5"),
    ),
    "vLLM: context": (
        400,
        {"object": "error", "message": TOO_LONG, "type": "BadRequestError", "code": 400},
        caller("context_length_exceeded", "messages"),
    ),
    "vLLM: bad input": (
        400,
        {"object": "error", "message": "secret", "type": "BadRequestError", "code": 400},
        caller("provider_rejected_input", None),
    ),
    "vLLM: bad input, newer": (
        422,
        openai(400, "BadRequestError"),
        caller("provider_rejected_input", None),
    ),
    "vLLM: bad key": (401, {"error": "Unauthorized"}, provider("auth_failed")),
    "Ollama: model": (
        404,
        openai(None, "not_found_error"),
        provider("model_unavailable"),
    ),
    "Ollama: text": (404, {"error": "model 'secret' not found"}, provider("model_unavailable")),
    "Ollama: bad input": (400, {"error": "secret"}, caller("provider_rejected_input", None)),
    "Ollama: broken": (500, {"error": "secret"}, provider("failed", "true")),
    "llama.cpp: context": (
        400,
        openai(400, "exceed_context_size_error", message=TOO_LONG_FOR_LLAMA),
        caller("context_length_exceeded", "messages"),
    ),
    "llama.cpp: loading": (503, openai(503, "unavailable_error"), provider("failed", "true")),
    "Google: bad input": (
        400,
        [{"error": {"code": 400, "message": "secret", "status": "INVALID_ARGUMENT"}}],
        caller("provider_rejected_input", None),
    ),
    "Google: rate": (
        429,
        [{"error": {"code": 429, "message": "secret", "status": "RESOURCE_EXHAUSTED"}}],
        provider("rate_limited", "true", "15"),
    ),
    "Google: bad key, as a bad request": (
        400,
        [{"error": {"code": 400, "message": "secret", "details": [{"reason": "API_KEY_INVALID"}]}}],
        provider("auth_failed"),
    ),
    "Google: bad key": (
        401,
        [{"error": {"code": 401, "message": "secret", "status": "UNAUTHENTICATED"}}],
        provider("auth_failed"),
    ),
    "FastAPI": (422, {"detail": [{"loc": ["body"]}]}, caller("provider_rejected_input", None)),
    "too large": (413, openai(None), caller("provider_rejected_input", None)),
    "payment": (402, openai(None), provider("quota_exhausted")),
    "gone": (410, openai(None), provider("model_unavailable")),
    "method": (405, openai(None), provider("not_found")),
    "timeout": (408, openai(None), provider("timeout")),
    "gateway timeout in JSON": (504, openai(None), provider("failed", "true")),
    "edge timeout": (524, b"<html>", provider("timeout")),
    "edge page": (502, b"<html>Bad gateway</html>", provider("failed")),
    "empty 500": (500, b"", provider("failed")),
    "page 404": (404, b"404 page not found", provider("not_found")),
    "page 400": (400, b"<html>", provider("bad_answer")),
    "redirect": (307, b"", provider("bad_answer")),
}


@pytest.mark.parametrize(("status", "body", "tells"), REFUSALS.values(), ids=REFUSALS.keys())
def test_refusals(status: int, body: Any, tells: tuple[Any, ...]) -> None:
    """By OpenAI's own codes and by status, in the form of each server."""
    body = body if isinstance(body, bytes) else strict_json.dumps(body)
    error = refused(PROVIDER, Refusal(status, {}, body))
    assert told_of(error) == tells
    assert "secret" not in str(error)


@pytest.mark.parametrize(("seconds", "retry"), [("7", "true"), ("61", "false")])
def test_a_sane_retry_after_is_passed_on(seconds: str, retry: str) -> None:
    body = strict_json.dumps(openai("rate_limit_exceeded"))
    for status, said in ((429, body), (429, b"")):
        error = refused(PROVIDER, Refusal(status, {"Retry-After": seconds}, said))
        assert told_of(error) == provider("rate_limited", retry, seconds)


def test_a_context_exceeded_tells_the_numbers() -> None:
    body = strict_json.dumps(openai("context_length_exceeded", message=TOO_LONG))
    message = refused(PROVIDER, Refusal(400, {}, body)).message
    assert "4096" in message
    assert "5000" in message


KEYS = ["choices", "message", "delta", "content", "tool_calls", "function", "name", "arguments"]
KEYS += ["usage", "finish_reason", "error", "code", "type", "param", "index", "refusal", "id"]
values = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 9) | st.sampled_from(["", "a", "stop", "error"]),
    lambda children: (
        st.lists(children, max_size=3)
        | st.dictionaries(st.sampled_from(KEYS), children, max_size=5)
    ),
    max_leaves=12,
)


@quick
@given(st.dictionaries(st.sampled_from(KEYS), values, max_size=5), st.integers(300, 599))
def test_whatever_comes(body: dict[str, Any], status: int) -> None:
    """Nothing that a provider says becomes a 500."""
    assert refused(PROVIDER, Refusal(status, {}, strict_json.dumps(body))).status != 500
    try:
        completion = whole(PROVIDER, body)
        Told.by(streamed(PROVIDER, [sse(body)]))
    except (ProviderError, CallerError) as error:
        assert isinstance(error, ProxyError)
    else:
        assert completion["choices"][0]["finish_reason"]
