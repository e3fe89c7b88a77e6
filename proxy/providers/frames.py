"""Reads one JSON object, a complete answer or one event of a stream, as a `Part`.

It does so for every provider. Workers AI answers in four forms, one of them OpenAI's;
OpenAI-compatible APIs have habits of their own. Each value may be of any type.
"""

import tomllib
from pathlib import Path
from typing import Any

from proxy import strict_json, tool_calls
from proxy.completion import Part
from proxy.errors import ProviderError
from proxy.strict_json import JSON

_FRAME = {"id", "object", "created", "model", "choices", "usage", "error"}  # a false error is none
_CHOICE = {"index", "delta", "message", "finish_reason", "logprobs", "usage", "error"}
_TEXTS = {"content", "refusal", "reasoning", "reasoning_content"}
_MESSAGE = _TEXTS | {"role", "tool_calls", "finish_reason"}
_OWN = {"result", "response", "output", "tool_calls"}  # where Workers AI's own form has the answer

MEANINGS = tomllib.loads(Path(__file__).with_name("meanings.toml").read_text("utf-8"))
_FINISH_REASONS: dict[str, str] = {
    word: reason for reason, words in MEANINGS["finish_reasons"].items() for word in words
}


def part(frame: JSON, *, is_event: bool, relay: bool) -> Part:
    """What a frame adds. `relay`: keep keys that this proxy does not know. Raises ProviderError,
    also where the finish_reason says that the provider failed.

    In an event `delta` counts before `message`, which some repeat in full beside each delta; and
    both before Workers AI's own `response`, which repeats the same text."""
    result = _result(frame, is_event)
    choices: Any = result.get("choices")
    choice = first_object(choices)
    delta, message = _object(choice.get("delta")), _object(choice.get("message"))
    is_delta = (is_event and delta) if message else isinstance(choice.get("delta"), dict)
    added = delta if is_delta else _with_own(message, result)
    is_message = not is_delta and (bool(choice) or not is_event)
    raw_calls = added.get("tool_calls")
    if choice and len(choices) > 1:  # some put text and calls into two choices
        raw_calls = [call for each in choices for call in _calls_in(each)] or raw_calls
    calls = tool_calls.pieces(raw_calls, relay=relay)
    reasons = (each.get("finish_reason") for each in (choice, added, result))
    reason = finish_reason(next(filter(None, reasons), None))
    usage = _object(result.get("usage") or choice.get("usage"))
    if usage and not relay:  # without keys of Workers AI's own, such as `neurons`
        usage = {k: v for k, v in usage.items() if k.endswith(("_tokens", "_tokens_details"))}
    is_relayed = relay and ("choices" in frame or ("usage" in frame and _OWN.isdisjoint(frame)))
    fields = strict_json.others(frame, _FRAME) if is_relayed else {}
    beside = strict_json.others(choice, _CHOICE) if relay else {}
    if logprobs := _object(choice.get("logprobs")):
        beside["logprobs"] = logprobs
    delta = _delta(added, relay)
    return Part(delta, calls, reason, usage, beside, fields, bool(choice), is_message)


def _result(frame: JSON, is_event: bool) -> JSON:
    """The object that has the answer: the frame, or Workers AI's `result` in it."""
    if is_event and frame.get("type") and "choices" not in frame:
        return {}  # an event of another kind, as of OpenAI's Responses
    result = frame if "choices" in frame else frame.get("result", frame)
    if not isinstance(result, dict):
        raise ProviderError("provider_bad_answer", seen="a result that is no object")
    return result


def _with_own(message: JSON, result: JSON) -> JSON:
    """The message, with what it lacks from Workers AI's own form, {response, tool_calls}, or from
    that of OpenAI's Responses, {output, status} (gpt-oss with `input`)."""
    content, calls, reason = result.get("response"), result.get("tool_calls"), None
    if content and isinstance(content, list):  # JSON mode
        content = strict_json.readable(content)
    if isinstance(result.get("output"), list):
        items = [item for item in result["output"] if isinstance(item, dict)]
        content = [item for item in items if item.get("type") in ("message", "reasoning")]
        calls = [item for item in items if item.get("type") == "function_call"]
        reason = "length" if result.get("status") == "incomplete" else None
    own = {"content": content, "tool_calls": calls, "finish_reason": reason}
    given = {k: v for k, v in message.items() if v or (v is not None and not own.get(k))}
    return own | given


def _delta(added: JSON, relay: bool) -> JSON:
    """What a message or a delta has, in OpenAI's form."""
    delta = strict_json.others(added, _MESSAGE) if relay else {}
    content, thoughts = text_and_thoughts(added.get("content"))
    reasoning = added.get("reasoning_content") or added.get("reasoning") or thoughts
    if reasoning and (reasoning := text(reasoning)):
        delta["reasoning_content"] = reasoning
    if content is not None:
        delta["content"] = content
    if (refusal := added.get("refusal")) and (refusal := text(refusal)):
        delta["refusal"] = refusal
    return delta


def _calls_in(choice: Any) -> list[Any]:
    choice = _object(choice)
    calls = (_object(choice.get("delta")) or _object(choice.get("message"))).get("tool_calls")
    return calls if isinstance(calls, list) else []


def first_object(values: Any) -> JSON:
    """The first of a list if it is an object, else an empty one."""
    return _object(values[0] if isinstance(values, list) and values else None)


def _object(value: Any) -> JSON:
    return value if isinstance(value, dict) else {}


def text(value: Any) -> str:
    """A text, also from a number (Workers AI streams digits so) or from parts."""
    return "".join(filter(None, text_and_thoughts(value)))


def text_and_thoughts(value: Any) -> tuple[str | None, str | None]:
    """The content, and the reasoning among its parts. An unknown part becomes its JSON."""
    if value is None or isinstance(value, str):
        return value, None
    if not isinstance(value, list) or not any(map(_kind, value)):
        return None if value == [] else strict_json.readable(value), None
    texts: dict[str, list[str]] = {"text": [], "thinking": []}
    for item in value:
        if kind := _kind(item):
            texts[kind].append(text(next(item[key] for key in _INNER if key in item)))
        else:
            texts["text"].append(item if isinstance(item, str) else strict_json.readable(item))
    content, thoughts = ("".join(found) if found else None for found in texts.values())
    return content, thoughts


def _kind(item: Any) -> str | None:
    """`text` or `thinking`; None if it is not a part of a content, or an unknown one."""
    if not isinstance(item, dict) or item.keys().isdisjoint(_INNER):
        return None
    if not item.get("type"):
        return "text" if isinstance(item.get("text"), str | list) else None
    return _PARTS.get(str(item["type"]))


_INNER = ("content", "text", "thinking", "reasoning", "summary", "refusal")  # of these it has one
_PARTS = dict.fromkeys(("message", "text", "output_text", "refusal"), "text")
_PARTS |= dict.fromkeys(("thinking", "reasoning", "reasoning_text", "summary_text"), "thinking")


def finish_reason(word: Any) -> str | None:
    """One of OpenAI's words; None while the answer is not finished. Raises ProviderError."""
    if not isinstance(word, str):
        return None
    word = as_word(word)
    reason = _FINISH_REASONS.get(word, "error" if word.endswith("error") else "stop")
    if reason == "error":
        raise ProviderError("provider_failed", seen="finish_reason: an error")
    return None if reason == "none" else reason


def as_word(text: str) -> str:
    """The text as the tables in meanings.toml spell it."""
    return text.strip().lower().replace("-", "_").replace(" ", "_")
