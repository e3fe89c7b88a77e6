"""The content of a normal answer: pure functions from a request body to JSON values.

A `Reply` is independent of the provider; a `Dialect` gives it one provider's form. One token is one
word.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any

from emulator.schema import instance

Json = dict[str, Any]


@dataclass(frozen=True)
class Reply:
    """An answer in no dialect: the words, joined, are the text (or a call's arguments)."""

    words: list[str]
    prompt_tokens: int
    finish_reason: str = "stop"
    value: Any = None  # JSON mode: the value that the text encodes
    call: tuple[str, Json] | None = None  # a tool's name and arguments

    @property
    def text(self) -> str:
        """The words, joined."""
        return "".join(self.words)

    @property
    def usage(self) -> Json:
        """The number of words in the prompt, in the answer, and in both."""
        asked, spoken = self.prompt_tokens, len(self.words)
        names = ("prompt_tokens", "completion_tokens", "total_tokens")
        return dict(zip(names, (asked, spoken, asked + spoken), strict=True))


@dataclass(frozen=True)
class Completion:
    """A reply in one dialect: as one JSON object, and as the chunks of a stream in three parts.

    Only `words` come with a pause between them; `[DONE]` is not among the closing chunks.
    """

    whole: Json
    opening: list[Json]
    words: list[Json]
    closing: list[Json]


@dataclass(frozen=True)
class Dialect:
    """One provider's JSON.

    `complete(reply, body, id, unix seconds)`; `error(HTTP status, code, message, id)`, None as
    code means the usual one of the status; `headers(id)`.
    """

    complete: Callable[[Reply, Json, str, int], Completion]
    error: Callable[[int, int | None, str, str], Json]
    headers: Callable[[str], dict[str, str]]


def message_text(message: Any) -> str:
    """The text of one message, whose content is a string or a list of parts; else ""."""
    content = message.get("content") if isinstance(message, dict) else None
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    texts = [part.get("text") for part in parts if isinstance(part, dict)]
    return "".join(text for text in texts if isinstance(text, str))


def reply_to(body: Json, prompt: str, words: int | None = None) -> Reply:
    """The reply to a body with `messages`: quotes `prompt`; `words` sets the length of a text."""
    asked = sum(len(message_text(message).split()) for message in body["messages"])
    tools = body.get("tools")
    if tools and body.get("tool_choice") != "none" and body["messages"][-1].get("role") != "tool":
        return _call(body, prompt, asked)
    value = None
    text = f'This is the emulator, not a model. You said: "{prompt}"'
    wanted = body.get("response_format") or {}
    if wanted.get("type") in ("json_object", "json_schema"):
        value = _in_json(wanted, prompt)
        text = json.dumps(value, ensure_ascii=False)
    elif words is not None:
        text = " ".join(islice(cycle(text.split()), words))
    spoken = _split(text)
    limit = body.get("max_tokens") or body.get("max_completion_tokens") or len(spoken)
    if limit < len(spoken):  # JSON that was cut has no value
        return Reply(_split("".join(spoken[:limit]).rstrip()), asked, "length")
    return Reply(spoken, asked, value=value)


def _in_json(wanted: Json, prompt: str) -> Any:
    """The answer to a `response_format`; OpenAI wraps its schema, Workers AI does not."""
    schema = wanted.get("json_schema")
    if not schema:
        return {"emulator": True, "you_said": prompt}
    return instance(schema["schema"] if isinstance(schema.get("schema"), dict) else schema, prompt)


def _call(body: Json, prompt: str, asked: int) -> Reply:
    functions = [tool.get("function", tool) for tool in body["tools"]]  # Workers AI: also flat
    choice = body.get("tool_choice")
    named = choice.get("function", {}).get("name") if isinstance(choice, dict) else None
    function = next((one for one in functions if one["name"] == named), functions[0])
    arguments = instance({"type": "object", **function.get("parameters", {})}, prompt)
    words = _split(json.dumps(arguments, ensure_ascii=False))
    return Reply(words, asked, "tool_calls", call=(function["name"], arguments))


def _split(text: str) -> list[str]:
    return re.findall(r"\S+\s*", text)


# --- Workers AI -------------------------------------------------------------------------------

_PADDING = "abcdefghijklmnopqrstuvwxyz0123456789"

# Status -> code -> Workers AI's message; the first code of a status is its usual one.
_MESSAGES = {
    400: {5006: "Bad input", 5007: "No such model"},
    401: {10000: "Authentication error"},
    403: {5035: "This model is not available on the Workers Free plan", 5024: "JSON not met"},
    408: {3046: "Request timeout"},
    410: {5028: "Model has been deprecated"},
    413: {5021: "This model's context window limit was exceeded"},
    429: {3040: "Capacity temporarily exceeded, please try again.", 4006: "Allocation used up"},
    503: {3050: "Max retries exhausted"},
}


def envelope(*errors: tuple[int, str], result: Json | None = None) -> Json:
    """Cloudflare's error envelope with these (code, message) pairs."""
    listed = [{"code": code, "message": message} for code, message in errors]
    return {"result": result, "success": False, "errors": listed, "messages": []}


def _native_error(status: int, code: int | None, message: str, ident: str) -> Json:
    known = _MESSAGES.get(status, {3043: "Internal server error"})
    code = code or next(iter(known))
    message = message or known.get(code, "an error asked for")
    return envelope((code, f"AiError: {message} ({ident})"), result={})


def _native(reply: Reply, _body: Json, _ident: str, _created: int) -> Completion:
    calls = [{"name": reply.call[0], "arguments": reply.call[1]}] if reply.call else []
    content = reply.text if reply.value is None else reply.value
    content = None if calls else content
    result = {"response": content, "tool_calls": calls, "usage": reply.usage}
    whole = {"result": result, "success": True, "errors": [], "messages": []}
    words: list[Json] = [
        {"response": word, "p": _PADDING[: 1 + 7 * index % len(_PADDING)]}
        for index, word in enumerate(reply.words)
    ]
    if calls:
        words = [{"response": "", "tool_calls": calls}]
    return Completion(whole, [], words, [{"response": "", "usage": reply.usage}])


# --- OpenAI -----------------------------------------------------------------------------------


def _openai_error(status: int, code: int | None, message: str, _ident: str) -> Json:
    kind = "server_error" if status >= 500 else "invalid_request_error"
    kind = {401: "authentication_error", 429: "rate_limit_error"}.get(status, kind)
    text = message or "an error asked for"
    return {"error": {"message": text, "type": kind, "param": None, "code": code and str(code)}}


def _openai(reply: Reply, body: Json, ident: str, created: int) -> Completion:
    common = {"created": created, "model": body.get("model", "emulator")}
    common = {"id": f"chatcmpl-{ident}", **common}
    with_usage = bool((body.get("stream_options") or {}).get("include_usage"))

    def chunk(delta: Json, finish_reason: str | None = None) -> Json:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        chunk = {**common, "object": "chat.completion.chunk", "choices": [choice]}
        return {**chunk, "usage": None} if with_usage else chunk

    role = {"role": "assistant", "content": None if reply.call else "", "refusal": None}
    closing = [chunk({}, reply.finish_reason)]
    if with_usage:
        closing.append({**closing[0], "choices": [], "usage": reply.usage})
    deltas = _openai_call_deltas(reply, ident) or [{"content": word} for word in reply.words]
    choice = {"index": 0, "message": _openai_message(reply, ident), "logprobs": None}
    choice["finish_reason"] = reply.finish_reason
    whole = {**common, "object": "chat.completion", "choices": [choice], "usage": reply.usage}
    return Completion(whole, [chunk(role)], [chunk(delta) for delta in deltas], closing)


def _openai_message(reply: Reply, ident: str) -> Json:
    message: Json = {"role": "assistant", "content": reply.text, "refusal": None}
    if reply.call:
        function = {"name": reply.call[0], "arguments": reply.text}
        call = {"id": f"call_{ident}", "type": "function", "function": function}
        message |= {"content": None, "tool_calls": [call]}
    return message


def _openai_call_deltas(reply: Reply, ident: str) -> list[Json]:
    if not reply.call:
        return []
    named = {"id": f"call_{ident}", "type": "function"}
    first = {"index": 0, **named, "function": {"name": reply.call[0], "arguments": ""}}
    rest = [{"index": 0, "function": {"arguments": word}} for word in reply.words]
    return [{"tool_calls": [call]} for call in (first, *rest)]


WORKERS_AI = Dialect(
    _native,
    _native_error,
    lambda ident: {"cf-ai-req-id": ident, "cf-ray": f"{ident.replace('-', '')[:16]}-EMU"},
)
OPENAI = Dialect(_openai, _openai_error, lambda ident: {"x-request-id": f"req_{ident}"})
