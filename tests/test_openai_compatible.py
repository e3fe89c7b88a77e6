"""Any OpenAI-compatible API: the request goes as it came, and so does the answer, made complete."""

import json
from typing import Any

import pytest
from recorded import CALL, CREATED, HI, request_to, sse, streamed, whole

from proxy.providers.openai_compatible import OpenAICompatible

PROVIDER = OpenAICompatible(
    base_url="https://example.com/v1",
    key="tier-2",
    models={"m": ("gpt-5-mini",), "other": ("llama3.2:1b",)},
)


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


def test_messages_go_as_they_came() -> None:
    messages = [
        {"role": "developer", "content": "a"},
        {"role": "assistant", "content": None, "tool_calls": [CALL], "refusal": None},
        {"role": "user", "content": [{"type": "text", "text": "a"}], "name": "ann"},
        {"role": "assistant", "content": "a", "reasoning_content": "b"},
    ]
    assert sent(messages=messages)["messages"] == messages


def test_an_answer_is_relayed() -> None:
    """Unchanged in meaning, with what this proxy does not know; no limit is guessed. Id, time and
    the model's public name are ours."""
    message = {"content": None, "refusal": "No.", "annotations": [{"type": "url_citation"}]}
    details = {"completion_tokens_details": {"reasoning_tokens": 2}}
    usage = {"prompt_tokens": 1, "completion_tokens": 4096, "total_tokens": 4097, **details}
    beside = {"usage": usage, "system_fingerprint": "fp"}
    theirs = {"id": "x", "object": "x", "created": 1, "model": "x", **beside}
    ours = {"id": "chatcmpl-1", "object": "chat.completion", "created": CREATED, "model": "m"}
    completion = whole(PROVIDER, {**theirs, "choices": [{"message": message}]})
    (choice,) = completion.pop("choices")
    assert choice["message"] == {"role": "assistant", **message}
    assert choice["finish_reason"] == "stop"
    assert completion == {**ours, **beside}
    _, said, *_ = streamed(PROVIDER, sse({**theirs, "choices": [{"delta": message}]}))
    del message["content"]
    assert said["choices"][0]["delta"] == message
    assert said["system_fingerprint"] == "fp"
