"""Answers that providers gave in public reports, and what the caller must get of each.

`provider_cases/index.json` names the report, the answer's bytes and what must come. Each row goes
through the real application, with `responses` as the provider.
"""

import io
import json
import time
from dataclasses import dataclass, field
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
import responses
import serving
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from app import create_app

FOLDER = Path(__file__).parent / "provider_cases"
CASES = json.loads((FOLDER / "index.json").read_bytes())
ROWS = {f"{case['name']}-{mode}": (case, mode) for case in CASES for mode in ("whole", "stream")
        if mode in case}  # fmt: skip
STREAMS = {name: row for name, row in ROWS.items() if row[0][row[1]]["file"].endswith(".sse")}
URL = "https://provider.example"
PATHS = {
    "openai": "/v1/chat/completions",
    "workers-ai": f"/client/v4/accounts/{serving.ACCOUNT}/ai/run/{serving.MODEL}",
}
Clients = dict[str, FlaskClient]


@pytest.fixture(scope="module")
def clients() -> Clients:
    """The application with each provider."""
    models = f"m={serving.MODEL}"
    envs = {name: serving.settings(URL, name, LLAMA_PROVIDER_MODELS=models) for name in PATHS}
    return {name: create_app(env).test_client() for name, env in envs.items()}


def body_of(row: Any) -> bytes:
    case, mode = row
    return (FOLDER / case[mode]["file"]).read_bytes()


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


def post(
    clients: Clients, row: Any, body: bytes, *, size: int = 4096, reset: bool = False
) -> TestResponse:
    """What the caller gets where the provider of the row gives this body."""
    case, mode = row
    asked: dict[str, Any] = {"messages": [{"role": "user", "content": "Hi"}]}
    if mode == "stream":
        asked |= {"stream": True, "stream_options": {"include_usage": True}}
    with responses.RequestsMock() as provider:
        provider.post(
            URL + PATHS[case["provider"]],
            body=Pieces(body, size, reset),
            status=case["status"],
            headers={name: dated(value) for name, value in case.get("headers", ())},
            content_type=case[mode]["content_type"],
        )
        authorization = {"Authorization": f"Bearer {serving.KEY}"}
        client = clients[case["provider"]]
        return client.post("/", json=asked, headers=authorization, buffered=True)


def dated(value: str) -> str:
    """`@date+7` as the date in seven seconds."""
    is_date = value.startswith("@date+")
    return formatdate(time.time() + int(value[6:]), usegmt=True) if is_date else value


@dataclass
class Heard:
    """What a caller makes of an answer, whole or streamed."""

    content: str = ""
    reasoning: str = ""
    calls: list[dict[str, Any]] = field(default_factory=list)
    finish: str | None = None
    usage: list[int] = field(default_factory=lambda: [0, 0, 0])
    fields: set[str] = field(default_factory=set)
    error: str | None = None
    done: bool = False

    @classmethod
    def of(cls, response: TestResponse, mode: str) -> "Heard":
        heard = cls()
        if mode == "whole":
            answer = response.get_json()
            assert answer["choices"][0]["message"].keys() >= {"role", "content", "refusal"}
            heard._add(answer, "message")
            return heard
        *events, end = response.get_data().split(b"\n\n")
        assert end == b""
        for number, event in enumerate(events):
            assert not heard.done and not heard.error
            heard.done = event == b"data: [DONE]"
            chunk = {} if heard.done else json.loads(event.removeprefix(b"data: "))
            for choice in chunk.get("choices", ()):
                assert ("role" in choice["delta"]) == (number == 0)
                assert not (choice["finish_reason"] and choice["delta"])
            heard._add(chunk, "delta")
        assert heard.done == (heard.error is None)  # a cut answer never looks whole
        assert not heard.done or heard.finish
        return heard

    def _add(self, answer: dict[str, Any], key: str) -> None:
        """An answer, or a chunk of one; `key`: where its choice has the message."""
        self.error = answer.get("error", {}).get("code")
        self.fields |= answer.keys()
        for choice in answer.get("choices", ()):
            assert not self.finish
            self.finish, message = choice["finish_reason"], choice[key]
            self.content += message.get("content") or ""
            self.reasoning += message.get("reasoning_content") or ""
            for position, call in enumerate(message.get("tool_calls") or ()):
                self._add_call(call, call.get("index", position))
        if usage := answer.get("usage"):
            names = ("prompt_tokens", "completion_tokens", "total_tokens")
            self.usage = [usage[name] for name in names]

    def _add_call(self, call: dict[str, Any], index: int) -> None:
        """A call, or the next piece of one: of the names, only the arguments come in pieces."""
        if index == len(self.calls):
            assert call["id"] and call["type"]
            self.calls.append(call)
        else:
            kind = self.calls[index]["type"]
            assert not call.get("function", {}).get("name")
            for name, piece in call[kind].items():
                self.calls[index][kind][name] += piece

    def meets(self, expected: dict[str, Any]) -> None:
        """Whether it is what index.json has."""
        functions = [call["function"] for call in self.calls if call["type"] == "function"]
        customs = [call["custom"] for call in self.calls if call["type"] == "custom"]
        seen = {
            **vars(self),
            "calls": [[call["name"], call["arguments"]] for call in functions],
            "custom_calls": [[call["name"], call["input"]] for call in customs],
            "indexes": [call.get("index") for call in self.calls],
        }
        assert seen == {**seen, **{name: expected[name] for name in seen.keys() & expected.keys()}}
        assert self.fields >= set(expected.get("extra_has", ()))
        for call, extra in zip(self.calls, expected.get("call_extra", self.calls), strict=True):
            assert call.items() >= extra.items()


def check(response: TestResponse, expected: dict[str, Any], mode: str) -> None:
    """Whether the response is what index.json has."""
    assert response.status_code == expected["status"], response.get_data()
    if response.status_code == 200:
        Heard.of(response, mode).meets(expected)
    else:
        error = response.get_json()["error"]
        told = {**error, "retry": response.headers.get("X-Should-Retry")}
        assert told == {**told, **{name: expected[name] for name in told.keys() & expected.keys()}}
        assert expected.get("says", "") in error["message"]


def test_the_cases_are_all_there() -> None:
    files = {case[mode]["file"] for case, mode in ROWS.values()}
    assert files == {path.name for path in FOLDER.iterdir()} - {"index.json"}
    assert (len(CASES), len(ROWS)) == (52, 90)


@pytest.mark.parametrize("size", [4096, 1], ids=["at once", "byte by byte"])
@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_what_must_come(clients: Clients, row: Any, size: int) -> None:
    case, mode = row
    check(post(clients, row, body_of(row), size=size), case[mode]["expect"], mode)


def is_finished(stream: bytes) -> bool:
    """Whether its last complete event leaves an answer that may end there."""
    finished = False
    for line in stream.splitlines():
        data = line.removeprefix(b"data:").strip()
        if data == b"[DONE]":
            return True
        try:
            choice = json.loads(data)["choices"][0]
        except (ValueError, LookupError):
            continue
        said = choice.get("delta") or choice.get("message") or {}
        finished = bool(choice.get("finish_reason")) or (finished and not said.get("content"))
    return finished


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
@pytest.mark.parametrize("row", STREAMS.values(), ids=STREAMS)
def test_a_cut_never_looks_whole(clients: Clients, row: Any, reset: bool) -> None:
    """Cut after each event, and in the middle of each."""
    body = body_of(row)
    ends = [at for at in range(len(body)) if body.startswith(b"\n\n", at)]
    cuts = {0, *(end + 2 for end in ends), *(() if reset else (end - 40 for end in ends))}
    for cut in sorted(cuts - {len(body)}):
        response = post(clients, row, body[:cut], reset=reset)
        if response.status_code == 200:
            heard = Heard.of(response, "stream")
            assert not heard.done or is_finished(body[:cut]), body[:cut]
        else:
            assert response.status_code in (400, 502)


ANSWERS = {name: row for name, row in ROWS.items() if row[1] == "whole" and row[0]["status"] < 300}


@pytest.mark.parametrize("row", ANSWERS.values(), ids=ANSWERS)
def test_half_of_a_whole_answer_is_none(clients: Clients, row: Any) -> None:
    body = body_of(row)
    response = post(clients, row, body[: len(body) // 2])
    assert response.status_code == 502
