"""OpenAI's own SDK for Python, through one proxy and through two.

client -> inner -> emulator, and client -> outer -> inner -> emulator. Both proxies are gunicorn as
shipped: `outer` has the provider `openai`, `inner` has Workers AI. A fault of the provider looks
the same through two as through one. The SDK is imported where it is used: that takes a second.
"""

import contextlib
import json
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import pytest
import recorded
import serving
from conftest import Serve
from serving import MODEL, Server, asking

from emulator import Emulator
from proxy.errors import PROVIDER_CODES

INNER_KEY = "inner-Zk8fW2nQ5vB7xT3c"
SAID = 'This is the emulator, not a model. You said: "Hi"'
CITY = {"type": "object", "properties": {"city": {"type": "string"}}}
TOOLS: Any = [{"type": "function", "function": {"name": "weather", "parameters": CITY}}]
each_way = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])


class Proxies(NamedTuple):
    """The two, and the client of each, which retries at once."""

    emulator: Emulator
    inner: Server
    outer: Server
    through_one: Any
    through_two: Any


@pytest.fixture(scope="module")
def proxies(serve: Serve) -> Iterator[Proxies]:
    from openai import OpenAI

    class WithoutWaiting(OpenAI):
        def _sleep_for_retry(self, **_: Any) -> None:
            pass

    waits = [f"LLAMA_PROVIDER{name}_TIMEOUT" for name in ("", "_IDLE", "_TOTAL")]
    patience = dict(zip(waits, "445", strict=True))  # seconds
    with (
        Emulator() as emulator,
        serve(serving.settings(emulator.url, WORKER_ACCESS_KEY=INNER_KEY, **patience)) as inner,
        serve(serving.settings(inner.url, "openai", LLAMA_PROVIDER_API_KEY=INNER_KEY)) as outer,
        WithoutWaiting(base_url=f"{inner.url}/v1", api_key=INNER_KEY) as through_one,
        WithoutWaiting(base_url=f"{outer.url}/v1", api_key=serving.KEY) as through_two,
    ):
        yield Proxies(emulator, inner, outer, through_one, through_two)


@pytest.fixture
def sdk(proxies: Proxies) -> Any:
    return proxies.through_one


def error_of(ask: Callable[..., Any], **asked: Any) -> Any:
    """The error that the SDK raises."""
    import openai

    with pytest.raises(openai.APIError) as caught:
        ask(model=MODEL, **asked)
    return caught.value


# --- answers ------------------------------------------------------------------------------------


def test_create(proxies: Proxies) -> None:
    for path in ("", "/", "/v1", "/v1/"):
        sdk = proxies.through_one.with_options(base_url=proxies.inner.url + path)
        headers = {"X-Request-Id": "mine-1"}
        answer = sdk.chat.completions.create(model=MODEL, extra_headers=headers, **asking())
        assert answer._request_id == "mine-1"
        assert (answer.object, answer.model) == ("chat.completion", MODEL)
        (choice,) = answer.choices
        assert (choice.message.role, choice.message.content) == ("assistant", SAID)
        assert (choice.finish_reason, choice.message.tool_calls) == ("stop", None)
        usage = answer.usage
        assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


def test_stream(sdk: Any) -> None:
    asked = asking(model=MODEL, stream_options={"include_usage": True})
    with sdk.chat.completions.stream(**asked) as stream:
        deltas = [event.delta for event in stream if event.type == "content.delta"]
        final = stream.get_final_completion()
    assert "".join(deltas) == final.choices[0].message.content == SAID
    assert final.choices[0].finish_reason == "stop"
    assert final.usage.completion_tokens == len(SAID.split())


@each_way
def test_a_tool_call(sdk: Any, stream: bool) -> None:
    asked = asking("Oslo", model=MODEL, tools=TOOLS)
    if stream:
        with sdk.chat.completions.stream(**asked) as helper:
            (choice,) = helper.get_final_completion().choices
    else:
        (choice,) = sdk.chat.completions.create(**asked).choices
    assert choice.finish_reason == "tool_calls"
    (call,) = choice.message.tool_calls
    assert (call.type, call.function.name) == ("function", "weather")
    assert json.loads(call.function.arguments) == {"city": "Oslo"}
    result = {"role": "tool", "content": "rain", "tool_call_id": call.id}
    asked["messages"] += [choice.message.to_dict(exclude_none=True), result]
    again = sdk.chat.completions.create(**asked)
    assert "rain" in (again.choices[0].message.content or "")


def test_the_models(sdk: Any) -> None:
    assert [model.id for model in sdk.models.list()] == [MODEL]
    assert sdk.models.retrieve(MODEL).id == MODEL


# --- errors of the caller -----------------------------------------------------------------------


def test_a_wrong_key(sdk: Any) -> None:
    error = error_of(sdk.with_options(api_key="wrong").chat.completions.create, **asking())
    assert (type(error).__name__, error.status_code) == ("AuthenticationError", 401)
    assert (error.code, error.type) == ("invalid_api_key", "authentication_error")
    assert error.request_id and error.request_id in error.message


@each_way
def test_a_bad_request(proxies: Proxies, stream: bool) -> None:
    proxies.emulator.clear()
    create = proxies.through_one.chat.completions.create
    error = error_of(create, **asking(n=2, stream=stream))
    assert (type(error).__name__, error.status_code) == ("BadRequestError", 400)
    assert (error.code, error.param) == ("invalid_parameter", "n")
    assert error.request_id
    assert proxies.emulator.requests == []


def test_what_is_not_there(sdk: Any) -> None:
    error = error_of(sdk.embeddings.create, input="Hi")
    assert (type(error).__name__, error.code) == ("NotFoundError", "not_found")
    assert "/v1/chat/completions" in error.message
    error = error_of(lambda model: sdk.models.retrieve("gpt-4o"))
    assert type(error).__name__ == "NotFoundError"


def test_retry_after_is_obeyed(proxies: Proxies) -> None:
    """The wait before its first retry would be 0.5 s at most."""
    from openai import OpenAI

    proxies.emulator.clear()
    began = time.monotonic()
    with OpenAI(base_url=proxies.inner.url, api_key=INNER_KEY, max_retries=1) as sdk:
        asked = asking("[[status=429,code=3021,retry_after=1]]")
        error = error_of(sdk.chat.completions.create, **asked)
    assert type(error).__name__ == "InternalServerError"
    assert time.monotonic() - began >= 0.95
    assert len(proxies.emulator.requests) == 2


# --- failures of the provider, through one proxy and through two --------------------------------


class Outcome(NamedTuple):
    """What the caller gets: a whole text, or the code of an error and the advice on a retry."""

    text: str
    code: str | None
    should_retry: bool
    has_retry_after: bool
    asked: int  # how often the provider was


def outcome(client: Any, emulator: Emulator, prompt: str, fault: str, stream: bool) -> Outcome:
    """Of one call of the SDK's, which may ask again. Whatever the provider's status, it is never
    AuthenticationError or RateLimitError: the caller's key is good."""
    import openai

    text, code, headers = "", None, {}
    asked = asking(f"{prompt} [[{fault}]]", model=MODEL, stream=stream)
    try:
        answer = client.chat.completions.create(**asked)
        for part in answer if stream else [answer]:
            choice = part.choices[0].delta if stream else part.choices[0].message
            text += choice.content or ""
    except openai.APIStatusError as error:
        is_ours = isinstance(error, openai.InternalServerError | openai.BadRequestError)
        assert is_ours and error.status_code in (400, 502)
        code, headers = error.code, error.response.headers
    except openai.APIError as error:  # in a stream: without the error event it would look whole
        assert stream and not isinstance(error, openai.APIConnectionError)
        assert "Request id:" in error.message
        code = error.code
    should_retry = headers.get("X-Should-Retry") == "true"
    requests = sum(prompt.encode() in request.body for request in emulator.requests)
    text = "" if code else text.replace(prompt, "")
    return Outcome(text, code, should_retry, "Retry-After" in headers, requests)


REFUSALS = [
    *(f"status={status}" for status in (400, 401, 402, 403, 404, 405, 408, 410, 413, 422, 429)),
    *(f"status={status}" for status in (500, 502, 503, 504, 524, 529)),
    *("status=429,code=3040", "status=429,code=4006", "status=429,code=3021,retry_after=2"),
    *("status=429,code=3021,retry_after=61", "status=500,retry_after=1", "redirect=302"),
]
FAULTS = [
    *("silent", "stall=0", "stall=3,framing=chunked", "no_end,framing=chunked"),
    *("endless,gap=0.1", "drip_headers=0.2"),
    *("gap=0.01", "framing=close", "json_for_stream", "sse_for_whole", "words=3"),
    *("reset=before", "reset=headers", "reset=middle", "close=before", "close=headers"),
    *("close=middle", "no_done", "junk", "garbage", "huge=9000000", "gzip=9000000"),
]
SAMPLES = {  # one for each outcome, and each stream
    str(sample["caller_gets"]): f"sample={name}" for name, sample in recorded.SAMPLES.items()
}
ROWS = {
    **{f"{fault}-whole": (fault, False) for fault in FAULTS},
    **{f"{fault}-stream": (fault, True) for fault in FAULTS + REFUSALS},
    **{sample: (sample, sample.endswith(".sse")) for sample in SAMPLES.values()},
}
SENT_TWICE = ("reset=before", "close=before")  # where a kept connection may have been at its end


@pytest.fixture(scope="module")
def outcomes(proxies: Proxies) -> dict[str, tuple[Outcome, Outcome]]:
    """Of each row through one proxy and through two, all of them side by side."""

    def of(name: str, hops: str, client: Any) -> Outcome:
        return outcome(client, proxies.emulator, f"{name} {hops}", *ROWS[name])

    with ThreadPoolExecutor(24) as pool:  # most of them wait for a deadline
        one = {name: pool.submit(of, name, "one", proxies.through_one) for name in ROWS}
        two = {name: pool.submit(of, name, "two", proxies.through_two) for name in ROWS}
        return {name: (one[name].result(), two[name].result()) for name in ROWS}


@pytest.mark.parametrize("name", ROWS)
def test_two_hops_are_as_one(outcomes: dict[str, tuple[Outcome, Outcome]], name: str) -> None:
    """The same code, the same advice, and as many calls of the provider."""
    one, two = outcomes[name]
    fault, _ = ROWS[name]
    if fault in SENT_TWICE:
        assert {one.asked, two.asked} <= {1, 2}
        one, two = one._replace(asked=1), two._replace(asked=1)
    assert two == one
    assert one.asked == (3 if one.should_retry else 1)


def test_the_faults_are_of_many_kinds(outcomes: dict[str, tuple[Outcome, Outcome]]) -> None:
    codes = {one.code for one, _ in outcomes.values()}
    assert codes >= PROVIDER_CODES - {"provider_unreachable"}
    assert codes >= {None, "context_length_exceeded", "provider_rejected_input"}


@each_way
@pytest.mark.parametrize("fault", ["gap=0", "status=429,code=4006"])
def test_each_line_of_the_log_names_the_next_request(
    proxies: Proxies, fault: str, stream: bool
) -> None:
    """And each answer the parameters that a proxy on its way ignored."""
    import openai

    request_id = f"hops-{uuid.uuid4().hex}"
    with contextlib.suppress(openai.APIStatusError):
        response = proxies.through_two.chat.completions.with_raw_response.create(
            **asking(f"[[{fault}]]", model=MODEL, stream=stream, user="ann"),
            extra_body={"x": 1},
            extra_headers={"X-Request-Id": request_id},
        )
        assert response.headers["X-Ignored-Parameters"] == "user, x"
        response.parse()
    outer = line(proxies.outer, request_id)
    inner = line(proxies.inner, outer["provider_request_id"])
    assert inner["code"] == outer["code"]
    assert inner["provider_request_id"] not in (None, inner["request_id"])


def line(server: Server, request_id: str) -> dict[str, Any]:
    """Of a request, in the log."""
    serving.wait_until(lambda: f'"request_id":"{request_id}"' in server.log)
    lines = [json.loads(text) for text in server.log.splitlines() if text.startswith("{")]
    (found,) = [line for line in lines if line.get("request_id") == request_id]
    return found  # type: ignore[no-any-return]
