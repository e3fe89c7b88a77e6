"""Reads a request body: OpenAI's chat completion request, checked field by field.

https://platform.openai.com/docs/api-reference/chat/create
"""

from codecs import BOM_UTF8
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Self

from proxy import strict_json
from proxy.errors import CallerError
from proxy.strict_json import JSON

_ROLES = ("system", "developer", "user", "assistant", "tool", "function")
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
    if not body.removeprefix(BOM_UTF8).strip(b" \t\r\n"):
        raise CallerError("invalid_json", "The body is empty; send an object with 'messages'.")
    try:
        fields = strict_json.loads(body)
    except strict_json.InvalidJSON as error:
        raise CallerError("invalid_json", f"The body was refused: {error}.") from None
    if not isinstance(fields, dict):
        raise CallerError("invalid_json", "The body must be a JSON object with 'messages'.")
    for name, what in _misfits(fields, _FIELDS):
        raise CallerError("invalid_parameter", f"'{name}' must be {what}.", param=name)
    given = {name: value for name, value in fields.items() if value is not None}
    whole = {name: int(value) for name, value in given.items() if name in _WHOLE_NUMBERS}
    return given | whole


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
    if message.get("role") not in _ROLES:
        raise _bad_message(f"{at}.role", f"one of {', '.join(_ROLES)}")
    for name, what in _misfits(message, _MESSAGE_FIELDS):
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


class _Check(NamedTuple):
    """What a value must be. Types are compared exactly, since True is an int to isinstance."""

    what: str
    types: tuple[type, ...]
    fits: Callable[[Any], bool] = lambda _value: True


def _misfits(fields: JSON, checks: Mapping[str, _Check]) -> Iterator[tuple[str, str]]:
    """The names of the fields that are not what they must be, and what that is."""
    for name, value in fields.items():
        check = checks.get(name)
        if check and value is not None and not (type(value) in check.types and check.fits(value)):
            yield name, check.what


def _is_whole(number: float) -> bool:
    """As in JSON Schema, 4096.0 and 1e3 are whole numbers."""
    return abs(number) <= 1e40 and number == int(number)


_STRING = _Check("a string", (str,))
_OBJECT = _Check("an object", (dict,))
_STRING_OR_OBJECT = _Check("a string or an object", (str, dict))
_OBJECTS = _Check("a list of objects", (list,), lambda items: {*map(type, items)} <= {dict})
_STRINGS = _Check("a string or a list of strings", (str, list), lambda v: {*map(type, v)} <= {str})
_TRUE_OR_FALSE = _Check("true or false", (bool,))
_NUMBER = _Check("a number", (int, float))
_WHOLE = _Check("a whole number, at most 1e40", (int, float), _is_whole)
_LIMIT = _Check(
    "a whole number over 0, at most 1e40", (int, float), lambda n: n > 0 and _is_whole(n)
)
_ONE = _Check("1: this proxy gives one choice", (int, float), lambda number: number == 1)
_FUNCTION_CALL = _Check(
    "an object with the strings 'name' and 'arguments'",
    (dict,),
    lambda call: type(call.get("name")) is type(call.get("arguments")) is str,
)

_MESSAGE_FIELDS = {
    "name": _STRING,
    "tool_call_id": _STRING,
    "tool_calls": _OBJECTS,
    "function_call": _FUNCTION_CALL,
    "refusal": _STRING,
    "audio": _OBJECT,
}

# Types, and what this proxy itself relies on; all other ranges are left to the provider.
_NAMES: dict[_Check, tuple[str, ...]] = {
    _STRING: ("model", "reasoning_effort", "lora"),
    _STRINGS: ("stop",),
    _STRING_OR_OBJECT: ("tool_choice", "function_call"),
    _OBJECT: ("stream_options", "response_format", "logit_bias", "chat_template_kwargs"),
    _OBJECTS: ("tools", "functions"),
    _TRUE_OR_FALSE: ("stream", "logprobs", "parallel_tool_calls"),
    _LIMIT: ("max_tokens", "max_completion_tokens"),
    _WHOLE: ("top_k", "seed", "top_logprobs"),
    _ONE: ("n",),
    _NUMBER: (
        "temperature",
        "top_p",
        "frequency_penalty",
        "presence_penalty",
        "repetition_penalty",
    ),
}
_FIELDS = {name: check for check, names in _NAMES.items() for name in names}
_WHOLE_NUMBERS = {*_NAMES[_LIMIT], *_NAMES[_WHOLE], *_NAMES[_ONE]}
PARAMETERS = frozenset({"messages", *_FIELDS})
