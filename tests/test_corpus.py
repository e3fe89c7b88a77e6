"""What other providers say: their refusals, their words for an end, their errors inside a 200.

Each row of corpus/*.json goes through the application, with the provider answered by `responses`.
A `source` names where the text was seen; "made up" marks a row that only guards against a false
alarm, or shows a form. A row whose code is a list leaves the choice between them to the proxy.
"""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import responses
import serving
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from app import create_app
from proxy.errors import ProxyError

URL = "https://provider.example"
CALL = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def rows(name: str, label: str = "id") -> list[Any]:
    found = json.loads((Path(__file__).parent / "corpus" / name).read_text())
    return [pytest.param(row, id=f"{row[label]}") for row in found]


FRAMES = rows("errors_in_200.json")
ERRORS = [row for row in FRAMES if row.values[0]["code"]]
NO_ERRORS = [row for row in FRAMES if not row.values[0]["code"]]


@pytest.fixture(scope="module")
def client() -> FlaskClient:
    return create_app(serving.settings(URL, "openai")).test_client()


def ask(client: FlaskClient, stream: bool, body: str, **answer: Any) -> TestResponse:
    """What the caller gets where the provider answers so."""
    asked = {"messages": [{"role": "user", "content": "Hi"}], "stream": stream}
    headers = {"Authorization": f"Bearer {serving.KEY}"}
    with responses.RequestsMock() as provider:
        provider.post(f"{URL}/v1/chat/completions", body=body, **answer)
        return client.post("/", json=asked, headers=headers, buffered=True)


def events(response: TestResponse) -> list[Any]:
    """The JSON of each event, and [DONE] where the stream ends with it."""
    data = re.findall("^data: (.*)$", response.get_data(as_text=True), re.MULTILINE)
    return [event if event == "[DONE]" else json.loads(event) for event in data]


def chunk(**choice: Any) -> str:
    return sse({"choices": [{"index": 0, "delta": {}, **choice}]})


def sse(frame: Any, event: str | None = None) -> str:
    name = f"event: {event}\n" if event else ""
    return f"{name}data: {json.dumps(frame)}\n\n"


def check(response: TestResponse, row: dict[str, Any]) -> dict[str, Any]:
    """Whether it is the error of the row, with its status."""
    error: dict[str, Any] = response.get_json()["error"]
    assert error["code"] in (row["code"] if isinstance(row["code"], list) else [row["code"]])
    assert response.status_code == ProxyError(error["code"]).status
    return error


@pytest.mark.parametrize("row", rows("refusals.json"))
def test_a_refusal(client: FlaskClient, row: dict[str, Any]) -> None:
    """Its code, whether a retry helps, the place; a number is the provider's own or not there."""
    text = row["body"] if isinstance(row["body"], str) else json.dumps(row["body"])
    response = ask(client, False, text, status=row["status"], headers=row.get("headers"))
    error = check(response, row)
    retry = response.headers.get("X-Should-Retry")
    assert row.get("retry", retry) == retry
    assert row.get("param", error["param"]) == error["param"]
    prose = error["message"].removesuffix(response.headers["X-Request-Id"])
    assert row.get("says", "") in prose
    if error["code"] == "provider_rejected_input":
        assert (f"'{error['param']}'" in prose) is (error["param"] is not None)
    if error["code"] == "context_length_exceeded":
        size = re.search(r"window(?: of (\d+) tokens)?(?: \((\d+) were asked for\))?;", prose)
        numbers = [str(row[name]) if name in row else None for name in ("limit", "needed")]
        assert size and [*size.groups()] == numbers


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("row", rows("finish_words.json", "word"))
def test_a_word_for_an_end(client: FlaskClient, row: dict[str, Any], stream: bool) -> None:
    message = {
        "tool_calls": {"tool_calls": [{"index": 0, **CALL}]},
        "function_call": {"function_call": {"name": "f", "arguments": "{}"}},
    }.get(row["expected"], {"content": "Half"})
    choice = {"index": 0, "message": message, "finish_reason": row["word"]}
    body = chunk(delta=message) + chunk(finish_reason=row["word"]) + "data: [DONE]\n\n"
    response = ask(client, stream, body if stream else json.dumps({"choices": [choice]}))
    heard = events(response) if stream else [response.get_json()]
    if row["expected"] == "error":
        assert heard[-1]["error"]["code"] == "provider_failed"
        assert response.status_code == (200 if stream else 502)
    else:
        last = [event for event in heard if event != "[DONE]"][-1]
        assert last["choices"][0]["finish_reason"] == row["expected"]


@pytest.mark.parametrize("row", ERRORS)
def test_an_error_in_a_200(client: FlaskClient, row: dict[str, Any]) -> None:
    """As first event it keeps its status. After text an error event ends the stream, and no [DONE],
    although the provider sends one."""
    body = f"{sse(row['frame'], row.get('event'))}data: [DONE]\n\n"
    first = check(ask(client, True, body), row)
    *_, last = events(ask(client, True, chunk(delta={"content": "Half"}) + body))
    assert last["error"]["code"] == first["code"]


@pytest.mark.parametrize("row", NO_ERRORS)
def test_a_frame_that_is_no_error(client: FlaskClient, row: dict[str, Any]) -> None:
    *chunks, done = events(ask(client, True, f"{sse(row['frame'])}data: [DONE]\n\n"))
    assert done == "[DONE]"
    text = "".join(choice["delta"].get("content", "") for c in chunks for choice in c["choices"])
    assert text == row["frame"]["choices"][0]["delta"]["content"]
