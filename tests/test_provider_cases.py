"""Answers that providers gave in public reports, and what the caller must get of each.

`provider_cases/index.json` names the report, the answer's bytes and what must come. Each row goes
through the real application, with `responses` as the provider.
"""

import io
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
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
BASE_URL = "https://provider.example"
PATHS = {"openai": "/v1/chat/completions", "workers-ai": f"/{serving.MODEL}"}


@pytest.fixture(scope="module")
def clients() -> dict[str, FlaskClient]:
    """The application with each provider."""
    models = {"LLAMA_PROVIDER_MODELS": f"m={serving.MODEL}"}
    bases = {"openai": f"{BASE_URL}/v1", "workers-ai": BASE_URL}
    return {
        name: create_app(
            serving.settings("", name, LLAMA_PROVIDER_BASE_URL=base, **models)
        ).test_client()
        for name, base in bases.items()
    }


class Pieces(io.RawIOBase):
    """A body that comes in pieces of a size, and at its end is reset where `reset`."""

    def __init__(self, body: bytes, size: int, reset: bool) -> None:
        self.body, self.size, self.reset, self.at = body, size, reset, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        piece = self.body[self.at : self.at + self.size]
        if not piece and self.reset:
            raise ConnectionResetError
        buffer[: len(piece)] = piece
        self.at += len(piece)
        return len(piece)


@contextmanager
def provider(case: Any, mode: str, body: bytes, size: int, reset: bool) -> Iterator[None]:
    """It gives this body."""
    headers = {
        name: formatdate(time.time() + int(value[6:]), usegmt=True)
        if value.startswith("@date+")
        else value
        for name, value in case.get("headers", ())
    }
    with responses.RequestsMock() as mock:
        mock.post(
            BASE_URL + PATHS[case["provider"]],
            body=io.BufferedReader(Pieces(body, size, reset), 4096),
            status=case["status"],
            headers=headers,
            content_type=case[mode]["content_type"],
        )
        yield


def post(
    clients: dict[str, FlaskClient],
    row: Any,
    *,
    body: bytes | None = None,
    size: int = 4096,
    reset: bool = False,
) -> TestResponse:
    """What the caller gets where the provider gives `body`, or the row's own."""
    case, mode = row
    body = (FOLDER / case[mode]["file"]).read_bytes() if body is None else body
    asked: dict[str, Any] = {"messages": [{"role": "user", "content": "Hi"}]}
    if mode == "stream":
        asked |= {"stream": True, "stream_options": {"include_usage": True}}
    authorization = {"Authorization": f"Bearer {serving.KEY}"}
    with provider(case, mode, body, size, reset):
        response = clients[case["provider"]].post("/", json=asked, headers=authorization)
        response.get_data()
    return response


@dataclass
class Heard:
    """What a caller makes of an answer, whole or streamed."""

    content: str = ""
    reasoning: str = ""
    calls: list[dict[str, Any]] = field(default_factory=list)
    finish: str | None = None
    usage: tuple[int, ...] = (0, 0, 0)
    fields: set[str] = field(default_factory=set)
    error: str | None = None
    done: bool = False

    @classmethod
    def whole(cls, answer: dict[str, Any]) -> "Heard":
        (choice,) = answer["choices"]
        message = choice["message"]
        assert message["role"] == "assistant"
        assert "refusal" in message
        heard = cls(finish=choice["finish_reason"], fields=set(answer))
        heard._add(message)
        heard._count(answer["usage"])
        return heard

    @classmethod
    def stream(cls, body: bytes) -> "Heard":
        heard = cls()
        *events, end = body.split(b"\n\n")
        assert end == b""
        for number, event in enumerate(events):
            assert not heard.done and not heard.error
            data = event.removeprefix(b"data: ")
            if data == b"[DONE]":
                heard.done = True
            else:
                heard._chunk(json.loads(data), is_first=number == 0)
        assert heard.done == (heard.error is None)  # a cut answer never looks whole
        assert heard.done == (heard.finish is not None)
        return heard

    def _chunk(self, chunk: dict[str, Any], *, is_first: bool) -> None:
        if "error" in chunk:
            self.error, self.finish = chunk["error"]["code"], None
            return
        self.fields |= set(chunk)
        for choice in chunk["choices"]:
            assert is_first == ("role" in choice["delta"])
            assert not self.finish
            self.finish = choice["finish_reason"]
            assert not (self.finish and choice["delta"])
            self._add(choice["delta"])
        if chunk.get("usage"):
            self._count(chunk["usage"])

    def _add(self, message: dict[str, Any]) -> None:
        """A message, or a delta of one."""
        self.content += message.get("content") or ""
        self.reasoning += message.get("reasoning_content") or ""
        for position, call in enumerate(message.get("tool_calls") or ()):
            index = call.get("index", position)
            if index == len(self.calls):
                assert call["id"] and call["type"]
                self.calls.append(call)
            else:  # the next piece of one: of the names, only the arguments come in pieces
                kind = self.calls[index]["type"]
                assert not call.get("function", {}).get("name")
                for name, piece in call[kind].items():
                    self.calls[index][kind][name] += piece

    def _count(self, usage: dict[str, Any]) -> None:
        names = ("prompt_tokens", "completion_tokens", "total_tokens")
        self.usage = tuple(usage[name] for name in names)

    def meets(self, expected: dict[str, Any]) -> None:
        """Whether it is what index.json has."""
        of_kind = {
            kind: [call[kind] for call in self.calls if call["type"] == kind]
            for kind in ("function", "custom")
        }
        seen = {
            "content": self.content,
            "reasoning": self.reasoning,
            "finish": self.finish,
            "usage": list(self.usage),
            "done": self.done,
            "error": self.error,
            "calls": [[call["name"], call["arguments"]] for call in of_kind["function"]],
            "custom_calls": [[call["name"], call["input"]] for call in of_kind["custom"]],
            "indexes": [call.get("index") for call in self.calls],
        }
        wanted = {name: value for name, value in expected.items() if name in seen}
        assert {name: seen[name] for name in wanted} == wanted
        assert set(expected.get("extra_has", ())) <= self.fields
        extras = expected.get("call_extra", [])
        assert len(self.calls) >= len(extras)
        for call, extra in zip(self.calls, extras, strict=False):
            assert call.items() >= extra.items()


def check(response: TestResponse, expected: dict[str, Any], mode: str) -> None:
    """Whether the response is what index.json has."""
    assert response.status_code == expected["status"], response.get_data()
    if response.status_code != 200:
        error = response.get_json()["error"]
        assert {name: error[name] for name in ("code", "param") if name in expected} == {
            name: expected[name] for name in ("code", "param") if name in expected
        }
        assert response.headers.get("X-Should-Retry") == expected.get(
            "retry", response.headers.get("X-Should-Retry")
        )
        assert expected.get("says", "") in error["message"]
    elif mode == "whole":
        Heard.whole(response.get_json()).meets(expected)
    else:
        Heard.stream(response.get_data()).meets(expected)


def test_the_cases_are_all_there() -> None:
    files = {case[mode]["file"] for case, mode in ROWS.values()}
    assert files == {path.name for path in FOLDER.iterdir()} - {"index.json"}
    assert (len(CASES), len(ROWS)) == (52, 90)


@pytest.mark.parametrize("size", [4096, 1], ids=["at once", "byte by byte"])
@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_what_must_come(clients: dict[str, FlaskClient], row: Any, size: int) -> None:
    case, mode = row
    check(post(clients, row, size=size), case[mode]["expect"], mode)


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
def test_a_cut_never_looks_whole(clients: dict[str, FlaskClient], row: Any, reset: bool) -> None:
    """Cut after each event, and in the middle of each."""
    case, mode = row
    body = (FOLDER / case[mode]["file"]).read_bytes()
    ends = [at for at in range(len(body)) if body.startswith(b"\n\n", at)]
    cuts = {0, *(end + 2 for end in ends), *(() if reset else (end - 40 for end in ends))}
    for cut in sorted(cuts - {len(body)}):
        response = post(clients, row, body=body[:cut], reset=reset)
        if response.status_code == 200:
            heard = Heard.stream(response.get_data())
            assert not heard.done or is_finished(body[:cut]), body[:cut]
        else:
            assert response.status_code in (400, 502)


ANSWERS = {name: row for name, row in ROWS.items() if row[1] == "whole" and row[0]["status"] < 300}


@pytest.mark.parametrize("row", ANSWERS.values(), ids=ANSWERS)
def test_half_of_a_whole_answer_is_none(clients: dict[str, FlaskClient], row: Any) -> None:
    case, mode = row
    body = (FOLDER / case[mode]["file"]).read_bytes()
    response = post(clients, row, body=body[: len(body) // 2])
    assert response.status_code == 502
