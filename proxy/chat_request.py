"""Reads a request body: OpenAI's chat completion request, checked field by field.

https://platform.openai.com/docs/api-reference/chat/create
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Any, Self

from proxy import strict_json
from proxy.errors import CallerError
from proxy.strict_json import JSON

ROLES = ("system", "developer", "user", "assistant", "tool", "function")
_INSTEAD_OF_CONTENT = ("tool_calls", "function_call", "refusal", "audio")  # in an assistant's


@dataclass(frozen=True)
class ChatRequest:
    """A valid request. It has the `id` and `created` of its answer."""

    id: str
    created: int  # seconds since 1970, UTC
    model: str  # the public name
    messages: list[JSON]
    stream: bool
    include_usage: bool  # whether the caller of a stream wants the usage chunk
    options: JSON  # all other fields, by name, without those that are null

    @classmethod
    def from_json(cls, body: bytes, models: Collection[str], *, id: str, created: int) -> Self:
        """Check a body. `models`: the public names, the default first. Raises CallerError."""
        options = _fields(body)
        return cls(
            id=id,
            created=created,
            model=_model(options.pop("model", None), models),
            messages=_messages(options.pop("messages", None)),
            stream=options.pop("stream", False),
            include_usage=options.get("stream_options", {}).get("include_usage") is True,
            options=options,
        )

    def without_input(self) -> Self:
        """As much as its answer needs: the provider may think for minutes, and memory is short."""
        needed = ("max_completion_tokens", "max_tokens", "tool_choice")
        options = {name: value for name, value in self.options.items() if name in needed}
        return replace(self, messages=[], options=options)

    @property
    def max_tokens(self) -> int | None:
        """The limit for the answer, by its present name or its former one."""
        limit: int | None = self.options.get("max_completion_tokens")
        return limit or self.options.get("max_tokens")

    @property
    def forces_function(self) -> bool:
        """Whether the caller named the function to call; OpenAI then finishes with `stop`."""
        choice = self.options.get("tool_choice")
        return isinstance(choice, dict) and choice.get("type") in ("function", "custom")


def _fields(body: bytes) -> JSON:
    if not body.strip(b" \t\r\n"):
        raise CallerError("invalid_json", "The body is empty; send an object with 'messages'.")
    try:
        fields = strict_json.loads(body)
    except strict_json.InvalidJSON as error:
        raise CallerError("invalid_json", f"The body was refused: {error}.") from None
    if not isinstance(fields, dict):
        raise CallerError("invalid_json", "The body must be a JSON object with 'messages'.")
    given = {name: value for name, value in fields.items() if value is not None}
    for name in sorted(given.keys() & _CHECKS.keys()):
        fits, what = _CHECKS[name]
        if not fits(given[name]):
            raise CallerError("invalid_parameter", f"'{name}' must be {what}.", param=name)
        if fits in _WHOLE_NUMBERS:
            given[name] = int(given[name])  # 4096.0 is one too
    return given


def _model(model: str | None, models: Collection[str]) -> str:
    if model is None:
        return next(iter(models))
    if model not in models:
        allowed = f"This proxy does not offer that model; it offers: {', '.join(models)}."
        raise CallerError("model_not_allowed", allowed, param="model")
    return model


def _messages(messages: Any) -> list[JSON]:
    if not isinstance(messages, list) or not messages:
        raise _bad_message("messages", "a list of at least one message")
    for index, message in enumerate(messages):
        _check_message(f"messages[{index}]", message)
    return messages


def _check_message(at: str, message: Any) -> None:
    if not isinstance(message, dict):
        raise _bad_message(at, "an object with 'role' and 'content'")
    if message.get("role") not in ROLES:
        raise _bad_message(f"{at}.role", f"one of {', '.join(ROLES)}")
    for name, value in message.items():
        if name in _MESSAGE_CHECKS and value is not None:
            fits, what = _MESSAGE_CHECKS[name]
            if not fits(value):
                raise _bad_message(f"{at}.{name}", what)
    content = message.get("content")
    if isinstance(content, list):
        _check_content_parts(f"{at}.content", content)
    elif not isinstance(content, str) and (content is not None or not _may_lack_content(message)):
        instead = ", ".join(_INSTEAD_OF_CONTENT)
        what = f"a string or a list of parts (null only in an assistant's message with {instead})"
        raise _bad_message(f"{at}.content", what)


def _may_lack_content(message: JSON) -> bool:
    return message["role"] == "assistant" and any(message.get(n) for n in _INSTEAD_OF_CONTENT)


def _check_content_parts(at: str, parts: list[Any]) -> None:
    if not parts:
        raise _bad_message(at, "a list of at least one part")
    for index, part in enumerate(parts):
        if not isinstance(part, dict) or not isinstance(part.get("type"), str):
            raise _bad_message(f"{at}[{index}]", "an object with a 'type'")
        if part["type"] == "text" and not isinstance(part.get("text"), str):
            raise _bad_message(f"{at}[{index}].text", "a string")


def _bad_message(at: str, what: str) -> CallerError:
    return CallerError("invalid_messages", f"'{at}' must be {what}.", param=at)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)  # True is an int


def _is_whole(value: Any) -> bool:
    """As in JSON Schema, 4096.0 and 1e3 are whole numbers."""
    return _is_number(value) and abs(value) <= _MAX_WHOLE and value == int(value)


def _is_at_least_one(value: Any) -> bool:
    return _is_whole(value) and value > 0


def _is_one(value: Any) -> bool:
    return _is_whole(value) and value == 1


def _is_list_of(kind: type, value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, kind) for item in value)


def _is_function_call(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(value.get(name), str) for name in ("name", "arguments")
    )


_MAX_WHOLE = 1e40
_WHOLE_NUMBERS = (_is_whole, _is_at_least_one, _is_one)

_Check = tuple[Callable[[Any], bool], str]
_TRUE_OR_FALSE: _Check = (lambda value: isinstance(value, bool), "true or false")
_STRING: _Check = (lambda value: isinstance(value, str), "a string")
_OBJECT: _Check = (lambda value: isinstance(value, dict), "an object")
_STRING_OR_OBJECT: _Check = (lambda value: isinstance(value, str | dict), "a string or an object")
_OBJECTS: _Check = (lambda value: _is_list_of(dict, value), "a list of objects")
_NUMBER: _Check = (_is_number, "a number")
_WHOLE: _Check = (_is_whole, "a whole number, at most 1e40")
_AT_LEAST_ONE: _Check = (_is_at_least_one, "a whole number over 0, at most 1e40")

_MESSAGE_CHECKS: dict[str, _Check] = {
    "name": _STRING,
    "tool_call_id": _STRING,
    "tool_calls": _OBJECTS,
    "function_call": (_is_function_call, "an object with the strings 'name' and 'arguments'"),
    "refusal": _STRING,
    "audio": _OBJECT,
}

# Types, and what our own work rests on; all other ranges are the provider's business.
_CHECKS: dict[str, _Check] = {
    "model": _STRING,
    "stream": _TRUE_OR_FALSE,
    "stream_options": _OBJECT,
    "max_tokens": _AT_LEAST_ONE,
    "max_completion_tokens": _AT_LEAST_ONE,
    "n": (_is_one, "1: this proxy gives one choice"),
    "temperature": _NUMBER,
    "top_p": _NUMBER,
    "frequency_penalty": _NUMBER,
    "presence_penalty": _NUMBER,
    "repetition_penalty": _NUMBER,
    "top_k": _WHOLE,
    "seed": _WHOLE,
    "top_logprobs": _WHOLE,
    "logprobs": _TRUE_OR_FALSE,
    "parallel_tool_calls": _TRUE_OR_FALSE,
    "stop": (
        lambda value: isinstance(value, str) or _is_list_of(str, value),
        "a string or a list of strings",
    ),
    "tools": _OBJECTS,
    "tool_choice": _STRING_OR_OBJECT,
    "functions": _OBJECTS,
    "function_call": _STRING_OR_OBJECT,
    "response_format": _OBJECT,
    "logit_bias": _OBJECT,
    "chat_template_kwargs": _OBJECT,
    "reasoning_effort": _STRING,
    "lora": _STRING,
}

PARAMETERS = frozenset({"messages", *_CHECKS})
