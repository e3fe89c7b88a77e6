"""What a caller gets: complete, in OpenAI's form, whatever the provider left out."""

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from recorded import CALL, as_json, chat

from proxy.completion import Answer, Mark, Part, around_text
from proxy.tool_calls import pieces
from proxy.usage import AnswerUsage

DONE = Mark.DONE
USED = {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11}


def part(
    finish: str | None = None,
    *,
    calls: Any = (),
    usage: Any = None,
    choice: Any = None,
    fields: Any = None,
    native: bool = False,
    **delta: Any,
) -> Part:
    """A part with this delta."""
    found = pieces([*calls], relay=True)
    return Part(delta, found, finish, usage or {}, choice or {}, fields or {}, not native, False)


def answer(*parts: Part | Mark, **asked: Any) -> dict[str, Any]:
    """The completion from these parts and [DONE]."""
    chat_ = chat(**asked).without_input()
    return Answer(chat_, AnswerUsage(), token_limit=None).completion([*parts, DONE])


def stream(*parts: Part | Mark) -> Iterator[Any]:
    asked = chat(stream=True)
    return as_json(asked, Answer(asked, AnswerUsage(), token_limit=None).chunks([*parts, DONE]))


def function(name: str, arguments: str = "", **more: Any) -> dict[str, Any]:
    return {"function": {"name": name, "arguments": arguments}, **more}


F = function("f")


def test_content_is_null_only_beside_something_else() -> None:
    """An empty string is an answer, and stays one."""
    for given, content in (
        (part(content=""), ""),
        (part("length"), ""),
        (part(reasoning_content="Hm."), ""),
        (part(annotations=[]), ""),
        (part(calls=[CALL]), None),
        (part(content="", calls=[CALL]), ""),
        (part(refusal="No."), None),
        (part(audio={"id": "a"}), None),
        (part(function_call={"name": "f"}), None),
    ):
        assert answer(given)["choices"][0]["message"]["content"] == content


@pytest.mark.parametrize("kind", ["function", "custom"])
def test_stop_stays_where_the_caller_named_the_function(kind: str) -> None:
    """As OpenAI itself has it."""
    got = answer(part("stop", calls=[F]), tool_choice={"type": kind, kind: {"name": "f"}})
    assert got["choices"][0]["finish_reason"] == "stop"


def test_what_comes_in_pieces_is_whole_in_a_completion() -> None:
    """A stream that was not asked for: text, calls, older calls, audio, logprobs."""
    custom = {"id": "e", "type": "custom", "custom": {"name": "f"}}
    got = answer(
        Mark.PAUSE,
        part(content="Hel", reasoning_content="H", choice={"logprobs": {"content": [1]}}),
        part(content="lo", reasoning_content="m", fields={"service_tier": "x"}),
        part(calls=[function("f", "{", index=0, id="c"), function("g", "{}", index=1, id="d")]),
        part(calls=[{"index": 0, "function": {"arguments": "}"}, "signature": "s"}]),
        part(calls=[{"index": 2, **custom}], choice={"logprobs": {"content": [2]}}),
        part(calls=[{"index": 2, "id": "", "type": "", "custom": {"input": "a"}}]),
        part(calls=[{"index": 2, "custom": {"input": "b"}}]),
        part(function_call={"name": "f", "arguments": ""}, audio={"id": "a"}),
        part(function_call={"arguments": '{"a":'}, audio={"data": "x"}),
        part(function_call={"arguments": "1}"}, audio={"data": "y", "expires_at": 1}),
        part("stop", usage=USED, choice={"logprobs": {"refusal": None}}),
        stream_options={"include_usage": True},
    )
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


def chunk(delta: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1_790_000_000,
        "model": "m",
        "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}],
    }


ROLE = chunk({"role": "assistant", "content": ""})


@pytest.mark.parametrize("model", ["m", 'a"content":null', "\\"])
def test_a_text_is_written_as_any_chunk(model: str) -> None:
    """What stands round it is a chunk like the others, whatever the model is called."""
    before, after = around_text(replace(chat(stream=True), model=model))
    assert json.loads(before + b'"Hi"' + after) == chunk({"content": "Hi"}) | {"model": model}


def test_fields_are_relayed_wherever_they_came() -> None:
    """Before the text, with it, with the finish, with the usage: on the next chunk."""
    got = stream(
        part(fields={"a": 1}, native=True),
        part(content="x", fields={"b": 2}),
        part("stop", fields={"c": 3}),
        part(usage=USED, fields={"d": 4}, native=True),
    )
    relayed = [{key: value for key, value in one.items() if key in "abcd"} for one in got]
    assert relayed == [{}, {"a": 1, "b": 2}, {"c": 3, "d": 4}]


def test_other_keys_of_the_choice_are_relayed() -> None:
    """Azure has the results of its filters there, OpenRouter the provider's own finish_reason.
    Logprobs of an empty text wait for the next."""
    first, last = {"content_filter_results": {}, "chat": 1}, {"native_finish_reason": "eos"}
    early = part(content="", choice={"logprobs": {"content": [1]}})
    given = [early, part(content="a", choice=first), part("stop", choice=last)]
    role, text, finish = stream(*given)
    assert role == ROLE
    assert text["choices"][0].items() >= {**first, "logprobs": {"content": [1]}}.items()
    assert finish["choices"][0].items() >= (last | {"finish_reason": "stop"}).items()
    got = answer(*given)["choices"][0]
    assert got.items() >= {**first, **last, "logprobs": {"content": [1]}}.items()
