"""The proxy behind itself: a fault of the provider looks the same through two proxies as through
one.

client -> inner -> emulator, and client -> outer -> inner -> emulator. Both proxies are gunicorn as
shipped: `outer` has the provider `openai`, `inner` has Workers AI. The client is OpenAI's SDK, with
its own retries.
"""

import contextlib
import json
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import openai
import pytest
import recorded
import serving
from conftest import Serve
from openai import OpenAI
from serving import MODEL, Server

from emulator import Emulator
from proxy.errors import PROVIDER_CODES

INNER_KEY = "inner-Zk8fW2nQ5vB7xT3c"


class Proxies(NamedTuple):
    """The two, and the client of each."""

    emulator: Emulator
    inner: Server
    outer: Server
    through_one: OpenAI
    through_two: OpenAI


class WithoutWaiting(OpenAI):
    """It retries at once."""

    def _sleep_for_retry(self, **_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def proxies(serve: Serve) -> Iterator[Proxies]:
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


class Outcome(NamedTuple):
    """What the caller gets: a text, or the code of an error and the advice on a retry."""

    text: str | None
    code: str | None
    should_retry: bool
    has_retry_after: bool
    asked: int  # how often the provider was


def outcome(client: OpenAI, emulator: Emulator, said: str, fault: str, stream: bool) -> Outcome:
    """Of one call of the SDK's, which may ask again."""
    asking: Any = {"model": MODEL, "messages": [{"role": "user", "content": f"{said} [[{fault}]]"}]}
    text, code, headers = None, None, {}
    try:
        answer = client.chat.completions.create(**asking, stream=stream)
        choices = (
            [chunk.choices[0].delta for chunk in answer] if stream else [answer.choices[0].message]
        )
        text = "".join(choice.content or "" for choice in choices).replace(said, "")
    except openai.APIError as error:
        code = error.code
        if isinstance(error, openai.APIStatusError):  # otherwise the stream had begun
            headers = error.response.headers
    should_retry = headers.get("X-Should-Retry") == "true"
    asked = sum(said.encode() in request.body for request in emulator.requests)
    return Outcome(text, code, should_retry, "Retry-After" in headers, asked)


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

    def of(name: str, hops: str, client: OpenAI) -> Outcome:
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


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("fault", ["gap=0", "status=429,code=4006"])
def test_each_line_of_the_log_names_the_next_request(
    proxies: Proxies, fault: str, stream: bool
) -> None:
    """And each answer the parameters that a proxy on its way ignored."""
    request_id = f"hops-{uuid.uuid4().hex}"
    with contextlib.suppress(openai.APIStatusError):
        response = proxies.through_two.chat.completions.with_raw_response.create(
            model=MODEL,
            messages=[{"role": "user", "content": f"[[{fault}]]"}],
            stream=stream,
            user="ann",
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
