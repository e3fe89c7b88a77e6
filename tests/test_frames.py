"""What a frame adds, whatever its values came as; most of its forms are in test_provider_cases."""

from typing import Any

import pytest

from proxy.completion import Part
from proxy.providers import frames


def event(delta: Any, **more: Any) -> Part:
    return frames.part({"choices": [{"delta": delta, **more}]}, is_event=True, relay=True)


@pytest.mark.parametrize(
    ("delta", "reasoning"),
    [
        ({"reasoning": "a", "reasoning_content": "b"}, {"reasoning_content": "b"}),
        ({"reasoning": "a"}, {"reasoning_content": "a"}),
        ({"reasoning": [{"type": "thinking", "thinking": "a"}]}, {"reasoning_content": "a"}),
        ({"reasoning_content": ""}, {}),
        ({"reasoning_content": [{"type": "text", "text": ""}]}, {}),
        ({"refusal": [{"type": "refusal", "refusal": "a"}]}, {"refusal": "a"}),
        ({"refusal": ""}, {}),
        ({"refusal": [""]}, {"refusal": '[""]'}),
    ],
)
def test_reasoning_and_refusal(delta: Any, reasoning: Any) -> None:
    """By their names, in parts, and only where there is some."""
    assert event(delta).delta == reasoning


@pytest.mark.parametrize("value", ["", None, "null", " ", 7, True, ["stop"]])
def test_finish_reasons_that_are_none(value: Any) -> None:
    """The words are in corpus/finish_words.json."""
    assert event({}, finish_reason=value).finish_reason is None


@pytest.mark.parametrize("relay", [True, False])
def test_other_keys_are_relayed_by_openai_only(relay: bool) -> None:
    """Of those in the choice, logprobs by all."""
    delta = {"content": "a", "annotations": [], "x": None}
    usage = {"prompt_tokens": 1, "cost": 2, "prompt_tokens_details": {}}
    logprobs = {"logprobs": {"content": []}}
    choice = {"delta": delta, "usage": usage, "content_filter_results": {}, "x": None, **logprobs}
    frame = {"id": "x", "citations": ["a"], "error": None, "choices": [choice]}
    part = frames.part(frame, is_event=True, relay=relay)
    assert part.choice == logprobs | ({"content_filter_results": {}} if relay else {})
    assert part.delta == {"content": "a"} | ({"annotations": []} if relay else {})
    assert part.fields == ({"citations": ["a"]} if relay else {})
    assert part.usage == (usage if relay else {"prompt_tokens": 1, "prompt_tokens_details": {}})


def test_logprobs_that_are_no_object_are_none() -> None:
    assert event({"content": "a"}, logprobs=[1]).choice == {}


def test_fields_of_a_usage_chunk_without_choices() -> None:
    """Workers AI's own frames have usage too; their keys are not fields."""
    usage = {"prompt_tokens": 1}
    part = frames.part({"usage": usage, "timings": 1}, is_event=True, relay=True)
    assert (part.usage, part.fields) == (usage, {"timings": 1})
    for own in ({"response": "a"}, {"tool_calls": []}):
        native = {**own, "p": "x", "usage": usage}
        assert frames.part(native, is_event=True, relay=True).fields == {}
