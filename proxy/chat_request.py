"""Reads a request body: OpenAI's chat completion request, checked field by field.

https://platform.openai.com/docs/api-reference/chat/create
"""

from collections.abc import Callable, Collection, Mapping
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
    max_tokens: int | None  # the limit for the answer, by its present name or its former one
    forces_function: bool  # whether the caller named the function to call
    options: JSON  # all other fields, by name, without those that are null

    @classmethod
    def from_json(cls, body: bytes, models: Collection[str], *, id: str, created: int) -> Self:
        """Check a body. `models`: the public names, the default first. Raises CallerError."""
        options = _fields(body)
        model = options.pop("model", next(iter(models)))
        if model not in models:
            offered = f"This proxy does not offer that model; it offers: {', '.join(models)}."
            raise CallerError("model_not_allowed", offered, param="model")
        messages = options.pop("messages", None)
        _check_messages(messages)
        choice = options.get("tool_choice")
        return cls(
            id=id,
            created=created,
            model=model,
            messages=messages,
            stream=options.pop("stream", False),
            include_usage=options.get("stream_options", {}).get("include_usage") is True,
            max_tokens=options.get("max_completion_tokens", options.get("max_tokens")),
            forces_function=type(choice) is dict and choice.get("type") in ("function", "custom"),
            options=options,
        )

    def without_input(self) -> Self:
        """What its answer needs: the provider may think for minutes, and memory is short."""
        return replace(self, messages=[], options={})


def _fields(body: bytes) -> JSON:
    try:
        fields = strict_json.loads(body)
    except strict_json.InvalidJSON as error:
        message = f"The body was refused: {error}; send a JSON object with 'messages'."
        raise CallerError("invalid_json", message) from None
    if not isinstance(fields, dict):
        raise CallerError("invalid_json", "The body must be a JSON object with 'messages'.")
    _check(fields, _FIELDS, "invalid_parameter")
    given = {name: value for name, value in fields.items() if value is not None}
    return given | {name: int(given[name]) for name in _WHOLE_NUMBERS & given.keys()}


def _check_messages(messages: Any) -> None:
    if not isinstance(messages, list) or not messages:
        raise _wrong("messages", "a list of at least one message")
    for index, message in enumerate(messages):
        at = f"messages[{index}]"
        if not isinstance(message, dict):
            raise _wrong(at, "an object with 'role' and 'content'")
        if message.get("role") not in _ROLES:
            raise _wrong(f"{at}.role", f"one of {', '.join(_ROLES)}")
        _check(message, _MESSAGE_FIELDS, "invalid_messages", at + ".")
        _check_content(f"{at}.content", message)


def _check_content(at: str, message: JSON) -> None:
    content = message.get("content")
    may_lack = message["role"] == "assistant" and any(map(message.get, _INSTEAD_OF_CONTENT))
    if isinstance(content, list) and content:
        for index, part in enumerate(content):
            if not isinstance(part, dict) or not isinstance(part.get("type"), str):
                raise _wrong(f"{at}[{index}]", "an object with a 'type'")
            if part["type"] == "text" and not isinstance(part.get("text"), str):
                raise _wrong(f"{at}[{index}].text", "a string")
    elif not (isinstance(content, str) or (content is None and may_lack)):
        instead = ", ".join(_INSTEAD_OF_CONTENT)
        null = f"null in an assistant's message with one of {instead}"
        raise _wrong(at, f"a string, a list of at least one part, or {null}")


def _wrong(at: str, what: str, code: str = "invalid_messages") -> CallerError:
    return CallerError(code, f"'{at}' must be {what}.", param=at)


class _Check(NamedTuple):
    """What a value must be. Types are compared exactly, since True is an int to isinstance."""

    what: str
    types: tuple[type, ...]
    fits: Callable[[Any], bool] = lambda _value: True


def _check(fields: JSON, checks: Mapping[str, _Check], code: str, at: str = "") -> None:
    for name, value in fields.items():
        check = checks.get(name)
        if check and value is not None and not (type(value) in check.types and check.fits(value)):
            raise _wrong(at + name, check.what, code)


def _by_name(checks: dict[str, _Check]) -> dict[str, _Check]:
    return {name: check for names, check in checks.items() for name in names.split()}


_STRING = _Check("a string", (str,))
_OBJECT = _Check("an object", (dict,))
_OBJECTS = _Check("a list of objects", (list,), lambda items: {*map(type, items)} <= {dict})
_NUMBER = _Check("a number", (int, float))
_STRINGS = _Check("a string or a list of strings", (str, list), lambda v: {*map(type, v)} <= {str})
# As in JSON Schema, 4096.0 and 1e3 are whole numbers.
_WHOLE = _Check("a whole number", (int, float), lambda n: n % 1 == 0)
_LIMIT = _Check("a whole number over 0", (int, float), lambda n: n > 0 and n % 1 == 0)
_ONE = _Check("1: this proxy gives one choice", (int, float), lambda n: n == 1)
# Types, and what this proxy itself relies on; all other ranges are left to the provider.
_FIELDS = _by_name(
    {
        "model reasoning_effort lora": _STRING,
        "stream logprobs parallel_tool_calls": _Check("true or false", (bool,)),
        "max_tokens max_completion_tokens": _LIMIT,
        "top_k seed top_logprobs": _WHOLE,
        "n": _ONE,
        "temperature top_p frequency_penalty presence_penalty repetition_penalty": _NUMBER,
        "stop": _STRINGS,
        "tools functions": _OBJECTS,
        "tool_choice function_call": _Check("a string or an object", (str, dict)),
        "stream_options response_format logit_bias chat_template_kwargs": _OBJECT,
    }
)
_WHOLE_NUMBERS = {name for name, check in _FIELDS.items() if check in (_WHOLE, _LIMIT, _ONE)}
PARAMETERS = frozenset({"messages", *_FIELDS})
_MESSAGE_FIELDS = _by_name(
    {
        "name tool_call_id refusal": _STRING,
        "tool_calls": _OBJECTS,
        "audio": _OBJECT,
        "function_call": _Check(
            "an object with the strings 'name' and 'arguments'",
            (dict,),
            lambda call: type(call.get("name")) is type(call.get("arguments")) is str,
        ),
    }
)
