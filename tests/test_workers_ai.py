"""Workers AI: what is sent, and what its codes mean. Its answers: test_provider_cases.py."""

import json
from contextlib import suppress
from random import Random
from typing import Any

import pytest
from recorded import (
    CALL,
    HI,
    IMAGE,
    SECONDS_TO_MIDNIGHT,
    TOKENS,
    refused,
    request_to,
    sse,
    streamed,
    told_of,
    whole,
)

from proxy import strict_json
from proxy.errors import CallerError, ProviderError
from proxy.providers.workers_ai import WorkersAI

PROVIDER = WorkersAI(
    base_url="https://example.com/accounts/acc/ai/run",
    key="tier-2",
    models={"m": ("@cf/meta/llama-3.1",), "other": ("@cf/google/gemma-4",)},
)


def test_a_native_answer_was_cut_off_where_it_reached_the_callers_limit() -> None:
    for asked, tokens, finish in (
        ({"max_tokens": 10}, 9, "stop"),
        ({"max_completion_tokens": 10}, 10, "length"),
        ({"max_tokens": 1000}, 256, "stop"),
    ):
        answer = {"response": "a", "usage": {"completion_tokens": tokens}}
        (choice,) = whole(PROVIDER, {"result": answer}, **asked)["choices"]
        assert choice["finish_reason"] == finish


# --- refusals -----------------------------------------------------------------------------------


def provider(code: str, retry: str = "false", after: str | None = None) -> tuple[Any, ...]:
    """What an error tells."""
    return 502, f"provider_{code}", None, retry, after


QUOTA = provider("quota_exhausted", "false", str(SECONDS_TO_MIDNIGHT))
REJECTED = (400, "provider_rejected_input", None, None, None)
CODES: dict[int, tuple[Any, ...]] = {  # each code of the table of errors, and what it means
    **dict.fromkeys((3007, 3008, 3046), provider("timeout")),
    **dict.fromkeys((3043, 8004), provider("failed", "true")),
    **dict.fromkeys((3040, 3050), provider("overloaded", "true", "5")),
    **dict.fromkeys((3021, 2003, 1015), provider("rate_limited", "true", "15")),
    **dict.fromkeys((3036, 4006), QUOTA),
    **dict.fromkeys((2021, 2045), provider("quota_exhausted")),
    **dict.fromkeys((10000, 2009, 6003, 9106, 9109, 3023, 3041), provider("auth_failed")),
    **dict.fromkeys((5028, 5007, 3042, 5016, 5018, 5035), provider("model_unavailable")),
    **dict.fromkeys((7000, 7001, 7003, 2001, 2008, 2019, 2040), provider("not_found")),
    5024: provider("bad_answer"),
    **dict.fromkeys((5021, 8007), (400, "context_length_exceeded", "messages", None, None)),
    **dict.fromkeys((5004, 5006, 5012, 5025, 8001, 8006, 3003, 3006), REJECTED),
}


@pytest.mark.parametrize(("code", "tells"), CODES.items())
def test_the_code_decides_first(code: int, tells: tuple[Any, ...]) -> None:
    """In each of the envelopes, whatever the status."""
    entry = {"code": code, "message": "Words"}
    for envelope in (
        {"errors": [entry], "success": False, "result": {}, "messages": []},
        {"success": False, "error": [entry], "internalCode": code, "message": "Words"},
        {"name": "AiError", "internalCode": code, "httpCode": 400, "message": "Words"},
        {"error": entry},
        {"error": {"code": str(code), "message": "Words"}},
        {"errors": entry},
        {"errors": [{"code": 99, "message": "Unknown"}, entry]},
    ):
        for status in (400, 402, 403, 408, 429, 500):
            error = refused(PROVIDER, status, {}, strict_json.dumps(envelope))
            assert told_of(error) == tells


def test_the_daily_allocation_is_known_by_its_words() -> None:
    body = b'{"errors":[{"code":99,"message":"you have used up your daily free allocation"}]}'
    assert told_of(refused(PROVIDER, 429, {}, body)) == QUOTA


def test_the_log_says_what_was_seen_and_what_to_fix() -> None:
    error = refused(PROVIDER, 400, {}, b'{"errors":[{"code":7003,"message":"secret"}]}')
    settings = "CLOUDFLARE_ACCOUNT_ID and LLAMA_PROVIDER_BASE_URL"
    assert error.notes == {"seen": "HTTP 400, code 7003", "fix": settings}


# --- what is sent -------------------------------------------------------------------------------


def sent(**fields: Any) -> Any:
    return json.loads(request_to(PROVIDER, **fields).body)


SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}}
TEXTS = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]


def test_where_it_goes_and_with_which_key() -> None:
    """The model goes into the path; the key shows up nowhere else."""
    request = request_to(PROVIDER)
    assert request.url == "https://example.com/accounts/acc/ai/run/@cf/meta/llama-3.1"
    assert request.headers == {"Authorization": "Bearer tier-2"}
    assert request_to(PROVIDER, model="other").url.endswith("/@cf/google/gemma-4")
    assert "tier-2" not in repr(request) + repr(PROVIDER)


DEVELOPER = {"role": "developer", "content": "a"}
EMPTY = {"role": "user", "content": ""}
CALLING = {"role": "assistant", "tool_calls": [CALL]}
TOOL = {"role": "tool", "tool_call_id": "c", "name": "f", "content": "4"}
MESSAGES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # as given; as sent
    "developer is system": (DEVELOPER, DEVELOPER | {"role": "system"}),
    "empty": (EMPTY, EMPTY),
    "null": (CALLING | {"content": None}, CALLING | {"content": ""}),
    "missing": (CALLING, CALLING | {"content": ""}),
    "a tool's answer": (TOOL, TOOL),
    "text parts": ({"role": "user", "content": TEXTS}, {"role": "user", "content": "ab"}),
    "images": ({"role": "user", "content": [*TEXTS, IMAGE]},) * 2,
    "a refusal": ({"role": "assistant", "refusal": "No."}, {"role": "assistant", "content": "No."}),
    "other keys": (HI | {"name": None, "audio": {"id": "x"}, "tool_calls": []}, HI),
}


@pytest.mark.parametrize(("message", "as_sent"), MESSAGES.values(), ids=MESSAGES)
def test_messages(message: dict[str, Any], as_sent: dict[str, Any]) -> None:
    assert sent(messages=[HI, message, HI]) == {"messages": [HI, as_sent, HI]}


KNOWN: dict[str, Any] = {
    **{"max_tokens": 5, "temperature": 0, "top_p": 1.0, "top_k": 40, "seed": 1},
    **{"repetition_penalty": 1.1, "frequency_penalty": 0.5, "presence_penalty": -0.5},
    **{"stop": ["END"], "tools": [{"type": "function", "function": {"name": "f"}}]},
    **{"tool_choice": "auto", "parallel_tool_calls": False, "logit_bias": {"1": -100}},
    **{"logprobs": True, "top_logprobs": 3, "reasoning_effort": "low", "lora": "mine"},
    "chat_template_kwargs": {"enable_thinking": False},
}
STREAM = {"stream": True}
JSON_OBJECT = {"response_format": {"type": "json_object"}}
BARE = {"response_format": {"type": "json_schema", "json_schema": SCHEMA}}
WRAPPED = {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": SCHEMA}}


@pytest.mark.parametrize(
    ("fields", "more"),
    [
        ({}, {}),  # only what the caller gave: no model, no limit, no stream
        (KNOWN, KNOWN),
        ({"max_completion_tokens": 7}, {"max_tokens": 7}),
        ({"max_completion_tokens": 7, "max_tokens": 5}, {"max_tokens": 7}),
        ({"n": 1, "temperature": None}, {}),
        (STREAM | {"stream_options": {"include_usage": True}}, STREAM),
        ({"response_format": {"type": "text"}} | STREAM, STREAM),
        ({"response_format": {}}, {}),
        (JSON_OBJECT | STREAM, JSON_OBJECT),
        ({"response_format": WRAPPED} | STREAM, BARE),
        (BARE, BARE),
        ({"response_format": {"json_schema": {"schema": "x"}}},) * 2,
        ({"tools": [], "tool_choice": "auto", "parallel_tool_calls": True}, {}),
        ({"stop": [], "top_p": 1}, {"top_p": 1}),
    ],
)
def test_parameters(fields: dict[str, Any], more: dict[str, Any]) -> None:
    """stream_options is never sent: some models refuse what they do not know. Empty lists are
    not, and with `tools` go the parameters that are refused without it."""
    assert sent(**fields) == {"messages": [HI], **more}
    assert request_to(PROVIDER, **fields).ignored == set()


def test_what_it_cannot_use_is_not_sent_but_named() -> None:
    request = request_to(PROVIDER, user="ann", metadata={}, functions=[{}], temperature=1)
    assert json.loads(request.body) == {"messages": [HI], "temperature": 1}
    assert request.ignored == {"metadata", "functions", "user"}


# --- whatever comes -----------------------------------------------------------------------------

NAMES = [
    *["result", "response", "choices", "message", "delta", "content", "tool_calls", "function"],
    *["name", "arguments", "usage", "prompt_tokens", "finish_reason", "output", "type", "error"],
    *["errors", "code", "internalCode", "success", "reasoning", "index", "id", "status"],
]
ATOMS = [None, True, False, -1, 0, 1.5, 1e300, "", "a", "stop", "error", "message", "3043"]
RANDOM = Random(1500)  # noqa: S311 (no secret)


def anything(levels: int) -> Any:
    """JSON of these names and atoms, the same at each run."""
    kind = RANDOM.choice(("atom", "list", "object", "object")) if levels else "atom"
    size = RANDOM.randrange(5)
    if kind == "list":
        return [anything(levels - 1) for _ in range(size)]
    if kind == "object":
        return {RANDOM.choice(NAMES): anything(levels - 1) for _ in range(size)}
    return RANDOM.choice(ATOMS)


ANYTHING = [anything(RANDOM.randrange(5)) for _ in range(1500)]
OBJECTS = [value for value in ANYTHING if isinstance(value, dict)]


def test_any_answer_is_read_or_refused() -> None:
    """Nothing that a provider says becomes a 500, or an incomplete answer."""
    messages = [{"choices": [{"message": value, "delta": value}]} for value in OBJECTS]
    native = [{"result": {"response": value, "tool_calls": [value]}} for value in ANYTHING[::3]]
    bodies = [*OBJECTS, *messages, *native]
    completions = []
    for number, body in enumerate(bodies):
        with suppress(ProviderError, CallerError):
            completions.append(whole(PROVIDER, body))
        with suppress(ProviderError, CallerError):
            list(streamed(PROVIDER, sse(body, bodies[-number], done=bool(number % 3))))
    assert len(completions) > 100
    for completion in completions:
        (choice,) = completion["choices"]
        message = choice["message"]
        assert isinstance(message["content"], str) or message["tool_calls"]
        for call in message.get("tool_calls", ()):
            if call["type"] == "function":
                assert {type(text) for text in (call["id"], *call["function"].values())} == {str}
        assert choice["finish_reason"] in {"stop", "length", "tool_calls", "content_filter"}
        assert all(type(completion["usage"][name]) is int for name in TOKENS)
        assert strict_json.loads(strict_json.dumps(completion)) == completion


def test_any_refusal_has_a_meaning() -> None:
    for number, value in enumerate(ANYTHING):
        body = strict_json.dumps(value)[number % 2 :]  # half of them are not JSON
        error = refused(PROVIDER, 201 + number % 399, {}, body)
        assert error.status in {400, 502}


@pytest.mark.parametrize("depth", [100, 500, 900, 950, 980, 990, 2000, 100_000])
def test_nesting_of_any_depth_is_no_crash(depth: int) -> None:
    """The provider answered nonsense, or JSON: in neither case is it this proxy that broke."""
    body = b'{"result":{"response":' + b"[" * depth + b"]" * depth + b"}}"
    try:
        content = whole(PROVIDER, body)["choices"][0]["message"]["content"]
    except ProviderError as error:
        assert error.code == "provider_bad_answer"
    else:
        assert content == "[" * depth + "]" * depth
