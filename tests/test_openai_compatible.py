"""Any OpenAI-compatible API: the request goes as it came, and so does the answer, made complete."""

import json
from typing import Any

import pytest
from recorded import request_to, sse, streamed, whole

from proxy.providers.openai_compatible import OpenAICompatible

PROVIDER = OpenAICompatible(
    base_url="https://example.com/v1",
    key="tier-2",
    models={"m": ("gpt-5-mini",), "other": ("llama3.2:1b",)},
)
HI = {"role": "user", "content": "Hi"}
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}


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


STREAMED = {"stream": True, "stream_options": {"include_usage": True}}
OPTIONS = {"include_usage": False, "include_obfuscation": False}
OTHERS = {"max_completion_tokens": 7, "user": "ann", "x": {"a": None}}
BODIES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # as given; what is sent of it
    "smallest": ({}, {}),
    "model mapped": ({"model": "other"}, {"model": "llama3.2:1b"}),
    "usage asked for": ({"stream": True}, STREAMED),
    "stream_options kept": (
        {"stream": True, "stream_options": OPTIONS},
        {"stream": True, "stream_options": OPTIONS | {"include_usage": True}},
    ),
    "all else kept": ({**OTHERS, "temperature": None}, OTHERS),
}


@pytest.mark.parametrize(("fields", "body"), BODIES.values(), ids=BODIES)
def test_bodies(fields: dict[str, Any], body: dict[str, Any]) -> None:
    """The caller's, with the model mapped; on streams the usage is always asked for."""
    assert sent(**fields) == {"model": "gpt-5-mini", "messages": [HI], **body}


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


# --- answers ------------------------------------------------------------------------------------


ZEROS = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
USED = {"prompt_tokens": 1, "completion_tokens": 4096, "total_tokens": 4097}
DETAILS = {"completion_tokens_details": {"reasoning_tokens": 2}}
ANSWERS: dict[str, tuple[dict[str, Any], Any, dict[str, Any]]] = {  # message, finish, beside it
    "usage": ({"content": "Hi"}, "stop", {"usage": USED | DETAILS}),
    "no limit is guessed": ({"content": "a"}, None, {"usage": USED}),
    "other fields": ({"content": "Hi"}, "stop", {"system_fingerprint": "fp"}),
    "a refusal": ({"content": None, "refusal": "No."}, "stop", {}),
    "annotations": ({"content": "Hi", "annotations": [{"type": "url_citation"}]}, "stop", {}),
    "a call": ({"content": None, "tool_calls": [CALL]}, "tool_calls", {}),
    "reasoning": ({"content": "4", "reasoning_content": "Hm"}, "content_filter", {}),
}


@pytest.mark.parametrize(("message", "finish", "more"), ANSWERS.values(), ids=ANSWERS)
def test_answers(message: dict[str, Any], finish: str | None, more: dict[str, Any]) -> None:
    """Unchanged in meaning; id, time and the model's public name are ours."""
    choices = [{"index": 0, "message": message, "finish_reason": finish}]
    theirs = {"id": "x", "object": "x", "created": 1, "model": "x"}
    completion = whole(PROVIDER, {**theirs, "choices": choices, **more})
    (choice,) = completion.pop("choices")
    assert choice["message"] == {"role": "assistant", "refusal": None, **message}
    assert choice["finish_reason"] == (finish or "stop")
    ours = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1_790_000_000, "model": "m"}
    assert completion == {**ours, "usage": ZEROS, **more}


def test_a_refusal_in_a_stream_is_relayed() -> None:
    delta = {"choices": [{"delta": {"refusal": "No."}}], "system_fingerprint": "fp"}
    stream = sse(delta, {"choices": [{"delta": {}, "finish_reason": "stop"}]})
    _, said, *_ = streamed(PROVIDER, [stream])
    assert said["choices"][0]["delta"] == {"refusal": "No."}
    assert said["system_fingerprint"] == "fp"
