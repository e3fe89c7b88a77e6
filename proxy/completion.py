"""The response in OpenAI's form: a ChatCompletion, or the chunks of a stream.

https://platform.openai.com/docs/api-reference/chat/object and /chat/streaming. Every provider is
read into parts, and every response is built from them here, so clients can rely on its form.
"""

from collections.abc import Iterable, Iterator
from typing import Any

from proxy import strict_json
from proxy.chat_request import ChatRequest
from proxy.errors import ProviderError
from proxy.part import FAILED, Mark, Part
from proxy.strict_json import JSON
from proxy.tool_calls import ToolCalls
from proxy.usage import AnswerUsage

Chunk = JSON | str | Mark  # as `chunks` yields them


def completion(
    chat: ChatRequest, parts: Iterable[Part | Mark], used: AnswerUsage, *, token_limit: int | None
) -> JSON:
    """The complete response, also where the provider sent a stream. Raises ProviderError.

    `token_limit`: where the provider cuts the answer if the caller sets no max_tokens; None if it
    does not. The usage is added to `used`.
    """
    answer = _Answer(chat, used, token_limit)
    message: JSON = {"role": "assistant", "content": None, "refusal": None}
    texts: dict[str, list[str]] = {}
    logprobs: JSON = {}
    for part in answer.until_done(parts):
        if isinstance(part, Mark):
            continue
        _merge(answer.delta(part), message, texts)
        if part.content is not None:
            texts.setdefault("content", [])
        _join(logprobs, part.logprobs or {})
        answer.raise_if_failed()
    _merge({"tool_calls": answer.calls.end()}, message, texts)
    message |= {name: "".join(pieces) for name, pieces in texts.items()}
    if not any(map(message.get, ("content", "refusal", "tool_calls", "function_call", "audio"))):
        message["content"] = ""
    choice = {**answer.choice, "index": 0, "message": message, "logprobs": logprobs or None}
    choices = [choice | {"finish_reason": answer.finish()}]
    answer.fields |= _head(chat, "chat.completion")
    return {**answer.fields, "choices": choices, "usage": used.total()}


def _merge(delta: JSON, message: JSON, texts: dict[str, list[str]]) -> None:
    """Add a delta to a message."""
    for name, value in delta.items():
        if name in ("content", "reasoning_content", "refusal"):
            texts.setdefault(name, []).append(value)
        elif name != "tool_calls":
            _join(message, {name: value})
        else:
            for call in value:
                calls = message.setdefault("tool_calls", [])
                if (index := call.pop("index")) == len(calls):
                    calls.append({})
                _join(calls[index], call)


def _join(old: JSON, new: JSON) -> None:
    """Add a piece to an object: append what comes in pieces, replace the rest."""
    for name, value in new.items():
        before = old.get(name)
        if isinstance(before, dict) and isinstance(value, dict):
            _join(before, value)
        elif name in _IN_PIECES and isinstance(before, str | list) and type(before) is type(value):
            old[name] += value
        else:
            old[name] = value


_IN_PIECES = {"arguments", "input", "data", "transcript", "content", "refusal"}


def chunks(
    chat: ChatRequest, parts: Iterable[Part | Mark], used: AnswerUsage, *, token_limit: int | None
) -> Iterator[Chunk]:
    """The chunks of a stream in the order that clients need: role, deltas, finish, usage.

    A chunk that only has content is yielded as that text; `around_text` has what to put around it.
    Pauses are passed on. Raises ProviderError if there is no answer, or if the stream ended without
    [DONE] and without a finish_reason.
    """
    answer = _Answer(chat, used, token_limit)
    has_begun = False
    for part in answer.until_done(parts):
        if isinstance(part, Mark):
            yield part
            continue
        if not has_begun and part.has_output and part.finish_reason != FAILED:
            has_begun = True  # until then, an error keeps its status
            yield answer.chunk({"role": "assistant", "content": ""})
        if part.is_text and not answer.calls:
            answer.add_text(part)
            yield part.content or ""
            continue
        if ((delta := answer.delta(part)) or part.logprobs) and has_begun:
            yield answer.chunk(delta, logprobs=part.logprobs)
        answer.raise_if_failed()
    last_calls = answer.calls.end()
    finish_reason = answer.finish()
    if not has_begun:
        yield answer.chunk({"role": "assistant", "content": ""})
    if last_calls:
        yield answer.chunk({"tool_calls": last_calls})
    yield answer.chunk({}, finish_reason=finish_reason)
    if chat.include_usage:
        yield {**_head(chat, "chat.completion.chunk"), "choices": [], "usage": used.total()}


def around_text(chat: ChatRequest) -> tuple[bytes, bytes]:
    """What a chunk that only has a text has before and after that text."""
    mark = b'"content":'
    chunk = strict_json.dumps(_chunk(chat, {"content": None}, {}))
    before, _, after = chunk.partition(mark + b"null")
    return before + mark, after


class _Answer:
    """What the provider has sent so far of one answer."""

    def __init__(self, chat: ChatRequest, used: AnswerUsage, token_limit: int | None) -> None:
        self.chat, self.used, self.token_limit = chat, used, token_limit
        self.calls = ToolCalls(chat.id)
        self.fields: JSON = {}  # for the next chunk, beside `choices`
        self.choice: JSON = {}  # for the next chunk, in its choice
        self.has_text = self.has_output = self.has_choices = self.has_function_call = False
        self.has_sent = False  # anything that is not empty
        self.finish_reason: str | None = None
        self.is_finished = False  # the end has come, and not only a cut

    def until_done(self, parts: Iterable[Part | Mark]) -> Iterator[Part | Mark]:
        """The parts before [DONE]. Raises ProviderError if the stream ended early."""
        for part in parts:
            if part is Mark.DONE:
                return
            yield part
        if not self.is_finished:
            raise ProviderError("provider_failed", seen="the stream ended early")

    def add_text(self, part: Part) -> None:
        """Like `delta`, but faster, for a part that only has content."""
        self.has_choices = self.has_choices or part.has_choices
        self.has_text = self.has_output = self.has_sent = True
        self.is_finished = False

    def delta(self, part: Part) -> JSON:
        """What the part adds to the message."""
        self.fields |= part.fields
        self.choice |= part.choice
        self.has_choices = self.has_choices or part.has_choices
        self.has_function_call = self.has_function_call or "function_call" in part.extra
        if part.usage:
            self.used.add(part.usage, is_final=not part.has_choices)
        if part.is_message and self.has_sent:  # all of it again, after its deltas
            part = part._replace(content=None, reasoning=None, refusal=None, tool_calls=())
        texts = (part.reasoning, part.content, part.refusal)
        named = zip(("reasoning_content", "content", "refusal"), texts, strict=True)
        delta: JSON = {**part.extra, **{name: text for name, text in named if text}}
        calls = self.calls.deltas(part.tool_calls)
        if calls or (delta and (calls := self.calls.waiting())):
            delta["tool_calls"] = calls
        self.has_output = self.has_output or part.has_output
        self.has_text = self.has_text or bool(part.content or part.refusal)
        self.has_sent = self.has_sent or bool(delta or self.calls)
        if part.finish_reason:
            self.finish_reason, self.is_finished = part.finish_reason, True
        elif delta or any(piece.name for piece in part.tool_calls):
            # What follows a finish_reason shows that it was not the end.
            self.is_finished = False
        return delta

    def raise_if_failed(self) -> None:
        if self.finish_reason == FAILED:
            raise ProviderError("provider_failed", seen="finish_reason: an error")

    def finish(self) -> str:
        """The provider's finish_reason, or the likeliest one. Raises ProviderError if there is no
        answer at all, or tool calls are announced and missing."""
        if not (self.has_output or self.has_text or self.finish_reason):
            raise ProviderError("provider_bad_answer", seen="no answer in it")
        reason = self.finish_reason
        if self.calls:
            is_stop = reason == "stop" and not self.chat.forces_function
            return "tool_calls" if reason in (None, "function_call") or is_stop else str(reason)
        is_missing = reason == "function_call" and not self.has_function_call
        if reason == "tool_calls" or is_missing:
            if not self.has_text:
                raise ProviderError("provider_bad_answer", seen=f"{reason} without a call")
            return "stop"
        return reason or self._likeliest()

    def _likeliest(self) -> str:
        """Where the provider gave none. Workers AI's own form has none, also at the limit."""
        if self.token_limit is None or self.has_choices:
            return "stop"
        limit = self.chat.max_tokens or self.token_limit
        return "length" if self.used.total()["completion_tokens"] >= limit else "stop"

    def chunk(self, delta: JSON, **choice: Any) -> JSON:
        """A chunk with the fields that came since the last one."""
        chunk = {**self.fields, **_chunk(self.chat, delta, self.choice | choice)}
        self.fields, self.choice = {}, {}
        return chunk


def _chunk(chat: ChatRequest, delta: JSON, more: JSON) -> JSON:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": None, **more}
    return {**_head(chat, "chat.completion.chunk"), "choices": [choice]}


def _head(chat: ChatRequest, kind: str) -> JSON:
    return {"id": chat.id, "object": kind, "created": chat.created, "model": chat.model}
