"""What providers really sent, and the way it takes through the proxy, without HTTP."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from proxy.chat_request import ChatRequest
from proxy.completion import Answer, Chunk, Mark, around_text
from proxy.errors import ProxyError
from proxy.providers import Provider, UpstreamRequest, answers, refusals
from proxy.usage import AnswerUsage

CREATED = 1_790_000_000  # 2026-09-21 14:13:20 UTC
SECONDS_TO_MIDNIGHT = 35_200  # 9 h 46 min 40 s from then


@dataclass(frozen=True)
class Sample:
    """A body of samples/, with what index.json says of it."""

    body: bytes
    refusal: tuple[int, dict[str, str], bytes]  # status, headers, body
    caller_gets: dict[str, Any]  # of an answer or a refusal; empty for others

    @classmethod
    def of(cls, entry: dict[str, Any]) -> "Sample":
        body = (FOLDER / entry["file"]).read_bytes()
        # As requests has them: the case of a header's name means nothing.
        headers = {name.title(): value for name, value in entry["headers"].items()}
        return cls(body, (entry["http_status"], headers, body), entry.get("caller_gets", {}))


FOLDER = Path(__file__).parent / "samples"
INDEX = json.loads((FOLDER / "index.json").read_bytes())["samples"]
SAMPLES = {entry["file"]: Sample.of(entry) for entry in INDEX}


def chat(**fields: Any) -> ChatRequest:
    """A valid request for the model "m", with more fields or others."""
    body = as_bytes({"messages": [{"role": "user", "content": "Hi"}], **fields})
    return ChatRequest.from_json(body, ["m", "other"], id="chatcmpl-1", created=CREATED)


def refused(provider: Provider, status: int, headers: Mapping[str, str], body: bytes) -> ProxyError:
    """What the caller of this provider is told about a refusal."""
    return refusals.error(provider, CREATED, status, headers, body)


def request_to(provider: Provider, **fields: Any) -> UpstreamRequest:
    """What is sent to the provider for a request with these fields."""
    asked = chat(**fields)
    return provider.request(asked, provider.models[asked.model][0])


@dataclass
class Reply:
    """As much of upstream.Reply as the reading of answers needs."""

    sent: list[bytes]
    is_event_stream: bool = False
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)

    def pieces(self) -> Iterator[bytes]:
        return iter(self.sent)


def whole(
    provider: Provider, body: Any, *, is_event_stream: bool = False, **fields: Any
) -> dict[str, Any]:
    """The completion that a provider's whole answer becomes."""
    asked = chat(**fields)
    parts = answers.parts(provider, asked, Reply([as_bytes(body)], is_event_stream))
    return Answer(asked, AnswerUsage(), token_limit=provider.token_limit).completion(parts)


def streamed(
    provider: Provider, pieces: Iterable[bytes], *, is_event_stream: bool = True, **fields: Any
) -> Iterator[dict[str, Any]]:
    """The chunks that a provider's stream, or its whole answer, becomes."""
    asked = chat(stream=True, stream_options={"include_usage": True}, **fields)
    parts = answers.parts(provider, asked, Reply([*pieces], is_event_stream))
    answer = Answer(asked, AnswerUsage(), token_limit=provider.token_limit)
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
    return body if isinstance(body, bytes) else json.dumps(body).encode()


def sse(*frames: Any, done: bool = True) -> bytes:
    """A stream of these frames."""
    events = [b"data: " + as_bytes(frame) + b"\n\n" for frame in frames]
    return b"".join(events) + b"data: [DONE]\n\n" * done


def byte_by_byte(body: bytes) -> list[bytes]:
    return [body[i : i + 1] for i in range(len(body))]


def whole_from(stream: bytes) -> int:
    """The first place at which a stream may be cut and still be a whole answer."""
    finish = rb'data: ?(\[DONE\]|\{[^\n]*"finish_reason": ?"\w+"[^\n]*\})'
    found = re.search(finish, stream)
    return found.end() if found else len(stream) + 1


@dataclass
class Told:
    """What a caller makes of the chunks of a stream; `usage` is None where none was told."""

    text: str = ""
    reasoning: str = ""
    calls: list[tuple[str, str]] = field(default_factory=list)  # name, arguments
    finish: str | None = None
    usage: dict[str, Any] | None = None

    @classmethod
    def by(cls, chunks: Iterable[dict[str, Any]]) -> "Told":
        """Read the chunks as strictly as the strictest SDK."""
        head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": CREATED}
        said = [*chunks]
        assert all(chunk.items() >= {**head, "model": "m"}.items() for chunk in said)
        role, *deltas, finish, usage = [chunk["choices"] for chunk in said]
        assert role[0]["delta"] == {"role": "assistant", "content": ""}
        assert finish[0]["delta"] == {}
        assert usage == []
        told = cls(finish=finish[0]["finish_reason"], usage=said[-1]["usage"])
        for (choice,) in deltas:
            assert (choice["index"], choice["finish_reason"]) == (0, None)
            told._add(choice["delta"])
        return told

    def _add(self, delta: dict[str, Any]) -> None:
        assert all(delta.get(name) != "" for name in ("content", "reasoning_content"))
        self.text += delta.get("content", "")
        self.reasoning += delta.get("reasoning_content", "")
        for call in delta.get("tool_calls", []):
            function = call["function"]
            if call["index"] == len(self.calls):
                assert call["id"]
                assert call["type"] == "function"
                self.calls.append((function["name"], ""))
            name, arguments = self.calls[call["index"]]
            self.calls[call["index"]] = name, arguments + function["arguments"]


def told_of(error: ProxyError) -> tuple[int, str, str | None, str | None, str | None]:
    """What a failure tells: status, code, param, X-Should-Retry, Retry-After."""
    retry, after = map(error.headers.get, ("X-Should-Retry", "Retry-After"))
    return error.status, error.code, error.param, retry, after
