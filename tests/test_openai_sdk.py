"""OpenAI's own SDK for Python, as a client of gunicorn as shipped."""

import json
import time
from collections.abc import Iterator
from typing import Annotated, Any, Literal

import openai
import pytest
import serving
from openai import OpenAI
from pydantic import BaseModel, Field
from serving import KEY, MODEL, Server

from emulator import Emulator

SAID = 'This is the emulator, not a model. You said: "Hi"'
CITY = {"type": "object", "properties": {"city": {"type": "string"}}}
TOOLS: Any = [{"type": "function", "function": {"name": "weather", "parameters": CITY}}]


@pytest.fixture(scope="module")
def one_sdk(running_proxy: Server) -> Iterator[OpenAI]:
    url = f"{running_proxy.url}/v1"
    with OpenAI(base_url=url, api_key=KEY, timeout=serving.DEADLINE) as client:
        yield client


@pytest.fixture
def sdk(one_sdk: OpenAI, proxy: Server) -> OpenAI:
    return one_sdk


@pytest.fixture
def impatient(sdk: OpenAI) -> OpenAI:
    """Without retries of its own."""
    return sdk.with_options(max_retries=0)


def messages(said: str = "Hi") -> Any:
    return [{"role": "user", "content": said}]


def test_both_forms_of_the_base_url(proxy: Server) -> None:
    for path in ("", "/", "/v1", "/v1/"):
        with OpenAI(base_url=proxy.url + path, api_key=KEY) as client:
            answer = client.chat.completions.create(model=MODEL, messages=messages())
            assert answer.choices[0].message.content == SAID


def test_create(sdk: OpenAI) -> None:
    answer = sdk.chat.completions.create(
        model=MODEL, messages=messages(), extra_headers={"X-Request-Id": "mine-1"}
    )
    assert answer._request_id == "mine-1"
    assert (answer.object, answer.model) == ("chat.completion", MODEL)
    (choice,) = answer.choices
    assert (choice.message.role, choice.message.content) == ("assistant", SAID)
    assert choice.finish_reason == "stop"
    assert choice.message.tool_calls is None
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_stream(sdk: OpenAI) -> None:
    with sdk.chat.completions.create(
        model=MODEL, messages=messages(), stream=True, stream_options={"include_usage": True}
    ) as stream:
        *chunks, usage = list(stream)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == SAID
    assert [chunk.choices[0].finish_reason for chunk in chunks][-2:] == [None, "stop"]
    assert usage.choices == []
    assert usage.usage is not None
    assert usage.usage.completion_tokens == len(SAID.split())


def test_the_stream_helper(sdk: OpenAI) -> None:
    with sdk.chat.completions.stream(model=MODEL, messages=messages()) as stream:
        deltas = [event.delta for event in stream if event.type == "content.delta"]
        final = stream.get_final_completion()
    assert "".join(deltas) == SAID
    assert final.choices[0].message.content == SAID
    assert final.choices[0].finish_reason == "stop"


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_tool_call(sdk: OpenAI, stream: bool) -> None:
    asked: Any = {"model": MODEL, "messages": messages("Oslo"), "tools": TOOLS}
    if stream:
        with sdk.chat.completions.stream(**asked) as helper:
            (choice,) = helper.get_final_completion().choices
    else:
        (choice,) = sdk.chat.completions.create(**asked).choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.tool_calls is not None
    (call,) = choice.message.tool_calls
    assert (call.type, call.function.name) == ("function", "weather")
    assert json.loads(call.function.arguments) == {"city": "Oslo"}
    result = {"role": "tool", "content": "rain", "tool_call_id": call.id}
    asked["messages"] += [choice.message.to_dict(exclude_none=True), result]
    again = sdk.chat.completions.create(**asked)
    assert "rain" in (again.choices[0].message.content or "")


class Step(BaseModel):
    explanation: str
    grade: Literal["easy", "hard"]
    seconds: int = Field(ge=5)


class Plan(BaseModel):
    steps: list[Step]
    tags: Annotated[list[str], Field(min_length=2)]
    owner: Step | None
    parts: "list[Plan]"


@pytest.mark.parametrize("form", [Step, Plan])
def test_structured_output(sdk: OpenAI, form: type[BaseModel]) -> None:
    asked: Any = {"model": MODEL, "messages": messages(), "response_format": form}
    parsed = sdk.chat.completions.parse(**asked).choices[0].message.parsed
    assert isinstance(parsed, form)
    with sdk.chat.completions.stream(**asked) as stream:
        final = stream.get_final_completion()
    assert final.choices[0].message.parsed == parsed


# --- errors, by class -----------------------------------------------------------------------------


def test_a_wrong_key(proxy: Server) -> None:
    with (
        OpenAI(base_url=proxy.url, api_key="wrong") as client,
        pytest.raises(openai.AuthenticationError) as caught,
    ):
        client.chat.completions.create(model=MODEL, messages=messages())
    assert (caught.value.status_code, caught.value.code) == (401, "invalid_api_key")
    assert caught.value.type == "authentication_error"
    assert caught.value.request_id
    assert caught.value.request_id in caught.value.message


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"model": "evil/../model"}, "model_not_allowed", "model"),
        ({"n": 2}, "invalid_parameter", "n"),
        ({"messages": [{"role": "user", "content": 5}]}, "invalid_messages", "messages[0].content"),
    ],
    ids=["model", "n", "messages"],
)
def test_a_bad_request(
    sdk: OpenAI, emulator: Emulator, fields: Any, code: str, param: str, stream: bool
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        body = {"model": MODEL, "messages": messages(), "stream": stream, **fields}
        sdk.chat.completions.create(**body)
    assert (caught.value.code, caught.value.param) == (code, param)
    assert caught.value.request_id
    assert "evil" not in caught.value.message
    assert emulator.requests == []


def test_the_models(sdk: OpenAI) -> None:
    assert [model.id for model in sdk.models.list()] == [MODEL]
    assert sdk.models.retrieve(MODEL).id == MODEL
    with pytest.raises(openai.NotFoundError):
        sdk.models.retrieve("gpt-4o")


def test_another_endpoint(sdk: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        sdk.embeddings.create(model=MODEL, input="Hi")
    assert caught.value.code == "not_found"
    assert "/v1/chat/completions" in caught.value.message


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("status", [401, 403, 404, 410, 429, 500])
def test_a_refusal_of_the_providers(impatient: OpenAI, status: int, stream: bool) -> None:
    """Never AuthenticationError or RateLimitError: the caller's key is good."""
    with pytest.raises(openai.InternalServerError) as caught:
        impatient.chat.completions.create(
            model=MODEL, messages=messages(f"[[status={status}]]"), stream=stream
        )
    assert caught.value.status_code == 502
    assert str(caught.value.code).startswith("provider_")
    assert caught.value.type == "provider_error"


@pytest.mark.parametrize("directive", ["reset=middle", "close=middle", "no_done", "junk"])
def test_a_cut_stream_raises(sdk: OpenAI, emulator: Emulator, directive: str) -> None:
    """Without the error event the SDK would take it for a whole answer."""
    said = ""
    with pytest.raises(openai.APIError) as caught, sdk.chat.completions.create(
        model=MODEL, messages=messages(f"[[{directive},gap=0.01]]"), stream=True
    ) as stream:  # fmt: skip
        for chunk in stream:
            said += chunk.choices[0].delta.content or ""
    assert said.startswith("This ")
    assert not isinstance(caught.value, openai.APIConnectionError)
    assert str(caught.value.code).startswith("provider_")
    assert "Request id:" in caught.value.message
    assert len(emulator.requests) == 1


# --- its retries ----------------------------------------------------------------------------------

ONE_CALL = ["status=401", "status=410", "status=400", "reset=headers", "junk"]
ONE_CALL += ["status=429,code=4006", "status=429,code=3021,retry_after=61", "status=408"]


@pytest.mark.parametrize("directive", ONE_CALL)
def test_a_failure_that_stays_or_may_be_billed_again_is_one_call(
    sdk: OpenAI, emulator: Emulator, directive: str
) -> None:
    with pytest.raises(openai.APIStatusError):
        sdk.chat.completions.create(model=MODEL, messages=messages(f"[[{directive}]]"))
    assert len(emulator.requests) == 1


def test_a_connection_that_dies_is_one_call_of_the_sdk(sdk: OpenAI, emulator: Emulator) -> None:
    """The proxy itself sends once more what a kept connection did not take."""
    with pytest.raises(openai.APIStatusError) as caught:
        sdk.chat.completions.create(model=MODEL, messages=messages("[[reset=before]]"))
    assert caught.value.response.headers["X-Should-Retry"] == "false"
    assert len(emulator.requests) in (1, 2)


def test_a_failure_that_passes_is_three_calls(sdk: OpenAI, emulator: Emulator) -> None:
    with pytest.raises(openai.InternalServerError):
        sdk.chat.completions.create(model=MODEL, messages=messages("[[status=500]]"))
    assert len(emulator.requests) == 3


def test_retry_after_is_obeyed(sdk: OpenAI, emulator: Emulator) -> None:
    """Its own wait before the first retry would be 0.5 s at most."""
    began = time.monotonic()
    with pytest.raises(openai.InternalServerError):
        sdk.with_options(max_retries=1).chat.completions.create(
            model=MODEL, messages=messages("[[status=429,code=3021,retry_after=1]]")
        )
    assert time.monotonic() - began >= 0.95
    assert len(emulator.requests) == 2
