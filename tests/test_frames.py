"""What a frame adds, whatever its values came as."""

from typing import Any

import pytest

from proxy.errors import ProviderError
from proxy.part import FAILED, Part
from proxy.providers import frames


def event(delta: Any, **more: Any) -> Part:
    return frames.part({"choices": [{"delta": delta, **more}]}, is_event=True, relay=True)


def whole(message: Any, **more: Any) -> Part:
    return frames.part({"choices": [{"message": message, **more}]}, is_event=False, relay=True)


IN_PARTS: dict[str, tuple[Any, str | None, str | None]] = {
    "text": ("a", "a", None),
    "null": (None, None, None),
    "a number": (42, "42", None),
    "an object": ({"a": 1}, '{"a":1}', None),
    "an empty list": ([], None, None),
    "text parts": (
        [{"type": "text", "text": "a"}, {"type": "output_text", "text": "b"}],
        "ab",
        None,
    ),
    "a part without a type": ([{"text": "a"}], "a", None),
    "thinking": ([{"type": "thinking", "thinking": "a"}], None, "a"),
    "thinking in parts": (
        [{"type": "thinking", "thinking": [{"type": "text", "text": "a"}]}, {"text": "b"}],
        "b",
        "a",
    ),
    "reasoning": (
        [{"type": "reasoning", "text": "a"}, {"type": "reasoning", "reasoning": "b"}],
        None,
        "ab",
    ),
    "a summary of the reasoning": (
        [{"type": "reasoning", "summary": [{"type": "summary_text", "text": "a"}]}],
        None,
        "a",
    ),
    "a refusal": ([{"type": "refusal", "refusal": "a"}], "a", None),
    "a text that is null": ([{"type": "text", "text": None}, {"text": "a"}], "a", None),
    "a number as text": ([{"type": "text", "text": 4}], "4", None),
    "objects of the model's own": ([{"a": 1}, {"summary": "b"}], '[{"a":1},{"summary":"b"}]', None),
    "an unknown part": ([{"text": "a"}, {"type": "x", "text": 1}], 'a{"type":"x","text":1}', None),
    "text among parts": ([{"text": "a"}, "b"], "ab", None),
    "a list of anything": ([1, "a"], '[1,"a"]', None),
    "a type that is a list": (
        [{"type": ["text"], "text": "a"}],
        '[{"type":["text"],"text":"a"}]',
        None,
    ),
}


@pytest.mark.parametrize(("value", "content", "reasoning"), IN_PARTS.values(), ids=IN_PARTS)
def test_content_in_parts(value: Any, content: str | None, reasoning: str | None) -> None:
    for part in (event({"content": value}), whole({"content": value})):
        assert (part.content, part.reasoning) == (content, reasoning)


def test_reasoning_by_its_two_names_and_in_parts() -> None:
    both = {"reasoning": "a", "reasoning_content": "b"}
    assert event(both).reasoning == "b"
    assert event({"reasoning": "a"}).reasoning == "a"
    assert event({"reasoning": [{"type": "thinking", "thinking": "a"}]}).reasoning == "a"


WORDS: list[tuple[Any, str | None]] = [
    *((word, FAILED) for word in ("error", "ABORT", "Network Error", "upstream-error")),
    *((word, "length") for word in ("MAX_TOKENS", "length", "max_output_tokens")),
    *((word, "content_filter") for word in ("SAFETY", "refusal", "guardrail-intervened")),
    *((word, "tool_calls") for word in ("tool_use", "TOOL_CALLS", "tool call")),
    *((word, "stop") for word in ("eos", "end_turn", "whatever", "stop_sequence", "STOP")),
    *((word, None) for word in ("", None, "null", "unknown", " ", 7, True, ["stop"])),
    ("function_call", "function_call"),
]


@pytest.mark.parametrize(("word", "reason"), WORDS)
def test_finish_reasons(word: Any, reason: str | None) -> None:
    assert event({}, finish_reason=word).finish_reason == reason
    assert whole({"content": "a"}, finish_reason=word).finish_reason == reason


def test_in_an_event_the_delta_counts() -> None:
    choice = {"delta": {"content": "b"}, "message": {"content": "ab"}}
    frame = {"choices": [choice], "response": "b"}
    assert frames.part(frame, is_event=True, relay=False).content == "b"
    assert frames.part(frame, is_event=False, relay=False).content == "ab"
    part = frames.part({"choices": [{**choice, "delta": {}}]}, is_event=True, relay=False)
    assert (part.content, part.is_message) == ("ab", True)


def test_calls_in_a_second_choice_are_joined() -> None:
    function = {"function": {"name": "f", "arguments": "{}"}}
    second = {"message": {"tool_calls": [function]}}
    frame = {"choices": [{"message": {"content": "a"}}, second, "x", {"delta": {}}]}
    part = frames.part(frame, is_event=False, relay=False)
    assert (part.content, [call.name for call in part.tool_calls]) == ("a", ["f"])


@pytest.mark.parametrize("relay", [True, False])
def test_other_keys_are_relayed_by_openai_only(relay: bool) -> None:
    usage = {"prompt_tokens": 1, "cost": 2, "prompt_tokens_details": {}}
    frame = {
        "id": "x",
        "citations": ["a"],
        "error": None,
        "choices": [{"delta": {"content": "a", "annotations": [], "x": None}, "usage": usage}],
    }
    frame["choices"][0] |= {"content_filter_results": {"hate": {}}, "stop_reason": None}
    part = frames.part(frame, is_event=True, relay=relay)
    assert part.choice == ({"content_filter_results": {"hate": {}}} if relay else {})
    assert part.extra == ({"annotations": []} if relay else {})
    assert part.fields == ({"citations": ["a"]} if relay else {})
    assert part.usage is not None
    assert ("cost" in part.usage) is relay
    assert part.usage["prompt_tokens_details"] == {}


def test_fields_of_a_usage_chunk_without_choices() -> None:
    """Workers AI's own frames have usage too; their keys are not fields."""
    usage = {"prompt_tokens": 1}
    part = frames.part({"usage": usage, "timings": 1}, is_event=True, relay=True)
    assert (part.usage, part.fields) == (usage, {"timings": 1})
    native = {"response": "a", "p": "x", "usage": usage}
    assert frames.part(native, is_event=True, relay=True).fields == {}


@pytest.mark.parametrize("result", [None, "a", [1]])
def test_a_result_must_be_an_object(result: Any) -> None:
    with pytest.raises(ProviderError):
        frames.part({"result": result}, is_event=False, relay=False)


@pytest.mark.parametrize("choices", [None, [], "x", [None], [["x"]], {"0": {}}])
def test_choices_that_are_none(choices: Any) -> None:
    part = frames.part({"choices": choices}, is_event=True, relay=True)
    assert not part.has_output
    assert not part.has_choices
