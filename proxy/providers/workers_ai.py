"""Cloudflare Workers AI over REST, POST {base}/{model}, with its many dialects repaired.

https://developers.cloudflare.com/workers-ai/platform/errors/ has the codes that are documented;
the others, and the shapes, are those recorded in tests/samples.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from proxy import strict_json
from proxy.chat_answer import Part
from proxy.chat_request import ChatRequest
from proxy.errors import ProviderError, ProxyError
from proxy.providers import Refusal, UpstreamRequest, choices, refusals
from proxy.strict_json import JSON

# What its models accept; some refuse a body with any other key (5006).
# fmt: off
_OPTIONS = {
    "max_tokens", "temperature", "top_p", "top_k", "seed",
    "repetition_penalty", "frequency_penalty", "presence_penalty", "stop", "tools",
    "tool_choice", "parallel_tool_calls", "response_format", "logit_bias", "logprobs",
    "top_logprobs", "reasoning_effort", "chat_template_kwargs", "lora",
}
# fmt: on
_UNDERSTOOD = _OPTIONS | {"max_completion_tokens", "n", "stream_options"}
_MESSAGE_KEYS = ("tool_calls", "tool_call_id", "name")
_NAME = re.compile("[A-Za-z0-9_.-]{1,64}")


@dataclass(frozen=True)
class WorkersAI:
    """The provider `workers-ai`."""

    base_url: str
    key: str = field(repr=False)
    models: Mapping[str, tuple[str, ...]]  # public name -> Workers AI's, in the order asked

    name: ClassVar[str] = "workers-ai"
    request_id_header: ClassVar[str] = "cf-ai-req-id"
    token_limit: ClassVar[int] = 256  # its default for max_tokens since 2025-02-21

    def request(self, chat: ChatRequest) -> UpstreamRequest:
        body: JSON = {"messages": [_message(message) for message in chat.messages]}
        body |= {name: value for name, value in chat.options.items() if name in _OPTIONS}
        if chat.max_tokens:
            body["max_tokens"] = chat.max_tokens
        json_mode = _unwrap_response_format(body)
        if chat.stream and not json_mode:  # they do not go together there
            body["stream"] = True
        names = sorted(filter(_NAME.fullmatch, chat.options.keys() - _UNDERSTOOD))
        return UpstreamRequest(
            url=f"{self.base_url}/{self.models[chat.model][0]}",
            headers={"Authorization": f"Bearer {self.key}"},
            body=strict_json.dumps(body),
            ignored=tuple(names[:20]),
        )

    def part(self, chat: ChatRequest, frame: JSON) -> Part:
        if frame.get("success") is False or frame.get("errors") or frame.get("error"):
            raise _error(chat, frame, Refusal(200))
        result = frame.get("result", frame)
        if not isinstance(result, dict):
            raise ProviderError("provider_bad_answer", seen="a result that is no object")
        native = _native_part(result)
        if "choices" not in result and "output" not in result:
            return native
        part = choices.part(result)
        if isinstance(result.get("output"), list):
            part = _responses_part(part, result)
        if "delta" in choices.first_object(result.get("choices")):
            return part  # an event that says it twice, in OpenAI's form and in its own
        return part._replace(
            content=part.content if native.content is None else part.content or native.content,
            tool_calls=part.tool_calls or native.tool_calls,
            finish_reason=part.finish_reason or native.finish_reason,
        )

    def error(self, chat: ChatRequest, refusal: Refusal) -> ProxyError:
        return _error(chat, refusal.json(), refusal)


def _message(message: JSON) -> JSON:
    """Text parts become one string, null an empty one: some models refuse anything else."""
    content = message.get("content")
    if content is None:
        content = ""
    elif isinstance(content, list) and all(part["type"] == "text" for part in content):
        content = "".join(part["text"] for part in content)
    role = "system" if message["role"] == "developer" else message["role"]
    more = {name: message[name] for name in _MESSAGE_KEYS if message.get(name) is not None}
    return {"role": role, "content": content, **more}


def _unwrap_response_format(body: JSON) -> bool:
    """Whether JSON is asked for. Its json_schema is the bare schema; plain text is not known."""
    wanted = body.get("response_format", {})
    if wanted.get("type") == "text":
        del body["response_format"]
        return False
    schema = wanted.get("json_schema")
    if isinstance(schema, dict) and isinstance(schema.get("schema"), dict):
        body["response_format"] = wanted | {"json_schema": schema["schema"]}
    return bool(wanted)


def _native_part(result: JSON) -> Part:
    """Its own form: {response, tool_calls, finish_reason, usage}, each where there is one."""
    return Part(
        content=choices.text(result.get("response")),
        tool_calls=choices.tool_calls(result.get("tool_calls")),
        finish_reason=choices.finish_reason(result.get("finish_reason")),
        usage=choices.object_or_none(result.get("usage")),
        has_choices=False,
    )


def _responses_part(part: Part, result: JSON) -> Part:
    """The form of OpenAI's Responses: a list of outputs (gpt-oss with `input`)."""

    def of(kind: str) -> list[JSON]:
        outputs = [item for item in result["output"] if isinstance(item, dict)]
        return [item for item in outputs if item.get("type") == kind]

    return part._replace(
        content=_joined(of("message")),
        reasoning=_joined(of("reasoning")),
        tool_calls=choices.tool_calls(of("function_call")),
        finish_reason="length" if result.get("status") == "incomplete" else None,
    )


def _joined(outputs: list[JSON]) -> str | None:
    texts = [choices.text(item.get("content") or "") or "" for item in outputs]
    return "".join(texts) if texts else None


# --- refusals: the code decides first, the status second -------------------------------------

_CONTEXT_EXCEEDED = {5021, 8007}
_REJECTED_INPUT = {3003, 3006, 5004, 5006, 5012, 5025, 8001, 8006}
_DAILY_FREE_ALLOCATION = {3036, 4006}
_CODES: dict[str, set[int]] = {
    "provider_timeout": {3007, 3008, 3046},
    "provider_failed": {3043, 8004},
    "provider_overloaded": {3040, 3050},
    "provider_rate_limited": {1015, 2003, 3021},
    "provider_quota_exhausted": {2021, 2045, *_DAILY_FREE_ALLOCATION},
    "provider_auth_failed": {2009, 3023, 3041, 6003, 9106, 9109, 10000},
    "provider_model_unavailable": {3042, 5007, 5016, 5018, 5028, 5035},
    "provider_not_found": {2001, 2008, 2019, 2040, 7000, 7001, 7003},
    "provider_bad_answer": {5024},
}
_MEANING = {number: code for code, numbers in _CODES.items() for number in numbers}
_KNOWN = _MEANING.keys() | _CONTEXT_EXCEEDED | _REJECTED_INPUT


def _error(chat: ChatRequest, envelope: Any, refusal: Refusal) -> ProxyError:
    number, message = _number_and_message(envelope, refusal.body)
    if number in _CONTEXT_EXCEEDED:
        return refusals.context_exceeded(message)
    if number in _REJECTED_INPUT:
        return refusals.rejected_input(message)
    seen = f"HTTP {refusal.status}, code {number}"
    if number in _DAILY_FREE_ALLOCATION or "daily free allocation" in message:
        until_midnight = 86400 - chat.created % 86400  # UTC, when the allowance is renewed
        return ProviderError("provider_quota_exhausted", retry_after=until_midnight, seen=seen)
    if number not in _MEANING:
        return refusals.by_status(refusal, complete=isinstance(envelope, dict), seen=seen)
    code = _MEANING[number]
    wait = refusals.retry_after(refusal.headers)
    complete = True if code == "provider_failed" else None
    return ProviderError(code, retry=complete, retry_after=wait, seen=seen)


def _number_and_message(envelope: Any, page: bytes) -> tuple[int | None, str]:
    """The first code that is known, else the first, of any of the five envelopes or a page."""
    entries: list[Any] = []
    if isinstance(envelope, dict):
        for errors in (envelope.get("errors"), envelope.get("error")):
            entries += errors if isinstance(errors, list) else [errors]
        entries.append({"code": envelope.get("internalCode"), "message": envelope.get("message")})
        entries = [entry for entry in entries if isinstance(entry, dict)]
    elif found := re.fullmatch(rb"error code: ([0-9]{3,5})\s*", page):
        entries = [{"code": int(found[1])}]
    entries = [entry | {"code": _whole(entry.get("code"))} for entry in entries]
    numbered = [entry for entry in entries if entry["code"] is not None]
    known = [entry for entry in numbered if entry["code"] in _KNOWN]
    entry = [*known, *numbered, *entries, {"code": None}][0]
    return entry["code"], str(entry.get("message") or "")


def _whole(code: Any) -> int | None:
    text = str(code)
    return int(text) if re.fullmatch("[0-9]{1,6}", text) else None
