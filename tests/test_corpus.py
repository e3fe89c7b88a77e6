"""What other providers say: their refusals, their words for an end, their errors inside a 200.

Each row of corpus/*.json goes through the application, with the provider answered by `responses`.
A `source` names where the text was seen; "made up" marks a row that only guards against a false
alarm. A row whose code is a list leaves the choice between them to the proxy.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import responses
import serving
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from app import create_app

URL = "https://provider.example"
CORPUS = Path(__file__).parent / "corpus"
CALL = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
SSE = "text/event-stream"
CALLERS = {"context_length_exceeded", "provider_rejected_input"}


def rows(name: str, label: str) -> list[Any]:
    return [
        pytest.param(row, id=f"{row[label]}") for row in json.loads((CORPUS / name).read_text())
    ]


REFUSALS = rows("refusals.json", "id")
FINISH_WORDS = rows("finish_words.json", "word")


@pytest.fixture(scope="module")
def client() -> FlaskClient:
    return create_app(serving.settings(URL, "openai")).test_client()


@pytest.fixture
def provider() -> Iterator[responses.RequestsMock]:
    with responses.RequestsMock() as mock:
        yield mock


def ask(client: FlaskClient, **fields: Any) -> TestResponse:
    body = {"messages": [{"role": "user", "content": "Hi"}], **fields}
    headers = {"Authorization": f"Bearer {serving.KEY}"}
    return client.post("/", json=body, headers=headers, buffered=True)


def answer(provider: responses.RequestsMock, body: str, content_type: str, **more: Any) -> None:
    url = f"{URL}/v1/chat/completions"
    provider.post(url, body=body, content_type=content_type, **more)


def events(response: TestResponse) -> list[Any]:
    """The JSON of each event, and [DONE] where the stream ends with it."""
    data = re.findall("^data: (.*)$", response.get_data(as_text=True), re.MULTILINE)
    return [event if event == "[DONE]" else json.loads(event) for event in data]


def chunk(**choice: Any) -> str:
    fields = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    return sse({**fields, "choices": [{"index": 0, "delta": {}, **choice}]})


def sse(frame: Any, event: str | None = None) -> str:
    name = f"event: {event}\n" if event else ""
    return f"{name}data: {json.dumps(frame)}\n\n"


def allowed(row: dict[str, Any]) -> list[str]:
    return row["code"] if isinstance(row["code"], list) else [row["code"]]


@pytest.mark.parametrize("row", REFUSALS)
def test_a_refusal(
    client: FlaskClient, provider: responses.RequestsMock, row: dict[str, Any]
) -> None:
    """Its code, whether a retry helps, the place; a number is the provider's own or not there."""
    text = row["body"] if isinstance(row["body"], str) else json.dumps(row["body"])
    content_type = "text/html" if text.startswith("<") else "application/json"
    answer(provider, text, content_type, status=row["status"], headers=row.get("headers"))
    response = ask(client)
    error = response.get_json()["error"]
    assert error["code"] in allowed(row), error["message"]
    assert response.status_code == (400 if error["code"] in CALLERS else 502)
    if "retry" in row:
        assert response.headers["X-Should-Retry"] == row["retry"]
    if "param" in row:
        assert error["param"] == row["param"]
    prose = error["message"].removesuffix(response.headers["X-Request-Id"])
    if error["code"] == "context_length_exceeded":
        numbers = set(re.findall("[0-9]+", prose))
        assert numbers <= {str(row[name]) for name in ("limit", "needed") if name in row}


@pytest.mark.parametrize("row", REFUSALS[::20])
def test_a_refused_stream(
    client: FlaskClient, provider: responses.RequestsMock, row: dict[str, Any]
) -> None:
    """The status decides, so the request makes no difference."""
    text = row["body"] if isinstance(row["body"], str) else json.dumps(row["body"])
    answer(provider, text, "application/json", status=row["status"], headers=row.get("headers"))
    response = ask(client, stream=True)
    assert response.get_json()["error"]["code"] in allowed(row)
    assert response.status_code in (400, 502)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("row", FINISH_WORDS)
def test_a_word_for_an_end(
    client: FlaskClient, provider: responses.RequestsMock, row: dict[str, Any], stream: bool
) -> None:
    expected = row["expected"]
    message = {
        "tool_calls": {"tool_calls": [{"index": 0, **CALL}]},
        "function_call": {"function_call": {"name": "f", "arguments": "{}"}},
    }.get(expected, {"content": "Half"})
    if stream:
        body = chunk(delta={"role": "assistant", **message}) + chunk(finish_reason=row["word"])
        answer(provider, body + "data: [DONE]\n\n", SSE)
    else:
        choice = {"index": 0, "message": {"role": "assistant", "content": None, **message}}
        choices = [{**choice, "finish_reason": row["word"]}]
        answer(provider, json.dumps({"choices": choices}), "application/json")
    response = ask(client, stream=stream)
    if expected != "error":
        last = events(response)[:-1] if stream else [response.get_json()]
        assert [choice["finish_reason"] for event in last for choice in event["choices"]][-1] == (
            expected
        )
    elif stream:
        assert events(response)[-1]["error"]["code"] == "provider_failed"
    else:
        assert response.status_code == 502
        assert response.get_json()["error"]["code"] == "provider_failed"


def frames(*, errors: bool) -> list[Any]:
    found = json.loads((CORPUS / "errors_in_200.json").read_text())
    return [pytest.param(row, id=row["id"]) for row in found if bool(row["code"]) is errors]


@pytest.mark.parametrize("row", frames(errors=True))
def test_an_error_as_first_event(
    client: FlaskClient, provider: responses.RequestsMock, row: dict[str, Any]
) -> None:
    """It keeps its status, as nothing has been sent yet."""
    answer(provider, f"{sse(row['frame'], row.get('event'))}data: [DONE]\n\n", SSE)
    response = ask(client, stream=True)
    error = response.get_json()["error"]
    assert error["code"] in allowed(row)
    assert response.status_code == (400 if error["code"] in CALLERS else 502)


@pytest.mark.parametrize("row", frames(errors=True))
def test_an_error_after_text(
    client: FlaskClient, provider: responses.RequestsMock, row: dict[str, Any]
) -> None:
    """An error event ends the stream, and no [DONE], although the provider sends one."""
    frame = sse(row["frame"], row.get("event"))
    answer(provider, f"{chunk(delta={'content': 'Half'})}{frame}data: [DONE]\n\n", SSE)
    last = events(ask(client, stream=True))[-1]
    assert last != "[DONE]"
    assert last["error"]["code"] in allowed(row)


@pytest.mark.parametrize("row", frames(errors=False))
def test_a_frame_that_is_no_error(
    client: FlaskClient, provider: responses.RequestsMock, row: dict[str, Any]
) -> None:
    answer(provider, f"{sse(row['frame'])}data: [DONE]\n\n", SSE)
    *chunks, done = events(ask(client, stream=True))
    assert done == "[DONE]"
    text = row["frame"]["choices"][0]["delta"]["content"]
    assert (
        "".join(choice["delta"].get("content", "") for c in chunks for choice in c["choices"])
        == text
    )
