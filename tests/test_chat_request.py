"""What a caller may ask, field by field, and where a fault is said to be."""

import json
from typing import Any

import pytest
from recorded import CALL, CREATED, HI, IMAGE
from recorded import chat as ask

from proxy.chat_request import ChatRequest
from proxy.errors import CallerError

CUSTOM_CALL = {"id": "2", "type": "custom", "custom": {"name": "c", "input": "print(1)"}}
FUNCTION_CALL = {"name": "f", "arguments": "{}"}
TEXT = {"type": "text", "text": "Hi"}


def read(body: bytes) -> ChatRequest:
    return ChatRequest.from_json(body, ["m", "other"], id="chatcmpl-1", created=CREATED)


def refusal(body: bytes) -> CallerError:
    with pytest.raises(CallerError) as caught:
        read(body)
    assert caught.value.status == 400
    return caught.value


def refused(**fields: Any) -> CallerError:
    return refusal(json.dumps({"messages": [HI], **fields}).encode())


BAD_BODIES = {
    b"": "it is empty",
    b'{"messages": secret}': "line 1, column 14",
    b"[{}]": "must be a JSON object",
    b"null": "must be a JSON object",
    b'{"messages":[],"messages":[]}': "the same key twice",
}


@pytest.mark.parametrize(("body", "says"), BAD_BODIES.items(), ids=BAD_BODIES.values())
def test_the_body_is_a_json_object(body: bytes, says: str) -> None:
    """The message says what is wrong and where, and quotes nothing."""
    error = refusal(body)
    assert (error.code, error.param) == ("invalid_json", None)
    assert says in error.message
    assert "secret" not in error.message


# --- messages ---------------------------------------------------------------------------------


def user(**fields: Any) -> dict[str, Any]:
    return {"role": "user", "content": "Hi", **fields}


def assistant(**fields: Any) -> dict[str, Any]:
    return {"role": "assistant", **fields}


GOOD_MESSAGES: list[dict[str, Any]] = [
    user(content=""),
    user(content="\ud800", name="ann"),
    user(name=None, tool_call_id=None, tool_calls=None, unknown={"a": 1}),
    user(content=[TEXT | {"text": "", "unknown": {}}, IMAGE, {"type": "input_audio"}]),
    {"role": "system", "content": [TEXT]},
    {"role": "developer", "content": "Be brief."},
    {"role": "tool", "tool_call_id": "1", "content": [TEXT]},
    {"role": "function", "name": "f", "content": "42"},
    assistant(tool_calls=[CALL]),
    assistant(content=None, tool_calls=[CALL, CUSTOM_CALL], refusal=None, annotations=None),
    assistant(content="", tool_calls=[]),
    assistant(content=None, function_call=FUNCTION_CALL),
    assistant(refusal="I cannot."),
    assistant(audio={"id": "audio_1"}),
    assistant(content="Yes?", refusal=None, function_call=None, audio=None, annotations=[]),
    assistant(content=[TEXT, {"type": "refusal", "refusal": "I cannot."}]),
]


@pytest.mark.parametrize("message", GOOD_MESSAGES)
def test_good_messages(message: dict[str, Any]) -> None:
    """They stay as they came, and where they were."""
    assert ask(messages=[HI, message, HI]).messages == [HI, message, HI]


@pytest.mark.parametrize("messages", [None, [], {}, "Hi", 1, True, {"0": HI}])
def test_messages_are_a_list_with_something_in_it(messages: Any) -> None:
    error = refused(messages=messages)
    assert (error.code, error.param) == ("invalid_messages", "messages")
    assert refusal(b'{"prompt":"Hi"}').param == "messages"


LACKS = [None, 42, True, TEXT, []]  # none of them is a content
CALLS = [{"a": 1}, "f", ["f"], [CALL, None]]
FUNCTION_CALLS = ["f", {"name": "f"}, *({**FUNCTION_CALL, key: {}} for key in FUNCTION_CALL)]
BAD_MESSAGES: dict[str, list[Any]] = {
    "": ["Hi", None, [HI]],
    ".role": [{"content": "Hi"}, *(user(role=role) for role in (None, "Secret", 1, ["user"]))],
    ".content": [
        *({"role": "user", "content": content} for content in LACKS),
        *(assistant(content=content) for content in LACKS),
        assistant(tool_calls=[], function_call=None, refusal=None, audio=None),
        assistant(content=42, tool_calls=[CALL]),
        {"role": "user", "function_call": FUNCTION_CALL},
        {"role": "function", "name": "f", "content": None},
        {"role": "tool", "refusal": "I cannot."},
        user(content=None, tool_calls=[CALL]),
    ],
    ".content[0]": [user(content=[part]) for part in ("Hi", None, {}, {"text": "Hi"})],
    ".content[1]": [user(content=[IMAGE, {"type": 1}])],
    ".content[0].text": [user(content=[{"type": "text"}])],
    ".content[1].text": [user(content=[IMAGE, TEXT | {"text": 1}])],
    ".name": [user(name=1)],
    ".tool_call_id": [{"role": "tool", "content": "Hi", "tool_call_id": 1}],
    ".tool_calls": [assistant(tool_calls=calls) for calls in CALLS],
    ".function_call": [assistant(function_call=call) for call in FUNCTION_CALLS],
    ".refusal": [assistant(content="Hi", refusal=True)],
    ".audio": [assistant(content="Hi", audio="audio_1")],
}


@pytest.mark.parametrize(
    ("message", "at"), [(message, at) for at, bad in BAD_MESSAGES.items() for message in bad]
)
def test_bad_messages(message: Any, at: str) -> None:
    """`param` and the message say where; the caller's text is not echoed."""
    error = refused(messages=[HI, message])
    assert (error.code, error.param) == ("invalid_messages", f"messages[1]{at}")
    assert f"'messages[1]{at}'" in error.message
    assert "Secret" not in error.message


# --- the other fields -------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["", "M", "m ", "@cf/secret", "../m", "\ud800"])
def test_only_models_that_are_offered(model: str) -> None:
    """The message lists them, and does not repeat the caller's."""
    error = refused(model=model)
    assert (error.code, error.param) == ("model_not_allowed", "model")
    assert "m, other" in error.message
    assert "secret" not in error.message


TRUE_OR_FALSE = ([True, False], [0, 1, "true", [], {}])
STRING = (["", "low"], [True, 1, [], {}])
NUMBER = ([0, 1, -2, 0.5, 1e308], [True, False, "1", [], {}])
NOT_WHOLE = [*NUMBER[1], 0.5, 6000.5, -1e-300]
WHOLE = ([0, 1, -2, 10**30], NOT_WHOLE)
LIMIT = ([1, 256, 10**30], [0, -1, 0.0, *NOT_WHOLE])
OBJECTS = ([[], [{"type": "function"}]], [True, 1, "f", {}, ["f"], [{}, None]])
STRING_OR_OBJECT = (["auto", "required", {"type": "function"}], [True, 1, []])
OBJECT = ([{}, {"a": 1}], [True, 1, "json", []])
PARAMETERS: dict[str, tuple[list[Any], list[Any]]] = {
    **dict.fromkeys(("temperature", "top_p", "frequency_penalty", "presence_penalty"), NUMBER),
    "repetition_penalty": NUMBER,
    **dict.fromkeys(("top_k", "seed", "top_logprobs"), WHOLE),
    **dict.fromkeys(("max_tokens", "max_completion_tokens"), LIMIT),
    "n": ([1], [0, 2, 128, 2.0, *NOT_WHOLE]),
    **dict.fromkeys(("logprobs", "parallel_tool_calls"), TRUE_OR_FALSE),
    "stop": (["", "END", [], ["a", "b"]], [True, 1, {}, [1], ["a", None]]),
    **dict.fromkeys(("tools", "functions"), OBJECTS),
    **dict.fromkeys(("tool_choice", "function_call"), STRING_OR_OBJECT),
    **dict.fromkeys(("response_format", "logit_bias", "chat_template_kwargs"), OBJECT),
    **dict.fromkeys(("reasoning_effort", "lora"), STRING),
    "stream": ([], TRUE_OR_FALSE[1]),
    "stream_options": ([], OBJECT[1]),
    "model": ([], STRING[1]),
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters(name: str) -> None:
    """Types are checked (a bool is no number); ranges are the provider's business, but for two."""
    good, bad = PARAMETERS[name]
    for value in good:
        assert ask(**{name: value}).options == {name: value}
    for value in bad:
        error = refused(**{name: value})
        assert (error.code, error.param) == ("invalid_parameter", name)
        assert f"'{name}'" in error.message


WHOLE_NUMBERS = [name for name, kind in PARAMETERS.items() if kind in (WHOLE, LIMIT)]
WRITTEN = {"4096.0": 4096, "1e3": 1000, "1.5E+1": 15, "5": 5, "9007199254740993": 2**53 + 1}


@pytest.mark.parametrize(("written", "number"), WRITTEN.items())
def test_a_whole_number_may_be_written_as_any_number(written: str, number: int) -> None:
    """JSON Schema has it so. It goes up as a whole number, which no provider refuses."""
    fields = ",".join(f'"{name}":{written}' for name in WHOLE_NUMBERS)
    body = f'{{"messages":[{{"role":"user","content":"Hi"}}],"n":1.0,{fields}}}'
    options = read(body.encode()).options
    assert options == {"n": 1, **dict.fromkeys(WHOLE_NUMBERS, number)}
    assert {type(value) for value in options.values()} == {int}


def test_null_is_not_given() -> None:
    assert ask(**dict.fromkeys([*PARAMETERS, "user", "x"])) == ask()


def test_other_fields_are_kept_as_they_are() -> None:
    """What they mean is the provider's business. 1.0 stays a float."""
    fields = {"user": "ann", "metadata": {"a": [1, None]}, "audio": 1, "name": 1, "x\n": 0}
    fields |= {"temperature": 1.0, "top_p": 1.0, "x": 1.0}
    assert repr(ask(**fields).options) == repr(fields)


STREAM = {"stream": True}
FORCED = {"forces_function": True}
NOT_FORCED = {"forces_function": False}
DEFAULTS = {"id": "chatcmpl-1", "created": CREATED, "include_usage": False, "max_tokens": None}
READ: list[tuple[dict[str, Any], dict[str, Any]]] = [  # fields as given; what is read from them
    ({}, {**DEFAULTS, **NOT_FORCED, "model": "m", "stream": False}),
    ({"model": None, "stream": None}, {"model": "m", "stream": False}),  # the first is the default
    ({"model": "other", "stream": False}, {"model": "other", "stream": False}),
    (STREAM, {"stream": True, "include_usage": False}),
    (STREAM | {"stream_options": {}}, {"include_usage": False}),
    (STREAM | {"stream_options": {"include_usage": False}}, {"include_usage": False}),
    (STREAM | {"stream_options": {"include_usage": True}}, {"include_usage": True}),
    ({"max_tokens": 5}, {"max_tokens": 5}),
    ({"max_tokens": 5, "max_completion_tokens": 7}, {"max_tokens": 7}),  # its present name
    ({"max_tokens": 5, "max_completion_tokens": None}, {"max_tokens": 5}),
    *(({"tool_choice": {"type": kind}}, FORCED) for kind in ("function", "custom")),
    *(({"tool_choice": {"type": kind}}, NOT_FORCED) for kind in ("allowed_tools", {})),
    *(({"tool_choice": choice}, NOT_FORCED) for choice in ("auto", "required", {})),
]


@pytest.mark.parametrize(("fields", "read"), READ)
def test_what_is_read(fields: dict[str, Any], read: dict[str, Any]) -> None:
    """The answer needs it too, when the input has gone."""
    asked = ask(**fields)
    assert not asked.options.keys() & {"messages", "model", "stream"}
    kept = asked.without_input()
    assert (kept.messages, kept.options) == ([], {})
    for chat in (asked, kept):
        assert {name: getattr(chat, name) for name in read} == read
