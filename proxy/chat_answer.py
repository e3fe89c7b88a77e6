"""What the caller gets: OpenAI's ChatCompletion, and the chunks of a stream, always complete.

https://platform.openai.com/docs/api-reference/chat/object and /chat/streaming. Every provider is
read into `Part`s and every answer is written from them, so what clients rely on stands here once.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import Any, NamedTuple

from proxy import strict_json, usage
from proxy.chat_request import ChatRequest
from proxy.errors import ProviderError
from proxy.strict_json import JSON


@dataclass(frozen=True)
class ToolCall:
    """A call, or the next piece of one. `arguments` is JSON text, or a piece of it."""

    index: int | None
    id: str | None
    name: str | None
    arguments: str | None


class Mark(Enum):
    """What a stream has between its parts."""

    PAUSE = "all that has come so far is told"
    DONE = "[DONE]"


_NOTHING: Mapping[str, Any] = MappingProxyType({})


class Part(NamedTuple):  # made for each token, and so of the kind that costs least
    """What a whole answer, or one event of a stream, says; None is what it does not say."""

    content: str | None = None
    reasoning: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    finish_reason: str | None = None  # one of FINISH_REASONS
    usage: JSON | None = None
    logprobs: JSON | None = None
    extra: Mapping[str, Any] = _NOTHING  # more keys of the message, relayed as they came
    fields: Mapping[str, Any] = _NOTHING  # more keys beside choices, relayed as they came
    has_choices: bool = True  # said in OpenAI's form, not in the provider's own

    @property
    def is_answer(self) -> bool:
        """An empty string is an answer; nothing at all is none."""
        said = self.content is not None or self.finish_reason is not None
        return (
            said or bool(self.reasoning or self.extra) or any(call.name for call in self.tool_calls)
        )

    @property
    def is_text(self) -> bool:
        """Whether it tells a piece of the content and nothing else, as most events do."""
        return bool(self.content) and not (
            self.reasoning
            or self.tool_calls
            or self.finish_reason
            or self.usage
            or self.logprobs
            or self.extra
            or self.fields
        )


Chunk = JSON | str | Mark  # as `chunks` yields them
FINISH_REASONS = ("stop", "length", "tool_calls", "content_filter")


def completion(chat: ChatRequest, part: Part, *, token_limit: int | None) -> JSON:
    """The whole answer. Raises ProviderError where there is none.

    `token_limit`: where the provider stops without a word if the caller sets no max_tokens.
    """
    if not part.is_answer:
        raise ProviderError("provider_bad_answer", seen="a 200 without an answer")
    named = [call for call in part.tool_calls if call.name]
    calls = [_whole_call(chat, index, call, "{}") for index, call in enumerate(named)]
    message = {"role": "assistant", "content": part.content, **part.extra}
    if calls:
        message["tool_calls"] = calls
    elif part.content is None:
        message["content"] = ""
    if part.reasoning:
        message["reasoning_content"] = part.reasoning
    used = usage.counted(part.usage)
    choice = {
        "index": 0,
        "message": message,
        "logprobs": part.logprobs,
        "finish_reason": _finish(chat, part, bool(calls), used, token_limit),
    }
    head = _head(chat, "chat.completion")
    return {**part.fields, **head, "choices": [choice], "usage": used}


def chunks(
    chat: ChatRequest,
    parts: Iterable[Part | Mark],
    used: usage.OfAnswer,
    *,
    token_limit: int | None,
) -> Iterator[Chunk]:
    """The chunks of a stream in the order that clients need: role, deltas, finish, usage.

    Most tell a piece of the content and nothing else: such a one is that text, which `around_text`
    tells how to write. Pauses are passed on. The usage is added to `used`, asked for or not. Raises
    ProviderError where there is no answer, or a cut one: the end came, and neither a [DONE] nor a
    finish_reason before it.
    """
    told = _Told(chat, used)
    for part in parts:
        if part is Mark.DONE:
            break
        if isinstance(part, Mark):
            yield part
            continue
        if part.is_answer and not told.is_answer:  # until then a failure keeps its status
            yield _chunk(chat, {"role": "assistant", "content": ""})
        told.note(part)
        if part.is_text:
            yield part.content or ""
        elif ((delta := told.delta(part)) or part.logprobs) and told.is_answer:
            yield {**part.fields, **_chunk(chat, delta, logprobs=part.logprobs)}
    else:
        if told.finish_reason is None:
            raise ProviderError("provider_failed", seen="the stream ended early")
    if not told.is_answer:
        raise ProviderError("provider_bad_answer", seen="a stream without an answer")
    total = used.total()
    if empty := told.calls_without_arguments():
        yield _chunk(chat, {"tool_calls": empty})
    finish_reason = _finish(chat, told, bool(told.calls), total, token_limit)
    yield _chunk(chat, {}, finish_reason=finish_reason)
    if chat.include_usage:
        yield {**_head(chat, "chat.completion.chunk"), "choices": [], "usage": total}


def around_text(chat: ChatRequest) -> tuple[bytes, bytes]:
    """What stands before and after the JSON of a text in the chunk that tells it and no more."""
    mark = b'"content":'
    before, _, after = strict_json.dumps(_chunk(chat, {"content": None})).partition(mark + b"null")
    return before + mark, after


class _Told:
    """What a stream has said so far."""

    def __init__(self, chat: ChatRequest, used: usage.OfAnswer) -> None:
        self.chat = chat
        self.is_answer = False
        self.has_choices = False
        self.finish_reason: str | None = None
        self.calls: dict[int, bool] = {}  # those begun, by index, and whether they have arguments
        self.used = used

    def note(self, part: Part) -> None:
        """What each part may tell."""
        self.is_answer = self.is_answer or part.is_answer
        self.has_choices = self.has_choices or part.has_choices

    def delta(self, part: Part) -> JSON:
        """What this part adds to the message."""
        self.finish_reason = part.finish_reason or self.finish_reason
        if part.usage:
            self.used.add(usage.counted(part.usage), is_final=not part.has_choices)
        delta = dict(part.extra)
        if part.reasoning:
            delta["reasoning_content"] = part.reasoning
        if part.content:
            delta["content"] = part.content
        if calls := [told for call in part.tool_calls if (told := self._call(call))]:
            delta["tool_calls"] = calls
        return delta

    def _call(self, call: ToolCall) -> JSON | None:
        """A call is named in its first delta only; without an index, a name begins the next."""
        last = max(self.calls, default=-1)
        index = call.index if call.index is not None else last + bool(call.name)
        begun = index in self.calls
        if (not begun and not call.name) or (begun and not call.arguments):
            return None
        self.calls[index] = self.calls.get(index, False) or bool(call.arguments)
        if begun:
            return {"index": index, "function": {"arguments": call.arguments}}
        return {"index": index, **_whole_call(self.chat, index, call, "")}

    def calls_without_arguments(self) -> list[JSON]:
        """What makes JSON of them: clients parse the arguments whatever they are."""
        empty = [index for index, has_arguments in self.calls.items() if not has_arguments]
        return [{"index": index, "function": {"arguments": "{}"}} for index in empty]


def _finish(
    chat: ChatRequest, said: Part | _Told, has_calls: bool, used: JSON, token_limit: int | None
) -> str:
    """The provider's finish_reason, or the likeliest where it gave none."""
    if said.finish_reason:
        return said.finish_reason
    if has_calls:
        return "tool_calls"
    if token_limit is None or said.has_choices:
        return "stop"
    return "length" if used["completion_tokens"] >= (chat.max_tokens or token_limit) else "stop"


def _whole_call(chat: ChatRequest, index: int, call: ToolCall, no_arguments: str) -> JSON:
    made_up_id = f"call_{chat.id.removeprefix('chatcmpl-')}_{index}"
    function = {"name": call.name or "", "arguments": call.arguments or no_arguments}
    return {"id": call.id or made_up_id, "type": "function", "function": function}


def _chunk(
    chat: ChatRequest,
    delta: JSON,
    *,
    logprobs: JSON | None = None,
    finish_reason: str | None = None,
) -> JSON:
    choice = {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}
    return {**_head(chat, "chat.completion.chunk"), "choices": [choice]}


def _head(chat: ChatRequest, kind: str) -> JSON:
    return {"id": chat.id, "object": kind, "created": chat.created, "model": chat.model}
