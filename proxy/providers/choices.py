"""Reading `choices`, OpenAI's form, as providers really send it: each value may be of any type."""

from typing import Any

from proxy import strict_json
from proxy.chat_answer import FINISH_REASONS, Part, ToolCall
from proxy.errors import ProviderError
from proxy.strict_json import JSON

_OURS = {"role", "content", "reasoning", "reasoning_content", "tool_calls"}


def part(frame: JSON, *, relay: bool = False) -> Part:
    """What the first choice says, with the frame's usage; `relay`: other keys of it too."""
    choice = first_object(frame.get("choices"))
    message = first_object([choice.get("message") or choice.get("delta")])
    extra = {k: v for k, v in message.items() if k not in _OURS and v is not None} if relay else {}
    return Part(
        content=text(message.get("content")),
        reasoning=text(message.get("reasoning_content") or message.get("reasoning")),
        tool_calls=tool_calls(message.get("tool_calls")),
        finish_reason=finish_reason(choice.get("finish_reason")),
        usage=object_or_none(frame.get("usage")),
        logprobs=object_or_none(choice.get("logprobs")),
        extra=extra,
        has_choices=bool(choice),
    )


def first_object(values: Any) -> JSON:
    """The first of a list, where it is an object; else an empty one."""
    first = values[0] if isinstance(values, list) and values else None
    return first if isinstance(first, dict) else {}


def object_or_none(value: Any) -> JSON | None:
    """Where it is an object."""
    return value if isinstance(value, dict) else None


def text(value: Any) -> str | None:
    """Text, whatever it came as: Workers AI streams digits as JSON numbers."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, list) and value and all(_is_text_part(item) for item in value):
        return "".join(item["text"] for item in value)
    return strict_json.readable(value)


def _is_text_part(item: Any) -> bool:
    return isinstance(item, dict) and isinstance(item.get("text"), str)


def tool_calls(raw_calls: Any) -> tuple[ToolCall, ...]:
    """Calls in OpenAI's form, {id, function: {name, arguments}}, or flat, {name, arguments}."""
    if not isinstance(raw_calls, list):
        return ()
    return tuple(_tool_call(raw) for raw in raw_calls if isinstance(raw, dict))


def _tool_call(raw: JSON) -> ToolCall:
    function = raw["function"] if isinstance(raw.get("function"), dict) else raw
    index, name = raw.get("index"), function.get("name")
    return ToolCall(
        index=index if isinstance(index, int) and index is not True else None,
        id=text(raw.get("id") or raw.get("call_id")),
        name=name if isinstance(name, str) else None,
        arguments=text(function.get("arguments")),
    )


def finish_reason(word: Any) -> str | None:
    """One of OpenAI's four, or None where the provider gave none. Raises ProviderError."""
    if not word or not isinstance(word, str):
        return None
    if word == "error":
        raise ProviderError("provider_failed", seen="finish_reason: error")
    return _SYNONYMS.get(word, word if word in FINISH_REASONS else "stop")


_SYNONYMS = {"model_length": "length", "max_tokens": "length"}
