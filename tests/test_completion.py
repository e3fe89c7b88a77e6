"""What a caller gets: complete, in OpenAI's form, whatever the provider left out."""

import json
from dataclasses import replace
from typing import Any

import pytest
from recorded import CALL, CREATED, chat, sse, streamed, whole

from proxy.completion import around_text
from proxy.providers.openai_compatible import OpenAICompatible

PROVIDER = OpenAICompatible("http://x", "", {"m": ("m",)})
USED = {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11}


def frame(delta: dict[str, Any], **choice: Any) -> dict[str, Any]:
    return {"choices": [{"delta": delta, **choice}]}


def function(name: str, arguments: str = "", **more: Any) -> dict[str, Any]:
    return {"function": {"name": name, "arguments": arguments}, **more}


def test_content_is_null_only_beside_something_else() -> None:
    """An empty string is an answer, and stays one."""
    for given, content in (
        ({"content": ""}, ""),
        ({"reasoning_content": "Hm."}, ""),
        ({"annotations": [{}]}, ""),
        ({"tool_calls": [CALL]}, None),
        ({"content": "", "tool_calls": [CALL]}, ""),
        ({"refusal": "No."}, None),
        ({"audio": {"id": "a"}}, None),
        ({"function_call": {"name": "f"}}, None),
    ):
        (choice,) = whole(PROVIDER, {"choices": [{"message": given}]})["choices"]
        assert choice["message"]["content"] == content


@pytest.mark.parametrize("kind", ["function", "custom"])
def test_stop_stays_where_the_caller_named_the_function(kind: str) -> None:
    """As OpenAI itself has it."""
    body = {"choices": [{"message": {"tool_calls": [CALL]}, "finish_reason": "stop"}]}
    (choice,) = whole(PROVIDER, body, tool_choice={"type": kind, kind: {"name": "f"}})["choices"]
    assert choice["finish_reason"] == "stop"


def test_what_comes_in_pieces_is_whole_in_a_completion() -> None:
    """A stream that was not asked for: text, calls, older calls, audio, logprobs."""
    calls = [function("f", "{", index=0, id="c"), function("g", "{}", index=1, id="d")]
    custom = {"id": "e", "type": "custom", "custom": {"name": "f"}}
    events = sse(
        frame({"content": "Hel", "reasoning_content": "H"}, logprobs={"content": [1]}),
        frame({"content": "lo", "reasoning_content": "m"}) | {"service_tier": "x"},
        frame({"tool_calls": calls}),
        frame({"tool_calls": [{"index": 0, "function": {"arguments": "}"}, "signature": "s"}]}),
        frame({"tool_calls": [{"index": 2, **custom}]}, logprobs={"content": [2]}),
        frame({"tool_calls": [{"index": 2, "id": "", "type": "", "custom": {"input": "a"}}]}),
        frame({"tool_calls": [{"index": 2, "custom": {"input": "b"}}]}),
        frame({"function_call": {"name": "f", "arguments": ""}, "audio": {"id": "a"}}),
        frame({"function_call": {"arguments": '{"a":'}, "audio": {"data": "x"}}),
        frame({"function_call": {"arguments": "1}"}, "audio": {"data": "y", "expires_at": 1}}),
        frame({}, finish_reason="stop", logprobs={"refusal": None}) | {"usage": USED},
    )
    got = whole(PROVIDER, events, stream_options={"include_usage": True})
    (choice,) = got["choices"]
    first, second, third = choice["message"].pop("tool_calls")
    assert first == {"id": "c", "type": "function", **function("f", "{}"), "signature": "s"}
    assert second == {"id": "d", "type": "function", **function("g", "{}")}
    assert third == {**custom, "custom": {"name": "f", "input": "ab"}}
    assert choice == {
        "index": 0,
        "message": {
            "role": "assistant",
            "content": "Hello",
            "refusal": None,
            "reasoning_content": "Hm",
            "function_call": {"name": "f", "arguments": '{"a":1}'},
            "audio": {"id": "a", "data": "xy", "expires_at": 1},
        },
        "logprobs": {"content": [1, 2], "refusal": None},
        "finish_reason": "tool_calls",
    }
    assert (got["usage"], got["service_tier"]) == (USED, "x")


@pytest.mark.parametrize("model", ["m", 'a"content":null', "\\"])
def test_a_text_is_written_as_any_chunk(model: str) -> None:
    """What stands round it is a chunk like the others, whatever the model is called."""
    before, after = around_text(replace(chat(stream=True), model=model))
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": CREATED}
    choice = {"index": 0, "delta": {"content": "Hi"}, "logprobs": None, "finish_reason": None}
    assert json.loads(before + b'"Hi"' + after) == {**head, "model": model, "choices": [choice]}


def test_fields_are_relayed_wherever_they_came() -> None:
    """Before the text, with it, with the finish, with the usage: on the next chunk."""
    events = sse(
        {"choices": [], "a": 1},
        frame({"content": "x"}) | {"b": 2},
        frame({}, finish_reason="stop") | {"c": 3},
        {"choices": [], "usage": USED, "d": 4},
    )
    chunks = streamed(PROVIDER, events)
    relayed = [{key: value for key, value in one.items() if key in "abcd"} for one in chunks]
    assert relayed == [{}, {"a": 1, "b": 2}, {"c": 3, "d": 4}, {}]


def test_other_keys_of_the_choice_are_relayed() -> None:
    """Azure has the results of its filters there, OpenRouter the provider's own finish_reason.
    Logprobs of an empty text wait for the next."""
    first, last = {"content_filter_results": {}, "chat": 1}, {"native_finish_reason": "eos"}
    logprobs = {"logprobs": {"content": [1]}}
    events = sse(
        frame({"content": ""}, **logprobs),
        frame({"content": "a"}, **first),
        frame({}, finish_reason="stop", **last),
    )
    role, text, finish, _ = streamed(PROVIDER, events)
    assert role["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert text["choices"][0].items() >= (first | logprobs).items()
    assert finish["choices"][0].items() >= (last | {"finish_reason": "stop"}).items()
    (choice,) = whole(PROVIDER, events)["choices"]
    assert choice.items() >= (first | last | logprobs).items()
