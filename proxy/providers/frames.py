"""Reads one JSON object, a complete answer or one event of a stream, as a `Part`.

It does so for every provider. Workers AI answers in four forms, one of them OpenAI's;
OpenAI-compatible APIs have habits of their own. Each value may be of any type.
"""

import tomllib
from pathlib import Path
from typing import Any

from proxy import strict_json, tool_calls
from proxy.errors import ProviderError
from proxy.part import Part
from proxy.strict_json import JSON

_FRAME = {"id", "object", "created", "model", "choices", "usage", "error"}  # a false error is none
_CHOICE = {"index", "delta", "message", "finish_reason", "logprobs", "usage", "error"}
_MESSAGE = {"role", "content", "refusal", "reasoning", "reasoning_content", "tool_calls"}
_OWN = {"result", "response", "output"}  # where Workers AI's own form has the answer
_COUNTS = {"prompt_tokens", "completion_tokens", "total_tokens", "input_tokens", "output_tokens"}

MEANINGS = tomllib.loads(Path(__file__).with_name("meanings.toml").read_text("utf-8"))
_FINISH_REASONS: dict[str, str] = {
    word: reason for reason, words in MEANINGS["finish_reasons"].items() for word in words
}


def part(frame: JSON, *, is_event: bool, relay: bool) -> Part:
    """What a frame adds. `relay`: keep keys that this proxy does not know. Raises ProviderError.

    In an event `delta` is read before `message`, since some send all the text so far beside each
    delta; and both before Workers AI's own `response`, which repeats the same text.
    """
    result = frame if "choices" in frame else frame.get("result", frame)
    if not isinstance(result, dict):
        raise ProviderError("provider_bad_answer", seen="a result that is no object")
    choices = result.get("choices")
    choice = first_object(choices)
    beside: dict[str, Any] = {}
    if usage := _object(result.get("usage") or choice.get("usage")):
        beside["usage"] = usage if relay else _counts(usage)
    if relay and not frame.keys() <= _FRAME:
        is_usage = "usage" in frame and _OWN.isdisjoint(frame)
        if "choices" in frame or is_usage:
            beside["fields"] = {key: frame[key] for key in frame if key not in _FRAME}
    if not choice:
        return _native(result, beside)
    delta, message = choice.get("delta"), _object(choice.get("message"))
    if isinstance(delta, dict) and (not message or (is_event and delta)):
        return _of_message(delta, choice, choices, beside, relay=relay)
    whole = _of_message(message or {}, choice, choices, beside, relay=relay, is_message=True)
    native = _native(result, {})
    return whole._replace(
        content=whole.content if native.content is None else whole.content or native.content,
        tool_calls=whole.tool_calls or native.tool_calls,
        finish_reason=whole.finish_reason or native.finish_reason,
    )


def _of_message(
    message: JSON,
    choice: JSON,
    choices: Any,
    beside: dict[str, Any],
    *,
    relay: bool,
    is_message: bool = False,
) -> Part:
    """What a message or a delta adds; `beside` has what stands beside it."""
    content = message.get("content")
    reasoning = message.get("reasoning_content") or message.get("reasoning")
    if content is not None and not isinstance(content, str):
        content, thoughts = text_and_thoughts(content)
        reasoning = reasoning or thoughts
    raw_calls = message.get("tool_calls")
    if len(choices) > 1:  # some put text and calls into two choices
        raw_calls = [call for each in choices for call in _calls_in(each)]
    if relay and not (message.keys() <= _MESSAGE and choice.keys() <= _CHOICE):
        beside["extra"] = strict_json.others(message, _MESSAGE)
        beside["choice"] = strict_json.others(choice, _CHOICE)
    refusal, reason = message.get("refusal"), choice.get("finish_reason")
    return Part(  # most have content and nothing else
        content,
        text(reasoning) if reasoning else None,
        text(refusal) if refusal else None,
        tool_calls.pieces(raw_calls, relay=relay, is_message=is_message) if raw_calls else (),
        finish_reason(reason) if reason else None,
        logprobs=_object(choice.get("logprobs")),
        is_message=is_message,
        **beside,
    )


def _calls_in(choice: Any) -> list[Any]:
    message = _object(choice) or {}
    message = _object(message.get("delta")) or _object(message.get("message")) or {}
    calls = message.get("tool_calls")
    return calls if isinstance(calls, list) else []


def _native(result: JSON, beside: dict[str, Any]) -> Part:
    """Workers AI's own form, {response, tool_calls, finish_reason}, or that of OpenAI's Responses,
    {output, status} (gpt-oss with `input`)."""
    content, reasoning = result.get("response"), None
    if not isinstance(content, str):
        content, reasoning = text_and_thoughts(content)
    raw_calls, reason = result.get("tool_calls"), result.get("finish_reason")
    if isinstance(result.get("output"), list):
        outputs = [item for item in result["output"] if isinstance(item, dict)]
        content, reasoning = _joined(outputs, "message"), _joined(outputs, "reasoning")
        raw_calls = [item for item in outputs if item.get("type") == "function_call"]
        reason = "length" if result.get("status") == "incomplete" else None
    return Part(
        content,
        reasoning,
        tool_calls=tool_calls.pieces(raw_calls) if raw_calls else (),
        finish_reason=finish_reason(reason) if reason else None,
        has_choices=False,
        **beside,
    )


def _joined(outputs: list[JSON], kind: str) -> str | None:
    texts = [text(item.get("content")) or "" for item in outputs if item.get("type") == kind]
    return "".join(texts) if texts else None


def first_object(values: Any) -> JSON:
    """The first of a list if it is an object, else an empty one."""
    return (_object(values[0]) if isinstance(values, list) and values else None) or {}


def _object(value: Any) -> JSON | None:
    return value if isinstance(value, dict) else None


def _counts(usage: JSON) -> JSON:
    """The token counts, without keys of Workers AI's own such as `neurons`."""
    return {k: v for k, v in usage.items() if k in _COUNTS or k.endswith("_tokens_details")}


def text(value: Any) -> str | None:
    """A text, also from a number (Workers AI streams digits so) or from parts."""
    if value is None or isinstance(value, str):
        return value
    content, thoughts = text_and_thoughts(value)
    return content if thoughts is None else (content or "") + thoughts


def text_and_thoughts(value: Any) -> tuple[str | None, str | None]:
    """The content, and the reasoning among its parts. An unknown part becomes its JSON."""
    if value is None or isinstance(value, str):
        return value, None
    if value == []:
        return None, None
    if not isinstance(value, list) or not any(map(_kind, value)):
        return strict_json.readable(value), None
    texts: dict[str, list[str]] = {"text": [], "thinking": []}
    for item in value:
        kind = _kind(item)
        if kind:
            texts[kind].append(text(_inner(item)) or "")
        else:
            texts["text"].append(item if isinstance(item, str) else strict_json.readable(item))
    content, thoughts = ("".join(texts[kind]) if texts[kind] else None for kind in texts)
    return content, thoughts


def _kind(item: Any) -> str:
    """`text` or `thinking`; empty if it is not a part of a content, or an unknown one."""
    if not isinstance(item, dict) or item.keys().isdisjoint(_INNER):
        return ""
    if not item.get("type"):
        return "text" if isinstance(item.get("text"), str | list) else ""
    return _PARTS.get(str(item["type"]), "")


def _inner(item: JSON) -> Any:
    """The text of a part of a content, or a list of such parts."""
    return next(item[key] for key in _INNER if key in item)


_INNER = ("text", "thinking", "reasoning", "summary", "refusal")


_PARTS = {
    "text": "text",
    "output_text": "text",
    "refusal": "text",
    "thinking": "thinking",
    "reasoning": "thinking",
    "reasoning_text": "thinking",
    "summary_text": "thinking",
}


def finish_reason(word: Any) -> str | None:
    """One of OpenAI's words, or `part.FAILED`; None while the answer is not finished."""
    if not isinstance(word, str):
        return None
    word = as_word(word)
    reason = _FINISH_REASONS.get(word, "error" if word.endswith("error") else "stop")
    return None if reason == "none" else reason


def as_word(text: str) -> str:
    """The text as the tables in meanings.toml spell it."""
    return text.strip().lower().replace("-", "_").replace(" ", "_")
