"""What a frame adds, whatever its values came as."""

from typing import Any

import pytest

from proxy.completion import Part
from proxy.errors import ProviderError
from proxy.providers import frames


def event(delta: Any, **more: Any) -> Part:
    return frames.part({"choices": [{"delta": delta, **more}]}, is_event=True, relay=True)


def whole(message: Any, **more: Any) -> Part:
    return frames.part({"choices": [{"message": message, **more}]}, is_event=False, relay=True)


def typed(kind: Any, **inner: Any) -> dict[str, Any]:
    return {"type": kind, **inner}


TEXT = typed("text", text="a")
IN_PARTS: dict[str, tuple[Any, str | None, str | None]] = {  # content, reasoning
    "text": ("a", "a", None),
    "null": (None, None, None),
    "a number": (42, "42", None),
    "an object": ({"a": 1}, '{"a":1}', None),
    "an empty list": ([], None, None),
    "text parts": ([TEXT, typed("output_text", text="b")], "ab", None),
    "a part without a type": ([{"text": "a"}], "a", None),
    "thinking": ([typed("thinking", thinking="a")], None, "a"),
    "thinking in parts": ([typed("thinking", thinking=[TEXT]), {"text": "b"}], "b", "a"),
    "reasoning": ([typed("reasoning", text="a"), typed("reasoning", reasoning="b")], None, "ab"),
    "its summary": ([typed("reasoning", summary=[typed("summary_text", text="a")])], None, "a"),
    "a refusal": ([typed("refusal", refusal="a")], "a", None),
    "a text that is null": ([typed("text", text=None), {"text": "a"}], "a", None),
    "a part without a text": ([{"type": "text"}, TEXT], '{"type":"text"}a', None),
    "a number as text": ([typed("text", text=4)], "4", None),
    "objects of the model's own": ([{"a": 1}, {"summary": "b"}], '[{"a":1},{"summary":"b"}]', None),
    "an unknown part": ([{"text": "a"}, typed("x", text=1)], 'a{"type":"x","text":1}', None),
    "text among parts": ([{"text": "a"}, "b"], "ab", None),
    "a list of anything": ([1, "a"], '[1,"a"]', None),
    "a type that is a list": ([typed(["text"], text="a")], '[{"type":["text"],"text":"a"}]', None),
}


@pytest.mark.parametrize(("value", "content", "reasoning"), IN_PARTS.values(), ids=IN_PARTS)
def test_content_in_parts(value: Any, content: str | None, reasoning: str | None) -> None:
    texts = {"content": content, "reasoning_content": reasoning}
    expected = {name: text for name, text in texts.items() if text is not None}
    for part in (event({"content": value}), whole({"content": value})):
        assert part.delta == expected


@pytest.mark.parametrize(
    ("delta", "reasoning"),
    [
        ({"reasoning": "a", "reasoning_content": "b"}, {"reasoning_content": "b"}),
        ({"reasoning": "a"}, {"reasoning_content": "a"}),
        ({"reasoning": [typed("thinking", thinking="a")]}, {"reasoning_content": "a"}),
        ({"reasoning_content": ""}, {}),
        ({"reasoning_content": [typed("text", text="")]}, {}),
        ({"refusal": [typed("refusal", refusal="a")]}, {"refusal": "a"}),
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
    assert whole({"content": "a"}, finish_reason=value).finish_reason is None


def test_a_message_beside_an_empty_delta() -> None:
    """More of what counts in an event: provider_cases/perplexity_*."""
    part = event({}, message={"content": "ab"})
    assert (part.delta, part.is_message) == ({"content": "ab"}, True)


@pytest.mark.parametrize("is_event", [True, False])
def test_the_provider_s_own_form(is_event: bool) -> None:
    """OpenAI's Responses; as a whole answer it is a message, so each of its calls is one."""
    reasoning = typed("reasoning", summary=[typed("summary_text", text="h")])
    output = [reasoning, None, typed("message", content=[typed("output_text", text="a")])]
    frame = {"result": {"output": output, "status": "incomplete"}}
    part = frames.part(frame, is_event=is_event, relay=False)
    assert part.delta == {"reasoning_content": "h", "content": "a"}
    assert (part.finish_reason, part.has_choices) == ("length", False)
    assert part.is_message is not is_event


@pytest.mark.parametrize(
    ("content", "response", "delta"),
    [("a", "b", "a"), ("", "b", "b"), (None, "", ""), ("", [], ""), (0, None, "0")],
)
def test_the_text_in_both_forms(content: Any, response: Any, delta: str) -> None:
    frame = {"choices": [{"message": {"content": content}}], "response": response}
    assert frames.part(frame, is_event=False, relay=False).delta == {"content": delta}


def test_calls_in_a_second_choice_are_joined() -> None:
    function = {"function": {"name": "f", "arguments": "{}"}}
    second = {"message": {"tool_calls": [function]}}
    frame = {"choices": [{"message": {"content": "a"}}, second, "x", {"delta": {}}]}
    part = frames.part(frame, is_event=False, relay=False)
    assert (part.delta, [call.name for call in part.calls]) == ({"content": "a"}, ["f"])


@pytest.mark.parametrize("relay", [True, False])
def test_other_keys_are_relayed_by_openai_only(relay: bool) -> None:
    delta = {"content": "a", "annotations": [], "x": None}
    usage = {"prompt_tokens": 1, "cost": 2, "prompt_tokens_details": {}}
    choice = {"delta": delta, "usage": usage, "content_filter_results": {}, "stop_reason": None}
    frame = {"id": "x", "citations": ["a"], "error": None, "choices": [choice]}
    part = frames.part(frame, is_event=True, relay=relay)
    assert part.choice == ({"content_filter_results": {}} if relay else {})
    assert part.delta == {"content": "a"} | ({"annotations": []} if relay else {})
    assert part.fields == ({"citations": ["a"]} if relay else {})
    assert part.usage == (usage if relay else {"prompt_tokens": 1, "prompt_tokens_details": {}})


@pytest.mark.parametrize("relay", [True, False])
def test_logprobs_are_relayed_by_all(relay: bool) -> None:
    for logprobs, choice in (({"content": []}, {"logprobs": {"content": []}}), ([1], {})):
        frame = {"choices": [{"delta": {"content": "a"}, "logprobs": logprobs}]}
        assert frames.part(frame, is_event=True, relay=relay).choice == choice


def test_fields_of_a_usage_chunk_without_choices() -> None:
    """Workers AI's own frames have usage too; their keys are not fields."""
    usage = {"prompt_tokens": 1}
    part = frames.part({"usage": usage, "timings": 1}, is_event=True, relay=True)
    assert (part.usage, part.fields) == (usage, {"timings": 1})
    for own in ({"response": "a"}, {"tool_calls": []}):
        native = {**own, "p": "x", "usage": usage}
        assert frames.part(native, is_event=True, relay=True).fields == {}


@pytest.mark.parametrize("result", [None, "a", [1]])
def test_a_result_must_be_an_object(result: Any) -> None:
    with pytest.raises(ProviderError):
        frames.part({"result": result}, is_event=False, relay=False)


@pytest.mark.parametrize("choices", [None, [], "x", [None], [["x"]], {"0": {}}])
def test_choices_that_are_none(choices: Any) -> None:
    part = frames.part({"choices": choices}, is_event=True, relay=True)
    assert (part.delta, part.calls, part.has_choices) == ({}, [], False)
