"""Reads a request body: OpenAI's chat completion request, checked field by field.

https://platform.openai.com/docs/api-reference/chat/create
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

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
        message = f"The body must be a JSON object with 'messages', but {error}."
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


def _check(fields: JSON, checks: Mapping[str, str], code: str, at: str = "") -> None:
    for name, value in fields.items():
        what = checks.get(name)
        if what and value is not None and not _FITS[what](value):
            raise _wrong(at + name, what, code)


# What a value must be. Types are compared exactly, since True is an int to isinstance; 4096.0 is a
# whole number, as in JSON Schema. All ranges that this proxy does not rely on are the provider's.
_FITS: dict[str, Callable[[Any], bool]] = {
    "a string": lambda v: type(v) is str,
    "a string or a list of strings": lambda v: type(v) in (str, list) and {*map(type, v)} <= {str},
    "a string or an object": lambda v: type(v) in (str, dict),
    "an object": lambda v: type(v) is dict,
    "a list of objects": lambda v: type(v) is list and {*map(type, v)} <= {dict},
    "true or false": lambda v: type(v) is bool,
    "a number": lambda v: type(v) in (int, float),
    "a whole number": lambda v: type(v) in (int, float) and v % 1 == 0,
    "a whole number over 0": lambda v: type(v) in (int, float) and v % 1 == 0 and v > 0,
    "1: this proxy gives one choice": lambda v: type(v) in (int, float) and v == 1,
    "an object with the strings 'name' and 'arguments'": lambda v: (
        type(v) is dict and type(v.get("name")) is type(v.get("arguments")) is str
    ),
}


def _by_name(checks: dict[str, str]) -> dict[str, str]:
    return {name: what for names, what in checks.items() for name in names.split()}


_FIELDS = _by_name(
    {
        "model reasoning_effort lora": "a string",
        "stream logprobs parallel_tool_calls": "true or false",
        "max_tokens max_completion_tokens": "a whole number over 0",
        "top_k seed top_logprobs": "a whole number",
        "n": "1: this proxy gives one choice",
        "temperature top_p frequency_penalty presence_penalty repetition_penalty": "a number",
        "stop": "a string or a list of strings",
        "tools functions": "a list of objects",
        "tool_choice function_call": "a string or an object",
        "stream_options response_format logit_bias chat_template_kwargs": "an object",
    }
)
_WHOLE_NUMBERS = {"max_tokens", "max_completion_tokens", "top_k", "seed", "top_logprobs", "n"}
PARAMETERS = frozenset({"messages", *_FIELDS})
_MESSAGE_FIELDS = _by_name(
    {
        "name tool_call_id refusal": "a string",
        "tool_calls": "a list of objects",
        "function_call": "an object with the strings 'name' and 'arguments'",
        "audio": "an object",
    }
)
