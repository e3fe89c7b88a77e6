"""What a caller may ask, field by field, and where a fault is said to be."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.chat import ChatCompletionMessage
from openai.types.chat import ChatCompletionMessageParam as CreateMessage
from openai.types.chat.completion_create_params import CompletionCreateParamsNonStreaming
from pydantic import TypeAdapter

from proxy.chat_request import ChatRequest
from proxy.errors import CallerError

HI = {"role": "user", "content": "Hi"}
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
FUNCTION_CALL = {"name": "f", "arguments": "{}"}
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}


def read(body: bytes) -> ChatRequest:
    return ChatRequest.from_json(body, ["m", "other"], id="chatcmpl-1", created=1_790_000_000)


def ask(**fields: Any) -> ChatRequest:
    return read(json.dumps({"messages": [HI], **fields}).encode())


def refusal(body: bytes) -> CallerError:
    with pytest.raises(CallerError) as caught:
        read(body)
    assert caught.value.status == 400
    return caught.value


def refused(**fields: Any) -> CallerError:
    return refusal(json.dumps({"messages": [HI], **fields}).encode())


def test_the_smallest_request() -> None:
    """Only messages: the default model, whole, no options."""
    assert read(b'{"messages":[{"role":"user","content":"Hi"}]}') == ChatRequest(
        id="chatcmpl-1",
        created=1_790_000_000,
        model="m",
        messages=[HI],
        stream=False,
        include_usage=False,
        options={},
    )


# --- the body ---------------------------------------------------------------------------------


NO_OBJECTS = [
    b"{",
    b"hello",
    b"messages=Hi",
    b"\xff",
    b"null",
    b'"Hi"',
    b"42",
    b"[{}]",
    b"[" * 100_000,
]
NO_OBJECTS += [b'{"messages":[],"messages":[]}', b'{"temperature":NaN}', b'{"temperature":1e400}']


@pytest.mark.parametrize("body", [*NO_OBJECTS, '{"messages":[]}'.encode("utf-16")])
def test_the_body_is_a_json_object(body: bytes) -> None:
    error = refusal(body)
    assert (error.code, error.param) == ("invalid_json", None)


@pytest.mark.parametrize("body", [b"", b" ", b"\r\n\t ", b"\xef\xbb\xbf\n"])
def test_an_empty_body(body: bytes) -> None:
    error = refusal(body)
    assert (error.code, error.param) == ("invalid_json", None)
    assert error.message.startswith("The body is empty; ")


def test_the_message_tells_the_place_and_quotes_nothing() -> None:
    error = refusal(b'{"messages": secret}')
    assert "line 1, column 14" in error.message
    assert "secret" not in error.message


# --- messages ---------------------------------------------------------------------------------


# fmt: off
GOOD_MESSAGES = [  # beside those of OpenAI's SDK, below
    {"role": "user", "content": ""},
    {"role": "user", "content": "\ud800"},
    {"role": "user", "content": "Hi", "name": None, "tool_call_id": None, "tool_calls": None},
    {"role": "user", "content": "Hi", "unknown": {"a": 1}},
    {"role": "user", "content": [{"type": "text", "text": ""}, IMAGE]},
    {"role": "assistant", "tool_calls": [CALL]},
    {"role": "assistant", "content": "", "tool_calls": []},
    {"role": "assistant", "function_call": FUNCTION_CALL},
    {"role": "assistant", "content": "Yes?", "refusal": None, "function_call": None},
    {"role": "assistant", "content": "Yes?", "audio": None, "annotations": []},
]
# fmt: on


@pytest.mark.parametrize("message", GOOD_MESSAGES)
def test_messages_that_are_well(message: dict[str, Any]) -> None:
    """They stay as they came, and where they were."""
    assert ask(messages=[HI, message, HI]).messages == [HI, message, HI]


@pytest.mark.parametrize("messages", [None, [], {}, "Hi", 1, True, {"0": HI}])
def test_messages_are_a_list_with_something_in_it(messages: Any) -> None:
    error = refused(messages=messages)
    assert (error.code, error.param) == ("invalid_messages", "messages")


def test_messages_must_be_there() -> None:
    assert refusal(b"{}").param == "messages"
    assert refusal(b'{"prompt":"Hi"}').code == "invalid_messages"


def user(**fields: Any) -> dict[str, Any]:
    return {"role": "user", "content": "Hi", **fields}


def assistant(**fields: Any) -> dict[str, Any]:
    return {"role": "assistant", **fields}


# fmt: off
BAD_MESSAGES: dict[str, list[Any]] = {
    "": ["Hi", None, [HI]],
    ".role": [{}, {"content": "Hi"}, *(user(role=role) for role in (
        None, "User", "", 1, ["user"], {"user": 1},
    ))],
    ".content": [
        {"role": "user"}, {"role": "user", "function_call": FUNCTION_CALL}, assistant(content=None),
        assistant(tool_calls=None), assistant(tool_calls=[]), assistant(function_call=None),
        assistant(refusal=None, audio=None), assistant(content=42, tool_calls=[CALL]),
        {"role": "function", "name": "f", "content": None},
        {"role": "tool", "content": None, "refusal": "I cannot."},
        user(content=None, tool_calls=[CALL]), *(user(content=content) for content in (
            None, 42, True, {"type": "text", "text": "Hi"}, [],
        )),
    ],
    ".content[0]": [user(content=[part]) for part in ("Hi", None, {}, {"text": "Hi"})],
    ".content[1]": [user(content=[IMAGE, {"type": 1}])],
    ".content[0].text": [user(content=[{"type": "text", **text}]) for text in ({}, {"text": None})],
    ".content[1].text": [user(content=[IMAGE, {"type": "text", "text": 1}])],
    ".name": [user(name=1)],
    ".tool_call_id": [{"role": "tool", "content": "Hi", "tool_call_id": 1}],
    ".tool_calls": [assistant(tool_calls=calls) for calls in ({"a": 1}, "f", ["f"], [CALL, None])],
    ".function_call": [assistant(function_call=call) for call in (
        "f", {}, {"name": "f"}, {"arguments": "{}"}, FUNCTION_CALL | {"name": 1},
        FUNCTION_CALL | {"arguments": {}},
    )],
    ".refusal": [assistant(content="Hi", refusal=True)],
    ".audio": [assistant(content="Hi", audio="audio_1")],
}
# fmt: on


@pytest.mark.parametrize(
    ("message", "at"), [(message, at) for at, bad in BAD_MESSAGES.items() for message in bad]
)
def test_messages_that_are_not_well(message: Any, at: str) -> None:
    """`param` and the message say where."""
    error = refused(messages=[HI, message])
    assert (error.code, error.param) == ("invalid_messages", f"messages[1]{at}")
    assert f"'messages[1]{at}'" in error.message


def test_the_callers_text_is_not_echoed() -> None:
    error = refused(messages=[{"role": "secret", "content": "secret"}])
    assert "secret" not in error.message


# --- the model --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "model"),
    [({}, "m"), ({"model": None}, "m"), ({"model": "m"}, "m"), ({"model": "other"}, "other")],
)
def test_the_model(fields: dict[str, Any], model: str) -> None:
    """The first one is the default."""
    chat = ask(**fields)
    assert chat.model == model
    assert "model" not in chat.options


@pytest.mark.parametrize("model", ["", "M", "m ", "@cf/secret", "../m", "\ud800"])
def test_only_models_that_are_offered(model: str) -> None:
    """The message lists them, and does not repeat the caller's."""
    error = refused(model=model)
    assert (error.code, error.param) == ("model_not_allowed", "model")
    assert "m, other" in error.message
    assert "secret" not in error.message


# --- parameters -------------------------------------------------------------------------------

TRUE_OR_FALSE = ([True, False], [0, 1, "true", [], {}])
STRING = (["", "low"], [True, 1, 1.5, [], {}])
NUMBER = ([0, 1, -2, 0.5, 1e308], [True, False, "1", [], {}])
ABSURD = [6000.5, 1e41, 1e300, -1e300, 10**41, 10**308]
WHOLE = ([0, 1, -2, 10**30, 1e30], [True, False, 0.5, "1", [], {}, *ABSURD])
LIMIT = ([1, 256, 10**30, 1e30], [0, -1, 0.0, True, False, 0.5, "1", [], {}, *ABSURD])
OBJECTS = ([[], [{"type": "function"}]], [True, 1, "f", {}, ["f"], [None]])
STRING_OR_OBJECT = (["auto", "required", {"type": "function"}], [True, 1, []])
OBJECT = ([{}, {"a": 1}], [True, 1, "json", []])

# fmt: off
PARAMETERS: dict[str, tuple[list[Any], list[Any]]] = {
    **dict.fromkeys(("temperature", "top_p", "frequency_penalty", "presence_penalty"), NUMBER),
    "repetition_penalty": NUMBER,
    **dict.fromkeys(("top_k", "seed", "top_logprobs"), WHOLE),
    **dict.fromkeys(("max_tokens", "max_completion_tokens"), LIMIT),
    "n": ([1, 1.0], [2, 128, 2.0, True, False, "1", 1.5, [], {}, *ABSURD]),
    **dict.fromkeys(("logprobs", "parallel_tool_calls"), TRUE_OR_FALSE),
    "stop": (["", "END", [], ["a", "b"]], [True, 1, {}, [1], ["a", None]]),
    **dict.fromkeys(("tools", "functions"), OBJECTS),
    **dict.fromkeys(("tool_choice", "function_call"), STRING_OR_OBJECT),
    **dict.fromkeys(("response_format", "logit_bias", "chat_template_kwargs"), OBJECT),
    **dict.fromkeys(("reasoning_effort", "lora"), STRING),
}
# fmt: on
ACCEPTED = [(name, value) for name, (good, _) in PARAMETERS.items() for value in good]
REFUSED = [(name, value) for name, (_, bad) in PARAMETERS.items() for value in bad]
REFUSED += [("stream", value) for value in TRUE_OR_FALSE[1]]
REFUSED += [("stream_options", value) for value in OBJECT[1]]
REFUSED += [("model", value) for value in STRING[1]]


@pytest.mark.parametrize(("name", "value"), ACCEPTED)
def test_parameters_that_are_well(name: str, value: Any) -> None:
    """Types are checked; but for our own work's sake, ranges are the provider's business."""
    assert ask(**{name: value}).options == {name: value}


@pytest.mark.parametrize(("name", "value"), REFUSED)
def test_parameters_that_are_not_well(name: str, value: Any) -> None:
    """A bool is no number, and a number no bool."""
    error = refused(**{name: value})
    assert (error.code, error.param) == ("invalid_parameter", name)
    assert f"'{name}'" in error.message


WHOLE_NUMBERS = [name for name, (good, _) in PARAMETERS.items() if good in (WHOLE[0], LIMIT[0])]


@pytest.mark.parametrize("name", WHOLE_NUMBERS)
@pytest.mark.parametrize(
    ("written", "number"),
    [("4096.0", 4096), ("1e3", 1000), ("1.5E+1", 15), ("5", 5), ("9007199254740993", 2**53 + 1)],
)
def test_a_whole_number_may_be_written_as_any_number(name: str, written: str, number: int) -> None:
    """JSON Schema has it so. It goes up as a whole number, which no provider refuses."""
    body = b'{"messages":[{"role":"user","content":"Hi"}],"%s":%s}'
    (value,) = read(body % (name.encode(), written.encode())).options.values()
    assert (type(value), value) == (int, number)


@pytest.mark.parametrize("name", ["temperature", "top_p", "x"])
def test_other_numbers_stay_as_they_are(name: str) -> None:
    (value,) = ask(**{name: 1.0}).options.values()
    assert type(value) is float


@pytest.mark.parametrize("name", [*PARAMETERS, "stream", "stream_options", "model", "user", "x"])
def test_null_is_not_given(name: str) -> None:
    assert ask(**{name: None}) == ask()


def test_unknown_fields_are_kept() -> None:
    """What they mean is the provider's business."""
    fields = {"user": "ann", "metadata": {"a": [1, None]}, "x\n": 0}
    assert ask(**fields).options == fields


@pytest.mark.parametrize(
    ("fields", "stream", "include_usage"),
    [
        ({"stream": False}, False, False),
        ({"stream": True}, True, False),
        ({"stream": True, "stream_options": {}}, True, False),
        ({"stream": True, "stream_options": {"include_usage": False}}, True, False),
        ({"stream": True, "stream_options": {"include_usage": None}}, True, False),
        ({"stream": True, "stream_options": {"include_usage": True}}, True, True),
    ],
)
def test_streams(fields: dict[str, Any], stream: bool, include_usage: bool) -> None:
    chat = ask(**fields)
    assert (chat.stream, chat.include_usage) == (stream, include_usage)
    assert "stream" not in chat.options


@pytest.mark.parametrize(
    ("fields", "limit"),
    [
        ({}, None),
        ({"max_tokens": 5}, 5),
        ({"max_completion_tokens": 7}, 7),
        ({"max_tokens": 5, "max_completion_tokens": 7}, 7),
        ({"max_tokens": 5, "max_completion_tokens": None}, 5),
    ],
)
def test_the_limit_has_two_names(fields: dict[str, Any], limit: int | None) -> None:
    """max_tokens is the former one of max_completion_tokens."""
    assert ask(**fields).max_tokens == limit


# --- what OpenAI's own SDK sends ------------------------------------------------------------------

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
FUNCTION = {"name": "f", "description": "It does f.", "parameters": SCHEMA, "strict": True}
TEXT: Any = {"type": "text", "text": "Hi", "prompt_cache_breakpoint": {"mode": "explicit"}}
SDK_MESSAGES: dict[str, CreateMessage] = {
    "system": {"role": "system", "content": [{"type": "text", "text": "Be brief."}], "name": "s"},
    "developer": {"role": "developer", "content": "Be brief.", "name": "d"},
    "user": {"role": "user", "content": "Hi", "name": "ann"},
    "user's parts": {
        "role": "user",
        "content": [
            TEXT,
            {"type": "image_url", "image_url": {"url": "https://example.com", "detail": "low"}},
            {"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}},
            {"type": "file", "file": {"file_id": "file_1"}},
        ],
    },
    "assistant": {"role": "assistant", "content": "Yes?", "name": "a"},
    "assistant's parts": {
        "role": "assistant",
        "content": [TEXT, {"type": "refusal", "refusal": "I cannot."}],
        "refusal": None,
        "audio": None,
    },
    "calls": {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}},
            {"id": "2", "type": "custom", "custom": {"name": "c", "input": "print(1)"}},
        ],
    },
    "function call": {
        "role": "assistant",
        "content": None,
        "function_call": {"name": "f", "arguments": "{}"},
    },
    "refusal": {"role": "assistant", "refusal": "I cannot."},
    "audio": {"role": "assistant", "audio": {"id": "audio_1"}},
    "tool": {"role": "tool", "tool_call_id": "1", "content": [{"type": "text", "text": "42"}]},
    "function": {"role": "function", "name": "f", "content": "42"},
}


@pytest.mark.parametrize("message", SDK_MESSAGES.values(), ids=SDK_MESSAGES)
def test_messages_as_the_sdk_types_them(message: CreateMessage) -> None:
    """The type checks of pydantic keep the table true."""
    TypeAdapter(CreateMessage).validate_python(message)
    assert ask(messages=[HI, message]).messages == [HI, message]


ANSWERS: dict[str, dict[str, Any]] = {
    "text": {"content": "Yes?"},
    "calls": {"content": None, "tool_calls": [CALL]},
    "text beside calls": {"content": "", "tool_calls": [CALL]},
    "function call": {"content": None, "function_call": FUNCTION_CALL},
    "refusal": {"content": None, "refusal": "I cannot."},
    "audio": {
        "content": None,
        "audio": {"id": "audio_1", "data": "AA==", "expires_at": 1, "transcript": "Hi"},
    },
}


@pytest.mark.parametrize("only_what_is_set", [False, True], ids=["all", "only what is set"])
@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
def test_an_answer_may_be_sent_back(answer: dict[str, Any], only_what_is_set: bool) -> None:
    """With all the nulls that the SDK's own object has."""
    message = ChatCompletionMessage.model_validate({"role": "assistant", **answer})
    sent = message.model_dump(exclude_unset=only_what_is_set)
    assert ask(messages=[HI, sent]).messages == [HI, sent]


# fmt: off
SDK_PARAMETERS: dict[str, Any] = {
    "audio": {"voice": "alloy", "format": "wav"}, "frequency_penalty": 0.5,
    "function_call": {"name": "f"}, "functions": [FUNCTION], "logit_bias": {"50256": -100},
    "logprobs": True, "max_completion_tokens": 256, "max_tokens": 256, "metadata": {"a": "b"},
    "modalities": ["text"], "n": 1, "parallel_tool_calls": False,
    "prediction": {"type": "content", "content": "Hi"}, "presence_penalty": -1,
    "prompt_cache_key": "k", "reasoning_effort": "low",
    "response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": SCHEMA}},
    "safety_identifier": "s", "seed": 42, "service_tier": "auto", "stop": ["END"], "store": False,
    "temperature": 1, "tool_choice": {"type": "function", "function": {"name": "f"}},
    "tools": [
        {"type": "function", "function": FUNCTION},
        {"type": "custom", "custom": {"name": "c", "format": {"type": "text"}}},
    ],
    "top_logprobs": 5, "top_p": 0.9, "user": "ann", "verbosity": "low",
    "web_search_options": {"search_context_size": "low"},
}
# fmt: on


@pytest.mark.parametrize("name", SDK_PARAMETERS)
def test_parameters_as_the_sdk_types_them(name: str) -> None:
    fields = {"messages": [HI], "model": "m", name: SDK_PARAMETERS[name]}
    TypeAdapter(CompletionCreateParamsNonStreaming).validate_python(fields)
    assert ask(**fields).options == {name: SDK_PARAMETERS[name]}


# --- whatever comes -----------------------------------------------------------------------------

quick = settings(max_examples=60, derandomize=True, deadline=None, database=None)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(["", "m", "user", "text", "x"]),
    lambda children: (
        st.lists(children, max_size=3)
        | st.dictionaries(
            st.sampled_from(["role", "content", "type", "text", "tool_calls", "name"]),
            children,
            max_size=4,
        )
    ),
    max_leaves=12,
)
names = st.sampled_from(["messages", "model", "stream", "stream_options", "user", *PARAMETERS])
requests = st.builds(
    lambda fields, messages: fields | messages,
    st.dictionaries(names, values, max_size=4),
    st.just({}) | st.just({"messages": [HI]}) | values.map(lambda value: {"messages": [value]}),
)


@quick
@given(
    st.binary()
    | values.map(lambda v: json.dumps(v).encode())
    | requests.map(lambda v: json.dumps(v).encode())
)
def test_any_body_is_a_request_or_the_callers_fault(body: bytes) -> None:
    try:
        chat = read(body)
    except CallerError as error:
        assert error.status == 400
    else:
        sent = json.loads(body)
        assert chat.messages == sent["messages"]
        assert all(sent[name] == value for name, value in chat.options.items())


def test_an_answer_needs_the_limit_and_not_the_input() -> None:
    asked = ask(max_tokens=7, temperature=1, user="someone")
    assert asked.without_input() == replace(asked, messages=[], options={"max_tokens": 7})
