"""Any API that speaks OpenAI's chat completions, POST {base}/chat/completions.

OpenAI itself, Anthropic's compatible endpoint, Ollama, vLLM, llama.cpp, Workers AI's own /ai/v1.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from proxy import strict_json
from proxy.chat_answer import Part
from proxy.chat_request import ChatRequest
from proxy.errors import ProviderError, ProxyError
from proxy.providers import Refusal, UpstreamRequest, choices, refusals
from proxy.strict_json import JSON

_OURS = {"id", "object", "created", "model", "choices", "usage"}


@dataclass(frozen=True)
class OpenAICompatible:
    """The provider `openai`: it relays, with the model mapped and the answer made complete."""

    base_url: str
    key: str = field(repr=False)  # empty: none is sent, as a local server has it
    models: Mapping[str, tuple[str, ...]]  # public name -> the API's, in the order asked

    name: ClassVar[str] = "openai"
    request_id_header: ClassVar[str] = "x-request-id"
    token_limit: ClassVar[None] = None

    def request(self, chat: ChatRequest) -> UpstreamRequest:
        body = {**chat.options, "model": self.models[chat.model][0], "messages": chat.messages}
        if chat.stream:
            asked = chat.options.get("stream_options", {})
            body |= {"stream": True, "stream_options": {**asked, "include_usage": True}}
        return UpstreamRequest(
            url=f"{self.base_url}/chat/completions",
            headers={"Authorization": f"Bearer {self.key}"} if self.key else {},
            body=strict_json.dumps(body),
        )

    def part(self, chat: ChatRequest, frame: JSON) -> Part:
        if frame.get("error"):
            raise _error(frame, Refusal(_status_in(frame["error"])))
        fields = {name: value for name, value in frame.items() if name not in _OURS}
        return choices.part(frame, relay=True)._replace(fields=fields)

    def error(self, chat: ChatRequest, refusal: Refusal) -> ProxyError:
        return _error(refusal.json(), refusal)


# OpenAI's `code` or `type`, and those of servers that took its form.
_CONTEXT_EXCEEDED = {"context_length_exceeded", "exceed_context_size_error"}
_MEANING = {
    "insufficient_quota": "provider_quota_exhausted",
    "billing_hard_limit_reached": "provider_quota_exhausted",
    "billing_not_active": "provider_quota_exhausted",
    "invalid_api_key": "provider_auth_failed",
    "model_not_found": "provider_model_unavailable",
    "not_found_error": "provider_model_unavailable",
    "overloaded_error": "provider_overloaded",
    "rate_limit_exceeded": "provider_rate_limited",
    "rate_limit_error": "provider_rate_limited",
}
_BAD_INPUT = {400, 413, 422}


def _status_in(error: Any) -> int:
    """The status that an error in a 200 would have had, where it says so (OpenRouter's form)."""
    code = error.get("code") if isinstance(error, dict) else None
    return code if isinstance(code, int) and 400 <= code < 600 else 500


def _error(envelope: Any, refusal: Refusal) -> ProxyError:
    error = _error_object(envelope)
    words = [word for word in (error.get("code"), error.get("type")) if isinstance(word, str)]
    message = str(error.get("message") or "")
    if _CONTEXT_EXCEEDED & set(words) or "maximum context length" in message:
        return refusals.context_exceeded(message)
    seen = f"HTTP {refusal.status}"
    if b"API_KEY_INVALID" in refusal.body:  # Google's, which comes with a 400
        return ProviderError("provider_auth_failed", seen=seen)
    for word in words:
        if word in _MEANING:
            wait = refusals.retry_after(refusal.headers)
            return ProviderError(_MEANING[word], retry_after=wait, seen=f"{seen}, {word}")
    if refusal.status in _BAD_INPUT and error:
        return refusals.rejected_input(message, error.get("param"))
    return refusals.by_status(refusal, complete=bool(error), seen=seen)


def _error_object(envelope: Any) -> JSON:
    """{"error": {…}}, the same in a list (Google), flat (vLLM), or {"error": "text"} (Ollama)."""
    envelope = choices.first_object(envelope) or envelope
    if not isinstance(envelope, dict):
        return {}
    error = envelope.get("error", envelope)
    return error if isinstance(error, dict) else {"message": error}
