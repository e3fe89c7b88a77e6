"""What providers sent, and what the caller must get of it.

Each row goes through the application, with the provider answered by `responses`:
- provider_cases/index.json: answers from public reports, with their bytes
- samples/index.json: what Workers AI sends
- corpus/answers.json: answers and streams of other forms; where no provider is named, Workers AI's
- the rest of corpus/: refusals, words for an end, errors inside a 200. A `source` names where the
  text was seen; "made up" marks a row that only guards against a false alarm, or shows a form.
"""

import io
import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import responses
import serving
from flask.testing import FlaskClient
from recorded import SAMPLES, TOKENS, Heard, as_bytes, sse
from werkzeug.test import TestResponse

from app import create_app
from proxy.errors import ProxyError

FOLDER = Path(__file__).parent / "provider_cases"
SAMPLES_FOLDER = Path(__file__).parent / "samples"
URL = "https://provider.example"
PATHS = {
    "openai": "/v1/chat/completions",
    "workers-ai": f"/client/v4/accounts/{serving.ACCOUNT}/ai/run/{serving.MODEL}",
}


@cache
def client(provider: str) -> FlaskClient:
    models = {"LLAMA_PROVIDER_MODELS": f"m={serving.MODEL}"}
    return create_app(serving.settings(URL, provider, **models)).test_client()


class Pieces(io.BufferedReader):  # `responses` takes no other body that is read
    """A body that comes in pieces of a size, and at its end is reset where `reset`."""

    def __init__(self, body: bytes, size: int, reset: bool) -> None:
        super().__init__(io.BytesIO(body))  # type: ignore[arg-type]
        self.size, self.reset = size, reset

    def read1(self, _: int = -1) -> bytes:
        piece = super().read1(self.size)
        if not piece and self.reset:
            raise ConnectionResetError
        return piece


def ask(
    body: Any,
    stream: bool,
    provider: str = "openai",
    *,
    size: int = 4096,
    reset: bool = False,
    headers: Any = (),
    **answer: Any,
) -> TestResponse:
    """What the caller gets where the provider answers so."""
    asked = serving.asking()
    if stream:
        asked |= {"stream": True, "stream_options": {"include_usage": True}}
    pieces = Pieces(as_bytes(body), size, reset)
    with responses.RequestsMock() as mock:
        mock.post(URL + PATHS[provider], body=pieces, headers=dict(headers), **answer)
        return client(provider).post("/", json=asked, headers=serving.BEARER, buffered=True)


def events(response: TestResponse) -> list[Any]:
    """The data of each event of a stream; [DONE] stays text."""
    assert response.content_type == "text/event-stream; charset=utf-8"
    *frames, end = response.data.decode("ascii").split("\n\n")
    assert end == ""
    assert all(frame.startswith("data: ") and "\n" not in frame for frame in frames)
    data = [frame.removeprefix("data: ") for frame in frames]
    return [text if text == "[DONE]" else json.loads(text) for text in data]


def heard_in(response: TestResponse) -> Heard:
    """The answer. A stream that was cut never looks whole."""
    if response.content_type == "application/json":
        return Heard.of(response.get_json())
    sent = events(response)
    is_done = sent[-1] == "[DONE]"
    heard = Heard.of(*sent[: len(sent) - is_done])
    assert is_done == bool(heard.finish) == (heard.error is None)
    return heard


def check(response: TestResponse, expected: dict[str, Any]) -> None:
    """Whether the response is what the index has, as far as it names it."""
    assert response.status_code == expected["status"], response.get_data()
    if response.status_code == 200:
        heard = heard_in(response)
        customs = [call["custom"] for call in heard.calls if call["type"] == "custom"]
        seen = vars(heard) | {
            "calls": heard.functions,
            "custom_calls": [[call["name"], call["input"]] for call in customs],
            "indexes": [call.get("index") for call in heard.calls],
            "tokens": [heard.usage.get(name) for name in TOKENS],
        }
        assert heard.fields >= set(expected.get("extra_has", ()))
        for call, extra in zip(heard.calls, expected.get("call_extra", heard.calls), strict=True):
            assert call.items() >= extra.items()
        assert seen == seen | {name: expected[name] for name in seen.keys() & expected.keys()}
    else:
        check_error(response, expected)


def check_error(response: TestResponse, expected: dict[str, Any]) -> dict[str, Any]:
    """Whether the error is the expected one; of several codes each is right. Gives the error."""
    error: dict[str, Any] = response.get_json()["error"]
    codes = expected["code"] if isinstance(expected["code"], list) else [expected["code"]]
    assert error["code"] in codes
    assert response.status_code == ProxyError(error["code"]).status
    assert expected.get("says", "") in error["message"]
    for text in ("AiError", "@cf", "http", "/client", "1b4f0c2e", "Cloudflare", "neurons", "<"):
        assert text not in error["message"]
    retry, after = map(response.headers.get, ("X-Should-Retry", "Retry-After"))
    seen = {"param": error["param"], "retry": retry, "retry_after": after}
    assert seen == seen | {name: expected[name] for name in seen.keys() & expected.keys()}
    return error


# --- answers, whole and streamed ----------------------------------------------------------------


class Row(NamedTuple):
    """A body, whether it is asked for as a stream, what the caller gets; how `ask` sends it."""

    body: bytes
    stream: bool
    gets: dict[str, Any]
    sent: dict[str, Any]

    def response(self, **options: Any) -> TestResponse:
        return ask(**{"body": self.body, "stream": self.stream, **self.sent, **options})


def rows(name: str, label: str = "id") -> list[Any]:
    found = json.loads((Path(__file__).parent / "corpus" / name).read_bytes())
    return [pytest.param(row, id=f"{row[label]}") for row in found]


def recorded_rows() -> Iterator[tuple[str, Row]]:
    for case in CASES:
        sent = {key: case[key] for key in ("provider", "status", "headers") if key in case}
        for mode in ("whole", "stream"):
            if one := case.get(mode):
                body = (FOLDER / one["file"]).read_bytes()
                more = sent | {"content_type": one["content_type"]}
                yield f"{case['name']}-{mode}", Row(body, mode == "stream", one["expect"], more)
    for name, one in SAMPLES.items():
        sent = {key: one[key] for key in ("headers", "content_type")}
        sent |= {"provider": "workers-ai", "status": one["http_status"]}
        body = (SAMPLES_FOLDER / name).read_bytes()
        for stream in {True, name.endswith(".sse")}:  # a stream may be answered with one object
            yield f"{name}-{stream}", Row(body, stream, one["caller_gets"], sent)


def made_rows() -> Iterator[tuple[str, Row]]:
    for param in rows("answers.json"):
        (one,) = param.values
        frames = one.get("frames")
        body = as_bytes(one["body"]) if frames is None else sse(*frames, done="is_cut" not in one)
        for stream in {True, frames is not None}:
            sent = {"provider": one.get("provider", "workers-ai")}
            yield f"{one['id']}-{stream}", Row(body, stream, one["gets"], sent)


CASES = json.loads((FOLDER / "index.json").read_bytes())
RECORDED = dict(recorded_rows())
ROWS = RECORDED | dict(made_rows())
STREAMS = {name: row for name, row in ROWS.items() if row.stream and row.body[:1] not in b"{<"}
ANSWERS = {name: row for name, row in ROWS.items() if not row.stream and row.gets["status"] == 200}


def test_the_cases_are_all_there() -> None:
    files = {case[mode]["file"] for case in CASES for mode in ("whole", "stream") if mode in case}
    assert files == {path.name for path in FOLDER.iterdir()} - {"index.json"}
    assert len(CASES) == 52


@pytest.mark.parametrize("size", [4096, 1], ids=["at once", "byte by byte"])
@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_what_must_come(row: Row, size: int) -> None:
    check(row.response(size=size), row.gets)


# A stream may end after [DONE], and after a reason that no more text follows.
MAY_END = re.compile(rb'\[DONE\]|"(finish_reason|status)": ?"\w(?!.*"content": ?"[^"])', re.DOTALL)


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
@pytest.mark.parametrize("row", STREAMS.values(), ids=STREAMS)
def test_a_cut_never_looks_whole(row: Row, reset: bool) -> None:
    """Cut after each event, and in the middle of each."""
    ends = [end.end() for end in re.finditer(b"\n\n", row.body)]
    for cut in {0, *ends[:-1], *(max(end - 40, 0) for end in ends)}:
        response = row.response(body=row.body[:cut], reset=reset)
        if response.status_code == 200:
            complete = row.body[:cut].rpartition(b"\n\n")[0]
            assert heard_in(response).error or MAY_END.search(complete), complete
        else:
            assert response.status_code in (400, 502)


@pytest.mark.parametrize("row", ANSWERS.values(), ids=ANSWERS)
def test_half_of_a_whole_answer_is_none(row: Row) -> None:
    assert row.response(body=row.body[: len(row.body) // 2]).status_code == 502


# --- refusals, words for an end, errors in a 200 ------------------------------------------------

CALL = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
HALF = {"choices": [{"delta": {"content": "Half"}}]}


@pytest.mark.parametrize("row", rows("refusals.json"))
def test_a_refusal(row: dict[str, Any]) -> None:
    """A number is the provider's own or not there."""
    response = ask(row["body"], False, status=row["status"], headers=row.get("headers", ()))
    error = check_error(response, row)
    prose = error["message"]
    if error["code"] == "provider_rejected_input":
        assert (f"'{error['param']}'" in prose) is (error["param"] is not None)
    if error["code"] == "context_length_exceeded":
        size = re.search(r"window(?: of (\d+) tokens)?(?: \((\d+) were asked for\))?;", prose)
        numbers = [str(row[name]) if name in row else None for name in ("limit", "needed")]
        assert size and [*size.groups()] == numbers


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("row", rows("finish_words.json", "word"))
def test_a_word_for_an_end(row: dict[str, Any], stream: bool) -> None:
    message = {
        "tool_calls": {"tool_calls": [{"index": 0, **CALL}]},
        "function_call": {"function_call": {"name": "f", "arguments": "{}"}},
    }.get(row["expected"], {"content": "Half"})
    end = {"finish_reason": row["word"]}
    events = sse({"choices": [{"delta": message}]}, {"choices": [{"delta": {}, **end}]})
    response = ask(events if stream else {"choices": [{"message": message, **end}]}, stream)
    if row["expected"] == "error" and not stream:
        check_error(response, {"code": "provider_failed"})
    else:
        heard = heard_in(response)
        assert (heard.finish or "error") == row["expected"]
        assert heard.error == (None if heard.finish else "provider_failed")


@pytest.mark.parametrize("row", rows("errors_in_200.json"))
def test_an_error_in_a_200(row: dict[str, Any]) -> None:
    """As first event it keeps its status. After text an error event ends the stream, and no [DONE],
    although the provider sends one. A row without a code is a false alarm."""
    name = f"event: {row['event']}\n".encode() if "event" in row else b""
    events = name + sse(row["frame"]).replace(b"data", row.get("field", "data").encode(), 1)
    first = ask(events, True)
    if row["code"]:
        code = check_error(first, row)["code"]
        assert heard_in(ask(sse(HALF, done=False) + events, True)).error == code
    else:
        assert heard_in(first).content == row["frame"]["choices"][0]["delta"]["content"]
