"""The response in OpenAI's form: a ChatCompletion, or the chunks of a stream.

https://platform.openai.com/docs/api-reference/chat/object and /chat/streaming. Every provider is
read into parts, and every response is built from them here, so clients can rely on its form.
"""

from collections.abc import Iterable, Iterator
from enum import Enum
from typing import Any, NamedTuple

from proxy import strict_json
from proxy.chat_request import ChatRequest
from proxy.errors import ProviderError
from proxy.strict_json import JSON
from proxy.tool_calls import Piece, ToolCalls
from proxy.usage import AnswerUsage


class Mark(Enum):
    """What a stream has between its parts."""

    PAUSE = "all that has arrived so far was read"
    DONE = "[DONE]"


class Part(NamedTuple):  # one for each token, so of the kind that costs least
    """What one event of a stream, or a complete answer, adds; in OpenAI's form."""

    delta: JSON  # of the message, without its tool calls; only `content` may be empty
    calls: list[Piece]
    finish_reason: str | None
    usage: JSON
    choice: JSON  # what stands beside the delta: logprobs, and other keys if they are relayed
    fields: JSON  # other keys beside `choices`, relayed
    has_choices: bool  # it came in OpenAI's form, not in the provider's own
    is_message: bool  # the whole message, not a piece of it


Chunk = JSON | str | Mark  # as `chunks` yields them


class Answer:
    """One answer, from its parts. Its usage is added to `used`.

    `token_limit`: where the provider cuts an answer of its own form if the caller sets no
    max_tokens; None if it does not.
    """

    def __init__(self, chat: ChatRequest, used: AnswerUsage, *, token_limit: int | None) -> None:
        self._chat, self._used, self._token_limit = chat, used, token_limit
        self._calls = ToolCalls(chat.id)
        self._sent: set[str] = set()  # the keys of the deltas, without `tool_calls`
        self._has_content = False  # the provider gave one, perhaps an empty one
        self._fields: JSON = {}  # for the next chunk, beside `choices`
        self._choice: JSON = {}  # for the next chunk, in its choice
        self._finish_reason: str | None = None
        self._is_finished = False  # the end has come, and not only a cut

    def completion(self, parts: Iterable[Part | Mark]) -> JSON:
        """The complete response: the chunks, joined. Raises ProviderError like `chunks`."""
        message: JSON = {"role": "assistant", "content": "", "refusal": None}
        calls: dict[int, JSON] = {}
        choice: JSON = {}
        whole: JSON = {}
        for chunk in self.chunks(parts):
            if isinstance(chunk, str):
                _join(message, {"content": chunk})
            elif not isinstance(chunk, Mark):
                _join(choice, chunk.pop("choices")[0])
                delta = choice.pop("delta")
                for call in delta.pop("tool_calls", ()):
                    _join(calls.setdefault(call.pop("index"), {}), call)
                _join(message, delta)
                whole |= chunk
        if calls:
            message["tool_calls"] = list(calls.values())
        others = map(message.get, ("refusal", "tool_calls", "function_call", "audio"))
        if any(others) and not self._has_content:
            message["content"] = None
        choices = [{"index": 0, "message": message} | choice]
        whole |= {"object": "chat.completion", "choices": choices}
        return {**whole, "usage": self._used.total()}

    def chunks(self, parts: Iterable[Part | Mark]) -> Iterator[Chunk]:
        """The chunks of a stream in the order that clients need: role, deltas, finish, usage.

        A chunk that only has content is yielded as that text, for `around_text`. Pauses are passed
        on. Raises ProviderError if there is no answer, or if the stream ended without [DONE] and
        without a finish_reason.
        """
        has_begun = False
        for part in parts:
            if part is Mark.DONE:
                self._is_finished = True
                break
            if isinstance(part, Mark):
                yield part
                continue
            delta = self._delta(part)
            if not has_begun and (delta or self._has_content or self._calls):
                has_begun = True  # an error before that has a status of its own
                yield _chunk(self._chat, _ROLE)
            if delta:
                yield self._chunk(delta)
        finish_reason = self._finish()
        if not has_begun:
            yield _chunk(self._chat, _ROLE)
        if last_calls := self._calls.end():
            yield self._chunk({"tool_calls": last_calls})
        yield self._chunk({}, finish_reason)
        if self._chat.stream and self._chat.include_usage:
            yield {**_chunk(self._chat), "usage": self._used.total()}

    def _delta(self, part: Part) -> JSON:
        """What the part adds to the message, without what is empty or came before."""
        self._fields |= part.fields
        _join(self._choice, part.choice)
        if part.has_choices:
            self._token_limit = None
        if part.usage:
            self._used.add(part.usage, is_final=not part.has_choices)
        delta, pieces = part.delta, part.calls
        if part.is_message and (self._sent or self._calls):  # all of it again, after its deltas
            delta, pieces = strict_json.others(delta, _TEXTS), []
        if "content" in delta:
            self._has_content = True
            delta = delta if delta["content"] else strict_json.others(delta, {"content"})
        self._sent |= delta.keys()
        if pieces and (calls := self._calls.deltas(pieces, is_message=part.is_message)):
            delta = {**delta, "tool_calls": calls}
        if part.finish_reason:
            self._finish_reason, self._is_finished = part.finish_reason, True
        elif delta or any(piece.name for piece in pieces):
            self._is_finished = False  # what follows a finish_reason shows that it was not the end
        return delta

    def _finish(self) -> str:
        """The provider's finish_reason, or the likeliest one. Raises ProviderError if the stream
        ended early, there is no answer at all, or tool calls are announced and missing."""
        if not self._is_finished:
            raise ProviderError("provider_failed", seen="the stream ended early")
        reason = self._finish_reason
        if self._calls:
            is_stop = reason == "stop" and not self._chat.forces_function
            return "tool_calls" if reason in (None, "function_call") or is_stop else str(reason)
        if not (self._sent or self._has_content or reason):
            raise ProviderError("provider_bad_answer", seen="no answer in it")
        if reason == "tool_calls" or (reason == "function_call" and reason not in self._sent):
            if self._sent.isdisjoint(("content", "refusal")):
                raise ProviderError("provider_bad_answer", seen=f"{reason} without a call")
            return "stop"
        if reason or self._token_limit is None:
            return reason or "stop"
        limit = self._chat.max_tokens or self._token_limit
        return "length" if self._used.total()["completion_tokens"] >= limit else "stop"

    def _chunk(self, delta: JSON, finish_reason: str | None = None) -> Chunk:
        """A chunk with what came beside the deltas since the last one."""
        if delta.keys() == {"content"} and not (self._fields or self._choice):
            return str(delta["content"])
        choice = {**_CHOICE, "delta": delta, **self._choice, "finish_reason": finish_reason}
        chunk = {**_chunk(self._chat, choice), **self._fields}
        self._fields, self._choice = {}, {}
        return chunk


_TEXTS = {"content", "reasoning_content", "refusal"}
_CHOICE = {"index": 0, "delta": {"content": None}, "logprobs": None, "finish_reason": None}
_ROLE = _CHOICE | {"delta": {"role": "assistant", "content": ""}}


def around_text(chat: ChatRequest) -> tuple[bytes, bytes]:
    """What a chunk that only has a text has before and after that text."""
    mark = b'"content":'
    before, _, after = strict_json.dumps(_chunk(chat, _CHOICE)).partition(mark + b"null")
    return before + mark, after


def _chunk(chat: ChatRequest, *choices: JSON) -> JSON:
    head = {"id": chat.id, "object": "chat.completion.chunk", "created": chat.created}
    return {**head, "model": chat.model, "choices": list(choices)}


def _join(old: JSON, new: JSON) -> None:
    """Add a piece to an object: append what comes in pieces, replace the rest."""
    for name, value in new.items():
        before: Any = old.get(name)
        if isinstance(before, dict) and isinstance(value, dict):
            _join(before, value)
        elif name in _IN_PIECES and type(before) is type(value) in (str, list):
            old[name] = None  # so `before` is the only reference, and grows in its place
            before += value
            old[name] = before
        elif value or name not in old:
            old[name] = value


_IN_PIECES = _TEXTS | {"arguments", "input", "data", "transcript"}
