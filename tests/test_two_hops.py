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
from pathlib import Path
from typing import Any, NamedTuple

import openai
import pytest
import serving
from conftest import Serve
from openai import OpenAI
from serving import MODEL, Server

from emulator import Emulator
from proxy.errors import PROVIDER_CODES

INNER_KEY = "inner-Zk8fW2nQ5vB7xT3c"
PATIENCE = 4  # seconds of the inner proxy for the provider


class Proxies(NamedTuple):
    """The two, and the clients of each."""

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
    timeouts = dict.fromkeys(
        ["LLAMA_PROVIDER_TIMEOUT", "LLAMA_PROVIDER_IDLE_TIMEOUT"], str(PATIENCE)
    )
    with (
        Emulator() as emulator,
        serve(serving.settings(emulator.url, WORKER_ACCESS_KEY=INNER_KEY, **timeouts,
                               LLAMA_PROVIDER_TOTAL_TIMEOUT=str(PATIENCE + 1))) as inner,
        serve(serving.settings(inner.url, "openai", LLAMA_PROVIDER_API_KEY=INNER_KEY)) as outer,
        WithoutWaiting(base_url=f"{inner.url}/v1", api_key=INNER_KEY) as through_one,
        WithoutWaiting(base_url=f"{outer.url}/v1", api_key=serving.KEY) as through_two,
    ):  # fmt: skip
        yield Proxies(emulator, inner, outer, through_one, through_two)


class Outcome(NamedTuple):
    """What the caller gets: a text, or the code of an error and whether a retry helps."""

    text: str | None
    code: str | None
    should_retry: bool
    has_retry_after: bool
    asked: int  # how often the provider was


def outcome(client: OpenAI, emulator: Emulator, said: str, fault: str, stream: bool) -> Outcome:
    """Of one call of the SDK's, which may ask again."""
    asking: Any = {"model": MODEL, "messages": [{"role": "user", "content": f"{said} [[{fault}]]"}]}
    text, code, headers = "", None, {}
    try:
        if stream:
            with client.chat.completions.create(**asking, stream=True) as chunks:
                text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        else:
            text = client.chat.completions.create(**asking).choices[0].message.content or ""
    except openai.APIError as error:
        code = error.code
        if isinstance(error, openai.APIStatusError):  # otherwise the stream had begun
            headers = error.response.headers
    return Outcome(
        text.replace(said, "") if code is None else None,
        code,
        headers.get("X-Should-Retry") == "true",
        "Retry-After" in headers,
        sum(said.encode() in request.body for request in emulator.requests),
    )


FAULTS = [
    *("silent", "stall=0", "stall=3,framing=chunked", "no_end,framing=chunked"),
    *("endless,gap=0.1", "drip_headers=0.2"),
    *("gap=0.01", "framing=close", "json_for_stream", "sse_for_whole", "words=3"),
    *(f"status={status}" for status in (400, 401, 402, 403, 404, 405, 408, 410, 413, 422, 429)),
    *(f"status={status}" for status in (500, 502, 503, 504, 524, 529)),
    *("status=429,code=3040", "status=429,code=4006", "status=429,code=3021,retry_after=2"),
    *("status=429,code=3021,retry_after=61", "status=500,retry_after=1", "redirect=302"),
    *("reset=before", "reset=headers", "reset=middle", "close=before", "close=headers"),
    *("close=middle", "no_done", "junk", "garbage", "huge=9000000", "gzip=9000000"),
]
SAMPLES = sorted(path.name for path in (Path(__file__).parent / "samples").iterdir())
ROWS = {
    f"{fault}-{mode}": (fault, mode == "stream") for fault in FAULTS for mode in ("whole", "stream")
} | {
    f"sample={name}": (f"sample={name}", name.endswith(".sse"))
    for name in SAMPLES
    if name != "index.json"
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
def test_ignored_parameters_are_named(proxies: Proxies, stream: bool) -> None:
    for client in (proxies.through_one, proxies.through_two):
        response = client.chat.completions.with_raw_response.create(
            model=MODEL,
            messages=[{"role": "user", "content": "Hi"}],
            stream=stream,
            user="ann",
            extra_body={"x": 1},
        )
        assert response.headers["X-Ignored-Parameters"] == "user, x"


@pytest.mark.parametrize("fault", ["gap=0", "status=401", "status=429,code=4006"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_each_line_of_the_log_names_the_next_request(
    proxies: Proxies, fault: str, stream: bool
) -> None:
    request_id = f"hops-{uuid.uuid4().hex}"
    asked = len(proxies.emulator.requests)
    with contextlib.suppress(openai.APIStatusError):
        proxies.through_two.chat.completions.with_raw_response.create(
            model=MODEL,
            messages=[{"role": "user", "content": f"[[{fault}]]"}],
            stream=stream,
            extra_headers={"X-Request-Id": request_id},
        ).parse()
    assert len(proxies.emulator.requests) == asked + 1
    serving.wait_until(lambda: request_id in proxies.outer.log)
    outer = line(proxies.outer, request_id)
    serving.wait_until(lambda: outer["provider_request_id"] in proxies.inner.log)
    inner = line(proxies.inner, outer["provider_request_id"])
    assert inner["code"] == outer["code"]
    assert inner["provider_request_id"]
    assert inner["provider_request_id"] != inner["request_id"]


def line(server: Server, request_id: str) -> dict[str, Any]:
    """Of a request, in the log."""
    lines = [json.loads(text) for text in server.log.splitlines() if text.startswith("{")]
    (found,) = [line for line in lines if line.get("request_id") == request_id]
    return found
