"""Reading `choices`, OpenAI's form, whatever the values came as."""

from typing import Any

import pytest

from proxy.chat_answer import Part, ToolCall
from proxy.errors import ProviderError
from proxy.providers import choices


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, None),
        ("", ""),
        ("Hi", "Hi"),
        (4, "4"),
        (0, "0"),
        (4.5, "4.5"),
        (True, "true"),
        ({"a": "é"}, '{"a":"é"}'),
        ({}, "{}"),
        ([1, 2], "[1,2]"),
        ([{"type": "text", "text": "a"}, {"text": "b"}], "ab"),
        (
            [{"type": "text", "text": "a"}, {"type": "x"}],
            '[{"type":"text","text":"a"},{"type":"x"}]',
        ),
    ],
)
def test_text(value: Any, text: str | None) -> None:
    """Numbers are tokens, objects are JSON mode's, and nothing stays nothing."""
    assert choices.text(value) == text


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("stop", "stop"),
        ("length", "length"),
        ("tool_calls", "tool_calls"),
        ("content_filter", "content_filter"),
        ("model_length", "length"),
        ("max_tokens", "length"),
        ("other", "stop"),
        ("unknown", "stop"),
        ("eos", "stop"),
        ("", None),
        (None, None),
        (1, None),
        ({}, None),
    ],
)
def test_finish_reasons(word: Any, reason: str | None) -> None:
    """One of OpenAI's four, or none."""
    assert choices.finish_reason(word) == reason


def test_the_finish_reason_error_is_a_failure() -> None:
    with pytest.raises(ProviderError) as caught:
        choices.finish_reason("error")
    assert caught.value.code == "provider_failed"


@pytest.mark.parametrize(
    ("raw", "call"),
    [
        (
            {"index": 1, "id": "c", "function": {"name": "f", "arguments": '{"a":1}'}},
            ToolCall(1, "c", "f", '{"a":1}'),
        ),
        ({"name": "f", "arguments": {"a": 1}}, ToolCall(None, None, "f", '{"a":1}')),
        ({"id": "c", "function": {"name": "f"}}, ToolCall(None, "c", "f", None)),
        ({"call_id": "c", "name": "f", "arguments": "{}"}, ToolCall(None, "c", "f", "{}")),
        ({"index": "1", "id": 7, "name": 7}, ToolCall(None, "7", None, None)),
        ({"function": None, "name": "f"}, ToolCall(None, None, "f", None)),
        (
            {"index": None, "function": {"name": None, "arguments": None}},
            ToolCall(None, None, None, None),
        ),
    ],
)
def test_tool_calls(raw: dict[str, Any], call: ToolCall) -> None:
    """Nested or flat, with object or string arguments, with and without ids."""
    assert choices.tool_calls([raw]) == (call,)


@pytest.mark.parametrize("raw", [None, {}, "f", 1, [], [None], ["f"], [[]]])
def test_what_is_no_tool_call(raw: Any) -> None:
    assert choices.tool_calls(raw) == ()


def test_a_bool_is_no_index() -> None:
    """True would be index 1."""
    assert choices.tool_calls([{"index": True, "name": "f"}])[0].index is None


@pytest.mark.parametrize(
    ("frame", "part"),
    [
        ({}, Part(has_choices=False)),
        ({"choices": None}, Part(has_choices=False)),
        ({"choices": []}, Part(has_choices=False)),
        ({"choices": {}}, Part(has_choices=False)),
        ({"choices": ["a"]}, Part(has_choices=False)),
        ({"choices": [{"message": {"content": "a"}}]}, Part(content="a")),
        ({"choices": [{"delta": {"content": "a"}}]}, Part(content="a")),
        ({"choices": [{"delta": None, "finish_reason": "stop"}]}, Part(finish_reason="stop")),
        ({"choices": [{"delta": "a", "finish_reason": "stop"}]}, Part(finish_reason="stop")),
        ({"choices": [{"message": {"reasoning": "a"}}]}, Part(reasoning="a")),
        ({"choices": [{"message": {"reasoning_content": "a"}}]}, Part(reasoning="a")),
        (
            {"choices": [{"message": {"reasoning_content": "a", "reasoning": "a"}}]},
            Part(reasoning="a"),
        ),
        (
            {"choices": [{"delta": {"content": "a"}}, {"delta": {"content": "b"}}]},
            Part(content="a"),
        ),
        (
            {"choices": [], "usage": {"total_tokens": 1}},
            Part(usage={"total_tokens": 1}, has_choices=False),
        ),
        ({"choices": [], "usage": "1"}, Part(has_choices=False)),
        (
            {"choices": [{"delta": {"content": "a"}, "logprobs": {"content": []}}]},
            Part(content="a", logprobs={"content": []}),
        ),
        ({"choices": [{"delta": {"content": "a"}, "logprobs": [1]}]}, Part(content="a")),
    ],
)
def test_parts(frame: dict[str, Any], part: Part) -> None:
    """The first choice, whole or as a delta; what is of no use is as if it were not there."""
    assert choices.part(frame) == part


def test_more_keys_are_relayed_only_where_it_is_asked_for() -> None:
    frame = {"choices": [{"message": {"content": "a", "refusal": "No.", "audio": None}}]}
    assert choices.part(frame).extra == {}
    assert choices.part(frame, relay=True).extra == {"refusal": "No."}
