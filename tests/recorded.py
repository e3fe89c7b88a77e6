"""What providers really sent, and the way it takes through the proxy, without HTTP."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from proxy import completion, usage
from proxy.chat_request import ChatRequest
from proxy.errors import ProxyError
from proxy.part import Mark
from proxy.providers import Provider, UpstreamRequest, answers, refusals

CREATED = 1_790_000_000  # 2026-09-21 14:13:20 UTC
SECONDS_TO_MIDNIGHT = 35_200  # 9 h 46 min 40 s from then


@dataclass(frozen=True)
class Sample:
    """One entry of samples/index.json."""

    file: str
    status: int
    content_type: str
    headers: dict[str, str]
    body: bytes
    caller_gets: dict[str, Any]  # of an answer or a refusal; empty for others

    @property
    def refusal(self) -> tuple[int, dict[str, str], bytes]:
        # As requests has them: the case of a header's name means nothing.
        return self.status, {k.title(): v for k, v in self.headers.items()}, self.body


def _samples() -> dict[str, Sample]:
    folder = Path(__file__).parent / "samples"
    entries = json.loads((folder / "index.json").read_bytes())["samples"]
    return {
        entry["file"]: Sample(
            entry["file"],
            entry["http_status"],
            entry["content_type"],
            entry["headers"],
            (folder / entry["file"]).read_bytes(),
            entry.get("caller_gets", {}),
        )
        for entry in entries
    }


SAMPLES = _samples()


def chat(**fields: Any) -> ChatRequest:
    """A valid request for the model "m", with more fields or others."""
    body = {"messages": [{"role": "user", "content": "Hi"}], **fields}
    return ChatRequest.from_json(
        json.dumps(body).encode(), ["m", "other"], id="chatcmpl-1", created=CREATED
    )


def refused(provider: Provider, status: int, headers: Mapping[str, str], body: bytes) -> ProxyError:
    """What the caller of this provider is told about a refusal."""
    settings = provider.address_settings
    return refusals.error(status, headers, body, now=CREATED, address_settings=settings)


def request_to(provider: Provider, **fields: Any) -> UpstreamRequest:
    """What is sent to the provider for a request with these fields."""
    asked = chat(**fields)
    return provider.request(asked, provider.models[asked.model][0])


@dataclass
class _Reply:
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
    parts = answers.parts(provider, asked, _Reply([as_bytes(body)], is_event_stream))
    used = usage.AnswerUsage()
    return completion.Answer(asked, used, token_limit=provider.token_limit).completion(parts)


def streamed(
    provider: Provider, pieces: Iterable[bytes], *, is_event_stream: bool = True, **fields: Any
) -> Iterator[dict[str, Any]]:
    """The chunks that a provider's stream, or its whole answer, becomes."""
    asked = chat(stream=True, stream_options={"include_usage": True}, **fields)
    parts = answers.parts(provider, asked, _Reply(list(pieces), is_event_stream))
    used = usage.AnswerUsage()
    chunks = completion.Answer(asked, used, token_limit=provider.token_limit).chunks(parts)
    return as_json(asked, chunks)


def as_json(asked: ChatRequest, chunks: Iterable[completion.Chunk]) -> Iterator[dict[str, Any]]:
    """The chunks as they are sent; between them are only pauses."""
    before, after = completion.around_text(asked)
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
        told = cls()
        role_chunk, *rest = list(chunks)
        assert role_chunk["choices"][0]["delta"] == {"role": "assistant", "content": ""}
        for chunk in (role_chunk, *rest):
            head = {name: chunk[name] for name in ("id", "object", "created", "model")}
            assert head == {
                "id": "chatcmpl-1",
                "object": "chat.completion.chunk",
                "created": CREATED,
                "model": "m",
            }
        *rest, finish_chunk, usage_chunk = rest
        for chunk in rest:
            (choice,) = chunk["choices"]
            assert choice["index"] == 0
            assert choice["finish_reason"] is None
            told._add(choice["delta"])
        (choice,) = finish_chunk["choices"]
        assert choice["delta"] == {}
        told.finish = choice["finish_reason"]
        assert usage_chunk["choices"] == []
        told.usage = usage_chunk["usage"]
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
    headers = error.headers
    return (
        error.status,
        error.code,
        error.param,
        headers.get("X-Should-Retry"),
        headers.get("Retry-After"),
    )
