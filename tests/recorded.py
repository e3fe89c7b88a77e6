"""What providers really sent, and the way it takes through the proxy, without HTTP."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import Mock

from proxy.chat_request import ChatRequest
from proxy.completion import Answer, Chunk, Mark, around_text
from proxy.errors import ProxyError
from proxy.providers import Provider, UpstreamRequest, answers, refusals
from proxy.usage import AnswerUsage

CREATED = 1_790_000_000  # 2026-09-21 14:13:20 UTC
SECONDS_TO_MIDNIGHT = 35_200  # 9 h 46 min 40 s from then

HI = {"role": "user", "content": "Hi"}
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}

TOKENS = ("prompt_tokens", "completion_tokens", "total_tokens")
INDEX = json.loads((Path(__file__).parent / "samples" / "index.json").read_bytes())
SAMPLES: dict[str, dict[str, Any]] = {entry["file"]: entry for entry in INDEX["samples"]}


def chat(**fields: Any) -> ChatRequest:
    """A valid request for the model "m", with more fields or others."""
    body = as_bytes({"messages": [HI], **fields})
    return ChatRequest.from_json(body, ["m", "other"], id="chatcmpl-1", created=CREATED)


def refused(provider: Provider, status: int, headers: Mapping[str, str], body: Any) -> ProxyError:
    """What the caller of this provider is told about a refusal."""
    return refusals.error(provider, CREATED, status, headers, as_bytes(body))


def request_to(provider: Provider, **fields: Any) -> UpstreamRequest:
    """What is sent to the provider for a request with these fields."""
    asked = chat(**fields)
    request = provider.request(asked, provider.models[asked.model][0])
    assert asked == chat(**fields)  # a second try must find it as it was
    return request


def _read(provider: Provider, asked: ChatRequest, body: bytes) -> tuple[Answer, Iterator[Any]]:
    """The answer to a request, and its parts in this body."""
    reply: Any = Mock(status=200, headers={}, is_event_stream=asked.stream)
    reply.pieces.return_value = iter([body])
    answer = Answer(asked, AnswerUsage(), token_limit=provider.token_limit)
    return answer, answers.parts(provider, asked, reply)


def whole(provider: Provider, body: Any, **fields: Any) -> dict[str, Any]:
    """The completion that a provider's whole answer becomes."""
    answer, parts = _read(provider, chat(**fields), as_bytes(body))
    return answer.completion(parts)


def streamed(provider: Provider, stream: bytes) -> Iterator[dict[str, Any]]:
    """The chunks that a provider's stream becomes."""
    asked = chat(stream=True, stream_options={"include_usage": True})
    answer, parts = _read(provider, asked, stream)
    return as_json(asked, answer.chunks(parts))


def as_json(asked: ChatRequest, chunks: Iterable[Chunk]) -> Iterator[dict[str, Any]]:
    """The chunks as they are sent; between them are only pauses."""
    before, after = around_text(asked)
    for chunk in chunks:
        if isinstance(chunk, str):
            yield json.loads(before + json.dumps(chunk).encode() + after)
        elif chunk is not Mark.PAUSE:
            assert isinstance(chunk, dict)
            yield chunk


def as_bytes(body: Any) -> bytes:
    """The body, a text as it is, or the JSON of anything else."""
    if isinstance(body, str):
        return body.encode()
    return body if isinstance(body, bytes) else json.dumps(body).encode()


def sse(*frames: Any, done: bool = True) -> bytes:
    """A stream of these frames."""
    events = [b"data: " + as_bytes(frame) + b"\n\n" for frame in frames]
    return b"".join(events) + b"data: [DONE]\n\n" * done


@dataclass
class Heard:
    """What a caller makes of an answer."""

    content: str = ""
    reasoning: str = ""
    calls: list[dict[str, Any]] = field(default_factory=list)
    finish: str | None = None
    usage: dict[str, Any] = field(default_factory=dict)
    fields: set[str] = field(default_factory=set)
    error: str | None = None

    @classmethod
    def of(cls, *answers: dict[str, Any]) -> "Heard":
        """Read a completion, or the chunks of a stream, as strictly as the strictest SDK."""
        heard = cls()
        for number, answer in enumerate(answers):
            assert not heard.error
            heard.error = answer.get("error", {}).get("code")
            heard.fields |= answer.keys()
            heard.usage = answer.get("usage", heard.usage)
            assert {int} >= {type(n) for name, n in heard.usage.items() if name in TOKENS}
            for name in ("id", "object", "created", "model"):
                assert heard.error or answer[name] == answers[0][name]
            for choice in answer.get("choices", ()):
                assert not heard.finish
                heard.finish = choice["finish_reason"]
                if "message" in choice:
                    assert choice["message"].keys() >= {"role", "content", "refusal"}
                else:
                    assert ("role" in choice["delta"]) == (number == 0)
                    assert not (heard.finish and choice["delta"])
                    texts = (choice["delta"].get(key) for key in ("content", "reasoning_content"))
                    assert "" not in texts or number == 0
                heard.add(choice.get("message") or choice["delta"])
        return heard

    def add(self, message: dict[str, Any]) -> None:
        self.content += message.get("content") or ""
        self.reasoning += message.get("reasoning_content") or ""
        for position, call in enumerate(message.get("tool_calls") or ()):
            index = call.get("index", position)
            if index == len(self.calls):
                assert call["id"] and call["type"]
                self.calls.append(call)
                continue
            before = self.calls[index]
            inner = before[before["type"]]
            assert not call.get("function", {}).get("name")  # only the arguments come in pieces
            for name, piece in call.get(before["type"], {}).items():
                inner[name] = inner[name] + piece if name in ("arguments", "input") else piece
            self.calls[index] = {**before, **call, before["type"]: inner}

    @property
    def functions(self) -> list[list[str]]:
        """The name and the arguments of each function called."""
        called = [call["function"] for call in self.calls if call["type"] == "function"]
        return [[function["name"], function["arguments"]] for function in called]


def told_of(error: ProxyError) -> tuple[int, str, str | None, str | None, str | None]:
    """What a failure tells: status, code, param, X-Should-Retry, Retry-After."""
    retry, after = map(error.headers.get, ("X-Should-Retry", "Retry-After"))
    return error.status, error.code, error.param, retry, after
