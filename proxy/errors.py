"""Every error that a caller can get: its code, status, headers and OpenAI error object.

The form is OpenAI's, `{"error": {"message", "type", "param", "code"}}`: its SDKs read all four.
Messages are this proxy's own words: no key, URL or account, and no text of the caller or the
provider.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple


class _Kind(NamedTuple):
    status: int
    message: str = ""  # if the raiser gives none
    retry: bool = False  # whether one helps
    retry_after: int | None = None  # seconds, if the provider gives none
    fix: str = ""  # what the operator should check


_KINDS = {
    "invalid_json": _Kind(400),
    "invalid_messages": _Kind(400),
    "invalid_parameter": _Kind(400),
    "model_not_allowed": _Kind(400),
    "context_length_exceeded": _Kind(400),
    "provider_rejected_input": _Kind(400),
    "invalid_http": _Kind(400),
    "invalid_api_key": _Kind(401),
    "not_found": _Kind(404),
    "method_not_allowed": _Kind(405),
    "request_too_large": _Kind(413),
    "rate_limited": _Kind(429, retry=True),
    "proxy_misconfigured": _Kind(500),
    "internal_error": _Kind(500, "This proxy failed unexpectedly; see its log."),
    "provider_unreachable": _Kind(
        502, "The provider could not be reached.", True, fix="LLAMA_PROVIDER_BASE_URL"
    ),
    "provider_timeout": _Kind(
        502, "The provider took too long; ask for less, or stream.", fix="LLAMA_PROVIDER_TIMEOUT"
    ),
    "provider_failed": _Kind(502, "The provider failed to answer."),
    "provider_overloaded": _Kind(502, "The provider is overloaded; try again soon.", True, 5),
    "provider_rate_limited": _Kind(502, "The provider limits this proxy's rate.", True, 15),
    "provider_quota_exhausted": _Kind(
        502, "This proxy's allowance at the provider is used up.", fix="provider's plan or budget"
    ),
    "provider_auth_failed": _Kind(
        502,
        "The provider refused this proxy's own key, not yours; the operator must fix it.",
        fix="LLAMA_PROVIDER_API_KEY",
    ),
    "provider_model_unavailable": _Kind(
        502,
        "The provider does not offer this model to this proxy; the operator must choose another.",
        fix="LLAMA_PROVIDER_MODELS",
    ),
    "provider_not_found": _Kind(
        502, "The provider has no such account or address; the operator must fix it."
    ),
    "provider_bad_answer": _Kind(502, "The provider's answer could not be understood."),
}
CODES = frozenset(_KINDS)
PROVIDER_CODES = frozenset(code for code, kind in _KINDS.items() if kind.status == 502)

_TYPES = {
    401: "authentication_error",
    429: "rate_limit_error",
    500: "proxy_error",
    502: "provider_error",
}
_LONGEST_WAIT = 60  # seconds; Node's SDK sleeps any Retry-After, Python's gives up at 120


class ProxyError(Exception):
    """An error with one of CODES. `param`: the place in the request; `retry`: whether one helps, if
    not as the code has it; `retry_after`: seconds; `notes`, such as `fix`: for the log only."""

    def __init__(
        self,
        code: str,
        message: str = "",
        *,
        param: str | None = None,
        retry: bool | None = None,
        retry_after: int | None = None,
        headers: Mapping[str, str] | None = None,
        **notes: str,
    ) -> None:
        kind = _KINDS[code]
        self.code, self.status, self.param = code, kind.status, param
        self.message = message or kind.message
        self.type = _TYPES.get(kind.status, "invalid_request_error")
        self.headers = dict(headers or {})
        wait = retry_after or kind.retry_after
        may_help = kind.retry if retry is None else retry
        self.retry_helps = may_help and (wait or 0) <= _LONGEST_WAIT
        if kind.status >= 429:  # both OpenAI SDKs obey these headers
            self.headers["X-Should-Retry"] = "true" if self.retry_helps else "false"
            self.headers |= {"Retry-After": str(wait)} if wait else {}
        notes["fix"] = notes.get("fix") or kind.fix
        self.notes = {name: note for name, note in notes.items() if note}

    def to_json(self, request_id: str) -> dict[str, Any]:
        """OpenAI's error object. The message ends with the request id, since people paste it."""
        message = f"{self.message} Request id: {request_id}"
        fields = {"message": message, "type": self.type, "param": self.param, "code": self.code}
        return {"error": fields}


class CallerError(ProxyError):
    """400 to 429: the caller can fix it."""


class ClientGone(CallerError):
    """The client disconnected. One that only closed its sending side can read this error."""

    def __init__(self) -> None:
        super().__init__("invalid_json", "The request body is incomplete.")


class OperatorError(ProxyError):
    """500: this proxy is misconfigured, or failed."""


class ProviderError(ProxyError):
    """502: the provider failed. `seen`, a note: facts such as "HTTP 401, code 10000"."""
