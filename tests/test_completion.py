"""What a caller gets: complete, in OpenAI's form, whatever the provider left out."""

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from recorded import Heard, as_json, chat

from proxy.completion import Answer, Mark, Part, around_text
from proxy.errors import ProviderError
from proxy.tool_calls import pieces
from proxy.usage import AnswerUsage

ZEROS = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
DONE = Mark.DONE


def used(prompt: int, answer: int, **more: Any) -> dict[str, Any]:
    total = prompt + answer
    return {"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": total, **more}


def part(
    finish: str | None = None,
    *,
    calls: Any = (),
    usage: Any = None,
    choice: Any = None,
    fields: Any = None,
    native: bool = False,
    is_message: bool = False,
    **delta: Any,
) -> Part:
    """A part with this delta."""
    found = pieces([*calls], relay=True)
    return Part(
        delta, found, finish, usage or {}, choice or {}, fields or {}, not native, is_message
    )


def answer(*parts: Part | Mark, limit: int | None = None, **asked: Any) -> dict[str, Any]:
    """The completion from these parts and [DONE]."""
    chat_ = chat(**asked).without_input()
    return Answer(chat_, AnswerUsage(), token_limit=limit).completion([*parts, DONE])


def stream(*parts: Part | Mark, limit: int | None = None, usage: bool = True) -> Iterator[Any]:
    asked = chat(stream=True, stream_options={"include_usage": usage})
    return as_json(asked, Answer(asked, AnswerUsage(), token_limit=limit).chunks(parts))


def told(*parts: Part | Mark, limit: int | None = None) -> Heard:
    return Heard.of(*stream(*parts, limit=limit))


def function(name: str, arguments: str = "", **more: Any) -> dict[str, Any]:
    return {"function": {"name": name, "arguments": arguments}, **more}


# --- whole answers ------------------------------------------------------------------------------


CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}
F = function("f")


def test_content_is_null_only_beside_something_else() -> None:
    """An empty string is an answer, and stays one. The forms of messages: test_workers_ai.py."""
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


@pytest.mark.parametrize(
    "given", [part(), part(usage=used(1, 1)), part("tool_calls"), part("function_call")]
)
def test_no_answer(given: Part) -> None:
    """Neither text, tool call, reasoning nor finish; or a finish that announces a call."""
    for ask in (answer, lambda part: next(stream(part, DONE))):
        with pytest.raises(ProviderError) as caught:
            ask(given)
        assert caught.value.code == "provider_bad_answer"


ENDS = {
    "the provider's": (part("content_filter", content="a"), "content_filter"),
    "stop beside calls": (part("stop", calls=[F]), "tool_calls"),
    "length beside calls": (part("length", calls=[F]), "length"),
    "tool_calls, and none": (part("tool_calls", content="a"), "stop"),
    "function_call, and none": (part("function_call", content="a"), "stop"),
    "function_call": (part("function_call", function_call={"name": "f"}), "function_call"),
    "calls": (part(calls=[F], native=True), "tool_calls"),
    "calls at the limit": (part(calls=[F], usage=used(1, 256), native=True), "tool_calls"),
    "the limit reached": (part(content="a", usage=used(1, 256), native=True), "length"),
    "stop at the limit": (part("stop", content="a", usage=used(1, 256), native=True), "stop"),
    "the limit passed": (part(content="a", usage=used(1, 257), native=True), "length"),
    "under the limit": (part(content="a", usage=used(1, 255), native=True), "stop"),
    "no usage": (part(content="a", native=True), "stop"),
    "a call of another type": (part(calls=[{"type": "custom", "id": "c"}]), "tool_calls"),
    "in OpenAI's form": (part(content="a", usage=used(1, 256)), "stop"),
}


@pytest.mark.parametrize(("given", "reason"), ENDS.values(), ids=ENDS)
def test_the_finish_reason_is_made_up_where_there_is_none(given: Part, reason: str) -> None:
    """In the provider's own form it is the limit that tells whether an answer was cut off."""
    assert answer(given, limit=256)["choices"][0]["finish_reason"] == reason
    assert told(given, DONE, limit=256).finish == reason


@pytest.mark.parametrize("kind", ["function", "custom"])
def test_stop_stays_where_the_caller_named_the_function(kind: str) -> None:
    """As OpenAI itself has it."""
    got = answer(part("stop", calls=[F]), tool_choice={"type": kind, kind: {"name": "f"}})
    assert got["choices"][0]["finish_reason"] == "stop"


DETAILS = {"prompt_tokens_details": {"cached_tokens": 4}}


@pytest.mark.parametrize(
    ("raw", "usage"),
    [
        (None, ZEROS),
        ({"prompt_tokens": 9, "completion_tokens": 3}, used(9, 3)),
        ({"prompt_tokens": 9.0, "completion_tokens": 3.7, "total_tokens": 12.9}, used(9, 3)),
        (used(9, 3) | {"total_tokens": 20}, used(9, 3) | {"total_tokens": 20}),
        ({"input_tokens": 9, "output_tokens": 3, "total_tokens": 12}, used(9, 3)),
        ({"prompt_tokens": None, "completion_tokens": "3", "total_tokens": []}, ZEROS),
        ({"prompt_tokens": -1, "completion_tokens": 3}, used(0, 3)),
        (used(9, 3, cost="1", **DETAILS), used(9, 3, cost="1", **DETAILS)),
        ({"prompt_tokens": 10**16, "completion_tokens": 1e300}, ZEROS),
        ({"prompt_tokens": int("9" * 4300), "completion_tokens": True}, ZEROS),
        ({"prompt_tokens": float("nan"), "completion_tokens": float("inf")}, ZEROS),
    ],
)
def test_usage_is_three_whole_numbers_always(raw: Any, usage: dict[str, Any]) -> None:
    """Zeros where there is no sane number; the other keys are kept."""
    got = answer(part(content="a", usage=raw))["usage"]
    assert got == usage
    assert all(type(got[name]) is int for name in ZEROS)
    assert told(part(content="a", usage=raw, native=True), DONE).usage == usage


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
        part("stop", usage=used(9, 2), choice={"logprobs": {"refusal": None}}),
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
    assert (got["usage"], got["service_tier"]) == (used(9, 2), "x")


# --- streams ------------------------------------------------------------------------------------


def chunk(delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1_790_000_000,
        "model": "m",
        "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}],
    }


ROLE = chunk({"role": "assistant", "content": ""})


def test_the_role_waits_until_something_is_said() -> None:
    """Until the first chunk is out, a failure keeps its status."""
    read = []

    def parts() -> Iterator[Part]:
        for given in (part(), part(usage=used(1, 0)), part(content="a"), part(content="b")):
            read.append(given)
            yield given

    said = Answer(chat(stream=True), AnswerUsage(), token_limit=None).chunks(parts())
    assert not read
    assert next(said) == ROLE
    assert len(read) == 3
    assert next(said) == "a"
    assert len(read) == 3  # each token leaves before the next is awaited


FIRST = part("stop", content="a")
CUTS: dict[str, tuple[list[Any], str, int]] = {  # parts, code, chunks before the error
    "nothing": ([], "provider_failed", 0),
    "an empty part": ([part()], "provider_failed", 0),
    "the name of a call": ([part(calls=[F])], "provider_failed", 1),
    "usage, DONE": ([part(usage=used(1, 0)), DONE], "provider_bad_answer", 0),
    "an empty text": ([part(content="")], "provider_failed", 1),
    "text, usage": ([part(content="a"), part(usage=ZEROS, native=True)], "provider_failed", 2),
    "finish, text": ([FIRST, part(content="b")], "provider_failed", 3),
    "finish, reasoning": ([FIRST, part(reasoning_content="b")], "provider_failed", 3),
    "finish, a call": ([FIRST, part(calls=[CALL])], "provider_failed", 3),
    "finish, the name of a call": ([FIRST, part(calls=[F])], "provider_failed", 2),
}


@pytest.mark.parametrize(("parts", "code", "heard"), CUTS.values(), ids=CUTS)
def test_a_cut_stream_has_no_end(parts: list[Any], code: str, heard: int) -> None:
    """Neither [DONE] nor a finish_reason at the end: no finish, no usage, but a failure."""
    got: list[Any] = []
    with pytest.raises(ProviderError) as caught:
        got.extend(stream(*parts))
    assert (caught.value.code, len(got)) == (code, heard)
    assert not any(told["choices"][0]["finish_reason"] for told in got)
    with pytest.raises(ProviderError):
        Answer(chat(), AnswerUsage(), token_limit=None).completion(parts)


def test_pauses_are_passed_on_and_mean_nothing() -> None:
    parts = [Mark.PAUSE, part(content="a"), Mark.PAUSE, DONE]
    first, *rest = Answer(chat(stream=True), AnswerUsage(), token_limit=None).chunks(parts)
    assert first is Mark.PAUSE
    assert [chunk for chunk in rest if not isinstance(chunk, dict)] == ["a", Mark.PAUSE]


@pytest.mark.parametrize("model", ["m", 'a"content":null', "\\"])
def test_a_text_is_written_as_any_chunk(model: str) -> None:
    """What stands round it is a chunk like the others, whatever the model is called."""
    before, after = around_text(replace(chat(stream=True), model=model))
    assert json.loads(before + b'"Hi"' + after) == chunk({"content": "Hi"}) | {"model": model}


def test_what_follows_a_finish_shows_that_it_was_none() -> None:
    got = told(part("length", content="a"), part(content="b"), DONE, DONE, part(content="c"))
    assert (got.content, got.finish) == ("ab", "length")


ONE = part(usage=used(39, 1))
MORE = part(usage=used(0, 3, **DETAILS))
ALL = part(usage=used(39, 5), native=True)
NOTHING = part(usage=ZEROS, native=True)
USAGES: dict[str, tuple[list[Part], dict[str, Any]]] = {
    "none": ([], ZEROS),
    "increments": ([ONE, MORE], used(39, 4, **DETAILS)),
    "counts so far": ([ONE, part(usage=used(39, 5))], used(39, 5)),
    "increments, then all of it": ([ONE, MORE, ALL], used(39, 5)),
    "all of it, then zeros": ([MORE, ALL, NOTHING], used(39, 5)),
    "zeros at the end count nothing": ([ONE, NOTHING], used(39, 1)),
    "so far in its own form": ([part(usage=used(39, 1), native=True), ALL], used(39, 5)),
}


@pytest.mark.parametrize(("parts", "usage"), USAGES.values(), ids=USAGES)
def test_usage_once(parts: list[Part], usage: dict[str, Any]) -> None:
    """However a provider tells it: last, and all of it; also where it came before the text."""
    assert told(part(content="a"), *parts, DONE).usage == usage
    assert told(*parts, part(content="a"), DONE).usage == usage


def test_a_message_after_its_deltas_is_not_sent_again() -> None:
    last = part("length", content="ab", is_message=True, annotations=[], calls=[CALL])
    got = told(part(content="a", calls=[CALL]), part(content="b"), last)
    assert (got.content, got.finish, len(got.calls)) == ("ab", "length", 1)
    assert told(part(content=""), last).content == "ab"
    assert told(part(calls=[CALL]), last).content == ""
    message = answer(part(content="a"), last)["choices"][0]["message"]
    assert message == {"role": "assistant", "content": "a", "refusal": None, "annotations": []}


def test_fields_are_relayed_wherever_they_came() -> None:
    """Before the text, with it, with the finish, with the usage: on the next chunk."""
    got = stream(
        part(fields={"a": 1}, native=True),
        part(content="x", fields={"b": 2}),
        part("stop", fields={"c": 3}),
        part(usage=used(1, 1), fields={"d": 4}, native=True),
        DONE,
    )
    relayed = [{key: value for key, value in one.items() if key in "abcd"} for one in got]
    assert relayed == [{}, {"a": 1, "b": 2}, {"c": 3, "d": 4}, {}]


def test_other_keys_of_the_choice_are_relayed() -> None:
    """Azure has the results of its filters there, OpenRouter the provider's own finish_reason.
    Logprobs of an empty text wait for the next."""
    first, last = {"content_filter_results": {}, "chat": 1}, {"native_finish_reason": "eos"}
    early = part(content="", choice={"logprobs": {"content": [1]}})
    given = [early, part(content="a", choice=first), part("stop", choice=last)]
    role, text, finish, _ = stream(*given, DONE)
    assert role == ROLE
    assert text["choices"][0].items() >= {**first, "logprobs": {"content": [1]}}.items()
    assert finish["choices"][0].items() >= (last | {"finish_reason": "stop"}).items()
    got = answer(*given)["choices"][0]
    assert got.items() >= {**first, **last, "logprobs": {"content": [1]}}.items()
