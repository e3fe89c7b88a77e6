"""What a caller gets: complete, in OpenAI's form, whatever the provider left out."""

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from recorded import Told, as_json, chat

from proxy.completion import around_text, chunks, completion
from proxy.errors import ProviderError
from proxy.part import FAILED, Mark, Part
from proxy.tool_calls import Piece
from proxy.usage import AnswerUsage

ZEROS = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
NATIVE: dict[str, Any] = {"has_choices": False}


def used(prompt: int, answer: int, **more: Any) -> dict[str, Any]:
    total = prompt + answer
    return {"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": total, **more}


def answer(part: Part, *, token_limit: int | None = None) -> dict[str, Any]:
    parts = [part, Mark.DONE]
    return completion(chat(), parts, AnswerUsage(), token_limit=token_limit)


def stream(*parts: Part | None, limit: int | None = None, usage: bool = True) -> list[Any]:
    """The chunks; None among the parts is their [DONE]."""
    asked = chat(stream=True, stream_options={"include_usage": usage})
    said = [Mark.DONE if part is None else part for part in parts]
    return list(as_json(asked, chunks(asked, said, AnswerUsage(), token_limit=limit)))


def told(*parts: Part | None, limit: int | None = None) -> Told:
    return Told.by(stream(*parts, limit=limit))


# --- whole answers ------------------------------------------------------------------------------


def test_a_completion() -> None:
    """Every key that clients read, and no other."""
    part = Part(content="Hello!", finish_reason="stop", usage=used(9, 3))
    assert answer(part) == {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1_790_000_000,
        "model": "m",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hello!", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12},
    }


def call(index: int | None = None, **more: Any) -> Piece:
    return Piece(**{"provider_index": index, "id": "", "name": "", "arguments": "", **more})


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (Part(content=""), {"content": ""}),
        (Part(finish_reason="stop"), {"content": ""}),
        (Part(finish_reason="length"), {"content": ""}),
        (Part(reasoning="Hm."), {"content": "", "reasoning_content": "Hm."}),
        (Part(content="4", reasoning="Hm."), {"content": "4", "reasoning_content": "Hm."}),
        (Part(content="4", reasoning=""), {"content": "4"}),
        (
            Part(tool_calls=(call(id="c", name="f", arguments='{"a":1}'),)),
            {
                "content": None,
                "tool_calls": [
                    {
                        "id": "c",
                        "type": "function",
                        "function": {"name": "f", "arguments": '{"a":1}'},
                    }
                ],
            },
        ),
        (
            Part(content="", tool_calls=(call(name="f"), call(name="g", arguments=""))),
            {
                "content": "",
                "tool_calls": [
                    {
                        "id": "call_1_0",
                        "type": "function",
                        "function": {"name": "f", "arguments": "{}"},
                    },
                    {
                        "id": "call_1_1",
                        "type": "function",
                        "function": {"name": "g", "arguments": "{}"},
                    },
                ],
            },
        ),
        (
            Part(refusal="No."),
            {"content": None, "refusal": "No."},
        ),
        (
            Part(extra={"annotations": []}),
            {"content": "", "annotations": []},
        ),
    ],
    ids=[
        "an empty string is an answer",
        "null beside stop",
        "null beside length",
        "null beside reasoning",
        "reasoning",
        "no reasoning",
        "null stays beside tool calls",
        "ids and arguments made up",
        "null stays beside a refusal",
        "more keys are relayed",
    ],
)
def test_messages(part: Part, message: dict[str, Any]) -> None:
    assert answer(part)["choices"][0]["message"] == {
        "role": "assistant",
        "refusal": None,
        **message,
    }


@pytest.mark.parametrize("part", [Part(), Part(reasoning=""), Part(usage=used(1, 1))])
def test_no_answer(part: Part) -> None:
    """Neither text, tool call, reasoning nor finish."""
    with pytest.raises(ProviderError) as caught:
        answer(part)
    assert caught.value.code == "provider_bad_answer"
    with pytest.raises(ProviderError) as caught:
        stream(part, None)
    assert caught.value.code == "provider_bad_answer"


LIMIT_REACHED = Part(content="a", usage=used(1, 256), **NATIVE)
ENDS = [
    ("the provider's", Part(content="a", finish_reason="content_filter"), "content_filter"),
    ("stop beside calls", Part(tool_calls=(call(name="f"),), finish_reason="stop"), "tool_calls"),
    ("length beside calls", Part(tool_calls=(call(name="f"),), finish_reason="length"), "length"),
    ("tool_calls, and none", Part(content="a", finish_reason="tool_calls"), "stop"),
    ("function_call, and none", Part(content="a", finish_reason="function_call"), "stop"),
    (
        "function_call",
        Part(extra={"function_call": {"name": "f"}}, finish_reason="function_call"),
        "function_call",
    ),
    ("calls", Part(tool_calls=(call(name="f"),), **NATIVE), "tool_calls"),
    ("calls at the limit", Part(tool_calls=(call(name="f"),), usage=used(1, 256)), "tool_calls"),
    ("the limit reached", LIMIT_REACHED, "length"),
    ("the limit passed", Part(content="a", usage=used(1, 257), **NATIVE), "length"),
    ("under the limit", Part(content="a", usage=used(1, 255), **NATIVE), "stop"),
    ("no usage", Part(content="a", **NATIVE), "stop"),
    ("in OpenAI's form", Part(content="a", usage=used(1, 256)), "stop"),
]


@pytest.mark.parametrize(("part", "reason"), [e[1:] for e in ENDS], ids=[e[0] for e in ENDS])
def test_the_finish_reason_is_made_up_where_there_is_none(part: Part, reason: str) -> None:
    """In the provider's own form it is the limit that tells whether an answer was cut off."""
    assert answer(part, token_limit=256)["choices"][0]["finish_reason"] == reason
    assert told(part, None, limit=256).finish == reason


def test_without_a_limit_nothing_was_cut_off() -> None:
    assert answer(LIMIT_REACHED)["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize("reason", ["stop", "length", "content_filter"])
def test_openais_reasons(reason: str) -> None:
    part = Part(content="a", finish_reason=reason)
    assert answer(part)["choices"][0]["finish_reason"] == reason
    assert told(part).finish == reason


@pytest.mark.parametrize(
    ("raw", "usage"),
    [
        (None, ZEROS),
        ({}, ZEROS),
        (used(9, 3), used(9, 3)),
        ({"prompt_tokens": 9, "completion_tokens": 3}, used(9, 3)),
        ({"prompt_tokens": 9.0, "completion_tokens": 3.7, "total_tokens": 12.9}, used(9, 3)),
        (
            {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 20},
            {**used(9, 3), "total_tokens": 20},
        ),
        ({"input_tokens": 9, "output_tokens": 3, "total_tokens": 12}, used(9, 3)),
        ({"prompt_tokens": None, "completion_tokens": "3", "total_tokens": []}, ZEROS),
        ({"prompt_tokens": -1, "completion_tokens": 3}, used(0, 3)),
        (used(9, 3, cost="1", cached_tokens=4), used(9, 3, cost="1", cached_tokens=4)),
        ({"prompt_tokens": 10**16, "completion_tokens": 1e300}, ZEROS),
        ({"prompt_tokens": int("9" * 4300), "completion_tokens": True}, ZEROS),
        ({"prompt_tokens": float("nan"), "completion_tokens": float("inf")}, ZEROS),
        (
            used(9, 3, prompt_tokens_details={"cached_tokens": 4}),
            used(9, 3, prompt_tokens_details={"cached_tokens": 4}),
        ),
        (
            used(9, 3, completion_tokens_details={"reasoning_tokens": 2}),
            used(9, 3, completion_tokens_details={"reasoning_tokens": 2}),
        ),
    ],
)
def test_usage_is_three_whole_numbers_always(raw: Any, usage: dict[str, Any]) -> None:
    """Zeros where there is no sane number; the other keys are kept."""
    got = answer(Part(content="a", usage=raw))["usage"]
    assert got == usage
    assert all(type(got[name]) is int for name in ZEROS)
    assert told(Part(content="a", usage=raw, **NATIVE), None).usage == usage


def test_logprobs_are_relayed() -> None:
    logprobs = {"content": [{"token": "a", "logprob": -0.1}]}
    assert answer(Part(content="a", logprobs=logprobs))["choices"][0]["logprobs"] == logprobs
    _, chunk, *_ = stream(Part(content="a", logprobs=logprobs), None)
    assert chunk["choices"][0]["logprobs"] == logprobs
    assert chunk["choices"][0]["delta"] == {"content": "a"}


def test_keys_beside_the_choices_are_relayed() -> None:
    """But the answer's identity is ours."""
    part = Part(content="a", fields={"system_fingerprint": "fp", "service_tier": "x"})
    for got in (answer(part), stream(part, None)[1]):
        assert (got["system_fingerprint"], got["service_tier"]) == ("fp", "x")
    part = Part(content="a", fields={"id": "x", "model": "x", "choices": [], "object": "x"})
    assert answer(part)["id"] == "chatcmpl-1"
    assert answer(part)["choices"]
    assert Told.by(stream(part, None)).text == "a"


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
USAGE = {**chunk({}), "choices": [], "usage": used(9, 2)}


def test_the_chunks_of_a_stream() -> None:
    """Role, deltas, one finish, and the usage."""
    parts = [
        Part(content=""),
        Part(content="Hel"),
        Part(content="lo"),
        Part(finish_reason="length"),
        Part(usage=used(9, 2), has_choices=False),
        None,
    ]
    says = [ROLE, chunk({"content": "Hel"}), chunk({"content": "lo"}), chunk({}, "length")]
    assert stream(*parts) == [*says, USAGE]
    assert stream(*parts, usage=False) == says


def test_all_in_one_part() -> None:
    """A whole answer, turned into a stream: each kind of delta once."""
    part = Part(
        content="4",
        reasoning="Hm.",
        tool_calls=(call(name="f", arguments="{}"),),
        finish_reason="stop",
        usage=used(9, 2),
    )
    function = {"name": "f", "arguments": "{}"}
    delta = {
        "reasoning_content": "Hm.",
        "content": "4",
        "tool_calls": [{"index": 0, "id": "call_1_0", "type": "function", "function": function}],
    }
    assert stream(part, None) == [ROLE, chunk(delta), chunk({}, "tool_calls"), USAGE]


def test_a_refusal_is_relayed() -> None:
    said = stream(Part(refusal="No."), None)
    assert said[:2] == [ROLE, chunk({"refusal": "No."})]


@pytest.mark.parametrize(
    "parts",
    [[Part(content=""), None], [Part(content=""), Part(finish_reason="stop")]],
    ids=["DONE", "finish"],
)
def test_an_empty_string_is_an_answer(parts: list[Part | None]) -> None:
    assert stream(*parts, usage=False) == [ROLE, chunk({}, "stop")]


def test_the_role_waits_until_something_is_said() -> None:
    """Until the first chunk is out, a failure keeps its status."""
    read = []

    def parts() -> Iterator[Part]:
        for part in (Part(), Part(usage=used(1, 0)), Part(content="a"), Part(content="b")):
            read.append(part)
            yield part

    said = chunks(chat(stream=True), parts(), AnswerUsage(), token_limit=None)
    assert not read
    assert next(said) == ROLE
    assert len(read) == 3
    assert next(said) == "a"
    assert len(read) == 3  # each token leaves before the next is awaited


@pytest.mark.parametrize(
    ("parts", "code", "heard"),
    [
        ([], "provider_failed", 0),
        ([Part()], "provider_failed", 0),
        ([None], "provider_bad_answer", 0),
        ([Part(usage=used(1, 0)), None], "provider_bad_answer", 0),
        ([Part(content="")], "provider_failed", 1),
        ([Part(content="a")], "provider_failed", 2),
        ([Part(content="a"), Part(usage=used(9, 2), has_choices=False)], "provider_failed", 2),
    ],
)
def test_a_cut_stream_has_no_end(parts: list[Part | None], code: str, heard: int) -> None:
    """Neither [DONE] nor a finish_reason before the end: no finish, no usage, but a failure."""
    got = []
    with pytest.raises(ProviderError) as caught:
        said = [Mark.DONE if part is None else part for part in parts]
        asked = chat(stream=True)
        for told in as_json(asked, chunks(asked, said, AnswerUsage(), token_limit=None)):
            got.append(told)
    assert caught.value.code == code
    assert len(got) == heard
    assert not any(told["choices"][0]["finish_reason"] for told in got)


def test_pauses_are_passed_on_and_mean_nothing() -> None:
    parts = [Mark.PAUSE, Part(content="a"), Mark.PAUSE, Mark.DONE]
    role, *rest = chunks(chat(stream=True), parts, AnswerUsage(), token_limit=None)
    assert role is Mark.PAUSE
    assert [chunk for chunk in rest if not isinstance(chunk, dict)] == ["a", Mark.PAUSE]


@pytest.mark.parametrize("model", ["m", 'a"content":null', "\\"])
def test_a_text_is_written_as_any_chunk(model: str) -> None:
    """What stands round it is a chunk like the others, whatever the model is called."""
    asked = replace(chat(stream=True), model=model)
    before, after = around_text(asked)
    said = json.loads(before + b'"Hi"' + after)
    assert said["choices"] == [
        {"index": 0, "delta": {"content": "Hi"}, "logprobs": None, "finish_reason": None}
    ]
    assert (said["model"], said["id"], said["created"]) == (model, asked.id, asked.created)


def test_what_comes_after_done_is_not_read() -> None:
    """Two [DONE]s are one."""
    assert told(Part(content="a"), None, None, Part(content="b")).text == "a"


def test_the_last_finish_reason_counts() -> None:
    """More text may come after the first."""
    got = told(Part(content="a", finish_reason="stop"), Part(content="b", finish_reason="length"))
    assert (got.text, got.finish) == ("ab", "length")
    assert (
        told(Part(content="a", finish_reason="length"), Part(content="b"), None).finish == "length"
    )


DETAILS = {"prompt_tokens_details": {"cached_tokens": 1}}


@pytest.mark.parametrize(
    ("parts", "usage"),
    [
        ([], ZEROS),
        (
            [
                Part(usage=used(39, 0)),
                Part(usage=used(0, 1)),
                Part(usage=used(0, 3, **DETAILS)),
            ],
            used(39, 4, **DETAILS),
        ),
        ([Part(usage=used(39, 1)), Part(usage=used(39, 2)), Part(usage=used(39, 5))], used(39, 5)),
        ([Part(usage=used(39, 5))], used(39, 5)),
        (
            [Part(usage=used(39, 0)), Part(usage=used(0, 1)), Part(usage=used(39, 5), **NATIVE)],
            used(39, 5),
        ),
        (
            [
                Part(usage=used(0, 1)),
                Part(usage=used(39, 5), **NATIVE),
                Part(usage=ZEROS, **NATIVE),
            ],
            used(39, 5),
        ),
        ([Part(usage=used(39, 1)), Part(usage=ZEROS, **NATIVE)], used(39, 1)),
        ([Part(usage=used(39, 1), **NATIVE), Part(usage=used(39, 5), **NATIVE)], used(39, 5)),
    ],
    ids=[
        "none",
        "increments",
        "counts so far",
        "once",
        "increments, then all of it",
        "all of it, then zeros",
        "zeros at the end count nothing",
        "counts so far in the provider's form",
    ],
)
def test_usage_once(parts: list[Part], usage: dict[str, Any]) -> None:
    """However a provider tells it: last, and all of it."""
    assert told(Part(content="a"), *parts, None).usage == usage


def test_usage_may_come_before_the_text() -> None:
    assert told(Part(usage=used(9, 2), **NATIVE), Part(content="a"), None).usage == used(9, 2)


def test_a_whole_answer_from_a_stream_that_was_not_asked_for() -> None:
    parts = [
        Mark.PAUSE,
        Part(content="Hel", reasoning="H"),
        Part(content="lo", reasoning="m", fields={"service_tier": "x"}),
        Part(tool_calls=(call(0, id="c", name="f", arguments="{"),)),
        Part(tool_calls=(call(0, arguments="}"),), logprobs={"content": []}),
        Part(tool_calls=(call(1, other={"type": "custom", "id": "d", "custom": {"input": "a"}}),)),
        Part(tool_calls=(call(1, other={"custom": {"input": "b"}}), call(1, other={"id": "d"}))),
        Part(finish_reason="stop", usage=used(9, 2)),
        Mark.DONE,
    ]
    got = completion(chat(), parts, AnswerUsage(), token_limit=None)
    assert got["choices"] == [
        {
            "index": 0,
            "message": {
                "role": "assistant",
                "content": "Hello",
                "refusal": None,
                "reasoning_content": "Hm",
                "tool_calls": [
                    {
                        "id": "c",
                        "type": "function",
                        "function": {"name": "f", "arguments": "{}"},
                    },
                    {"type": "custom", "id": "d", "custom": {"input": "ab"}},
                ],
            },
            "logprobs": {"content": []},
            "finish_reason": "tool_calls",
        }
    ]
    assert (got["usage"], got["service_tier"]) == (used(9, 2), "x")


def test_a_cut_stream_that_was_not_asked_for_fails() -> None:
    with pytest.raises(ProviderError):
        completion(chat(), [Part(content="a")], AnswerUsage(), token_limit=None)


@pytest.mark.parametrize(
    "choice", [{"type": "function", "function": {"name": "f"}}, {"type": "custom"}]
)
def test_stop_stays_where_the_caller_named_the_function(choice: Any) -> None:
    """As OpenAI itself has it."""
    part = Part(tool_calls=(call(name="f"),), finish_reason="stop")
    asked = chat(tool_choice=choice).without_input()
    got = completion(asked, [part, Mark.DONE], AnswerUsage(), token_limit=None)
    assert got["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize("reason", ["tool_calls", "function_call"])
def test_calls_that_are_announced_and_missing(reason: str) -> None:
    part = Part(finish_reason=reason)
    for ask in (answer, lambda part: stream(part, None)):
        with pytest.raises(ProviderError) as caught:
            ask(part)
        assert caught.value.code == "provider_bad_answer"


@pytest.mark.parametrize(
    ("parts", "heard"),
    [
        ([Part(finish_reason=FAILED)], []),
        ([Part(content="a", finish_reason=FAILED)], []),
        ([Part(content="a"), Part(content="b", finish_reason=FAILED), None], ["", "a", "b"]),
    ],
    ids=["alone", "with all the text", "with the last text"],
)
def test_a_provider_that_says_it_failed(parts: list[Part | None], heard: list[str]) -> None:
    """Before anything was sent, the failure keeps its status."""
    got = []
    said = [Mark.DONE if part is None else part for part in parts]
    asked = chat(stream=True)
    with pytest.raises(ProviderError) as caught:
        for chunk in as_json(asked, chunks(asked, said, AnswerUsage(), token_limit=None)):
            got.append(chunk["choices"][0]["delta"]["content"])
    assert (caught.value.code, got) == ("provider_failed", heard)


@pytest.mark.parametrize(
    "after",
    [
        Part(content="b"),
        Part(reasoning="b"),
        Part(tool_calls=(call(name="f", arguments="{}"),)),
        Part(tool_calls=(call(name="f"),)),
    ],
    ids=["text", "reasoning", "call", "name of a call"],
)
def test_what_follows_a_finish_shows_that_it_was_none(after: Part) -> None:
    first = Part(content="a", finish_reason="stop")
    with pytest.raises(ProviderError):
        stream(first, after)
    assert told(first, after, None).finish in ("stop", "tool_calls")


def test_a_message_after_its_deltas_is_not_sent_again() -> None:
    last = Part(content="ab", is_message=True, finish_reason="length", usage=used(1, 2))
    got = told(Part(content="a"), Part(content="b"), last)
    assert (got.text, got.finish, got.usage) == ("ab", "length", used(1, 2))
    assert told(last).text == "ab"
    assert told(Part(content=""), last).text == "ab"


def test_fields_are_relayed_wherever_they_came() -> None:
    """Before the text, with it, with the finish, with the usage: on the next chunk."""
    got = stream(
        Part(fields={"a": 1}, has_choices=False),
        Part(content="x", fields={"b": 2}),
        Part(finish_reason="stop", fields={"c": 3}),
        Part(usage=used(1, 1), fields={"d": 4}, has_choices=False),
        None,
    )
    assert [{k: v for k, v in one.items() if k in "abcd"} for one in got] == [
        {"a": 1},
        {"b": 2},
        {"c": 3, "d": 4},
        {},
    ]


def test_what_comes_in_pieces_is_whole_in_a_completion() -> None:
    """A stream that was not asked for: older function calls, audio, custom calls, logprobs."""
    custom = {"id": "c", "type": "custom", "custom": {"name": "f"}}
    parts = [
        Part(extra={"function_call": {"name": "f", "arguments": ""}, "audio": {"id": "a"}}),
        Part(extra={"function_call": {"arguments": '{"a":'}, "audio": {"data": "x"}}),
        Part(extra={"function_call": {"arguments": "1}"}, "audio": {"data": "y", "expires_at": 1}}),
        Part(tool_calls=(call(0, id="c", other=custom),), logprobs={"content": [1]}),
        Part(tool_calls=(call(0, other={"custom": {"input": "a"}}),), logprobs={"content": [2]}),
        Part(tool_calls=(call(0, other={"custom": {"input": "b"}}),)),
        Part(tool_calls=(call(1, id="d", name="g", arguments="{"),), logprobs={"refusal": None}),
        Part(tool_calls=(call(1, arguments="}", extra={"signature": "s"}),)),
        Mark.DONE,
    ]
    (choice,) = completion(chat(), parts, AnswerUsage(), token_limit=None)["choices"]
    message = choice["message"]
    assert message["function_call"] == {"name": "f", "arguments": '{"a":1}'}
    assert message["audio"] == {"id": "a", "data": "xy", "expires_at": 1}
    first, second = message["tool_calls"]
    assert first == {**custom, "custom": {"name": "f", "input": "ab"}}
    assert (second["function"]["arguments"], second["signature"]) == ("{}", "s")
    assert choice["logprobs"] == {"content": [1, 2], "refusal": None}


def test_other_keys_of_the_choice_are_relayed() -> None:
    """Azure has the results of its filters there, OpenRouter the provider's own finish_reason."""
    first, last = {"content_filter_results": {}, "chat": 1}, {"native_finish_reason": "eos"}
    parts = [Part(content="a", choice=first), Part(choice=last, finish_reason="stop"), None]
    _, text, finish, _ = stream(*parts)
    assert text["choices"][0].items() >= first.items()
    assert finish["choices"][0].items() >= (last | {"finish_reason": "stop"}).items()
    assert answer(Part(content="a", choice=first))["choices"][0].items() >= first.items()
