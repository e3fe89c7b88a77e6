"""Every error that a caller can get: its code, status, headers and OpenAI error object.

    ProxyError
    ├── CallerError      400, 401, 404, 405, 413, 429   the caller can fix it
    ├── OperatorError    500                            this proxy is misconfigured, or broke
    └── ProviderError    502                            the provider failed
    ClientGone           no response: the client disconnected

The form is OpenAI's, `{"error": {"message", "type", "param", "code"}}`: its SDKs read all four.
`code` is one of the codes below. Messages are this proxy's own words: no key, URL or account, and
no text of the caller or the provider.
"""

from typing import Any, NamedTuple


class ProxyError(Exception):
    """The base class. `param`: the place in the request, such as `messages[1].content`."""

    status: int
    type: str

    def __init__(self, code: str, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.param = param
        self.headers: dict[str, str] = {}
        self.notes: dict[str, str] = {}  # for the request log: what was seen, and what to fix

    def to_json(self, request_id: str) -> dict[str, Any]:
        """OpenAI's error object. The message ends with the request id, since people paste it."""
        message = f"{self.message} Request id: {request_id}"
        fields = {"message": message, "type": self.type, "param": self.param, "code": self.code}
        return {"error": fields}


class ClientGone(Exception):
    """The client disconnected before its response ended."""


_LONGEST_WAIT = 60  # seconds; Node's SDK sleeps any Retry-After, Python's gives up at 120


def _retry_headers(helps: bool, wait: int | None) -> dict[str, str]:
    """Whether a retry helps, and after how many seconds. Both OpenAI SDKs obey these headers."""
    helps = helps and (wait is None or wait <= _LONGEST_WAIT)
    headers = {"X-Should-Retry": "true" if helps else "false"}
    return headers | ({"Retry-After": str(wait)} if wait else {})


_CALLER_STATUS = {
    "invalid_json": 400,
    "invalid_messages": 400,
    "invalid_parameter": 400,
    "model_not_allowed": 400,
    "context_length_exceeded": 400,
    "provider_rejected_input": 400,
    "invalid_http": 400,
    "invalid_api_key": 401,
    "not_found": 404,
    "method_not_allowed": 405,
    "request_too_large": 413,
    "rate_limited": 429,
}
_TYPES = {401: "authentication_error", 429: "rate_limit_error"}


class CallerError(ProxyError):
    """The request is wrong. Its code decides the status."""

    def __init__(self, code: str, message: str, *, param: str | None = None) -> None:
        super().__init__(code, message, param=param)
        self.status = _CALLER_STATUS[code]
        self.type = _TYPES.get(self.status, "invalid_request_error")

    @classmethod
    def no_key(cls) -> "CallerError":
        """The same for a missing, a malformed and an unknown key."""
        error = cls(
            "invalid_api_key", "A valid key is needed, in the header 'Authorization: Bearer KEY'."
        )
        error.headers = {"WWW-Authenticate": "Bearer"}  # required by RFC 9110, 15.5.2
        return error

    @classmethod
    def method(cls, allowed: str) -> "CallerError":
        """`allowed`: the methods, such as GET, HEAD."""
        error = cls("method_not_allowed", f"Only {allowed.replace(', ', ' or ')} is allowed here.")
        error.headers = {"Allow": allowed}  # required by RFC 9110, 15.5.6
        return error

    @classmethod
    def rate_limited(cls, wait: int) -> "CallerError":
        """`wait`: seconds until the key may be used again."""
        message = f"This key is over its rate limit; try again in {wait} seconds."
        error = cls("rate_limited", message)
        error.headers = _retry_headers(True, wait)
        return error

    @classmethod
    def too_many_bodies(cls) -> "CallerError":
        """Request bodies fill the memory that this process has for them."""
        message = "This proxy is receiving too many large bodies; try again in 1 second."
        error = cls("rate_limited", message)
        error.headers = _retry_headers(True, 1)
        return error


class OperatorError(ProxyError):
    """`proxy_misconfigured` or `internal_error`: the fault of this proxy."""

    status = 500
    type = "proxy_error"

    def __init__(self, code: str, message: str) -> None:
        super().__init__(code, message)
        self.headers = _retry_headers(False, None)

    @classmethod
    def misconfigured(cls, *variables: str) -> "OperatorError":
        """The named settings are missing or wrong."""
        names = ", ".join(variables)
        message = f"This proxy is misconfigured; its operator must fix {names}."
        error = cls("proxy_misconfigured", message)
        error.notes = {"fix": names}
        return error

    @classmethod
    def not_ready(cls) -> "OperatorError":
        """Like `misconfigured`, but for callers without a key: it does not name the settings."""
        message = "This proxy is misconfigured; see its log, or run `python -m proxy check`."
        error = cls("proxy_misconfigured", message)
        error.status = 503  # of the health check
        return error

    @classmethod
    def internal(cls) -> "OperatorError":
        """An unexpected exception."""
        return cls("internal_error", "This proxy failed unexpectedly; see its log.")


class _Failure(NamedTuple):
    message: str
    retry: bool = False
    retry_after: int | None = None  # seconds, if the provider gives none
    fix: str = ""  # what the operator should check


_FAILURES = {
    "provider_unreachable": _Failure(
        "The provider could not be reached.", True, fix="LLAMA_PROVIDER_BASE_URL"
    ),
    "provider_timeout": _Failure(
        "The provider took too long; ask for less, or stream.", fix="LLAMA_PROVIDER_TIMEOUT"
    ),
    "provider_failed": _Failure("The provider failed to answer."),
    "provider_overloaded": _Failure("The provider is overloaded; try again soon.", True, 5),
    "provider_rate_limited": _Failure("The provider limits this proxy's rate.", True, 15),
    "provider_quota_exhausted": _Failure(
        "This proxy's allowance at the provider is used up.", fix="the provider's plan or budget"
    ),
    "provider_auth_failed": _Failure(
        "The provider refused this proxy's own key, not yours; the operator must fix it.",
        fix="LLAMA_PROVIDER_API_KEY",
    ),
    "provider_model_unavailable": _Failure(
        "The provider does not offer this model to this proxy; the operator must choose another.",
        fix="LLAMA_PROVIDER_MODELS",
    ),
    "provider_not_found": _Failure(
        "The provider has no such account or address; the operator must fix it.",
        fix="LLAMA_PROVIDER_BASE_URL",
    ),
    "provider_bad_answer": _Failure("The provider's answer could not be understood."),
}
PROVIDER_CODES = frozenset(_FAILURES)


class ProviderError(ProxyError):
    """The provider failed. Headers that both OpenAI SDKs obey say whether a retry helps."""

    status = 502
    type = "provider_error"

    def __init__(
        self,
        code: str,
        *,
        message: str = "",  # instead of the code's own
        retry: bool | None = None,
        retry_after: int | None = None,  # seconds
        seen: str = "",  # facts for the log, such as "HTTP 401, code 10000"
        fix: str = "",
    ) -> None:
        failure = _FAILURES[code]
        super().__init__(code, message or failure.message)
        helps = failure.retry if retry is None else retry
        self.headers = _retry_headers(helps, retry_after or failure.retry_after)
        notes = {"seen": seen, "fix": fix or failure.fix}
        self.notes = {name: note for name, note in notes.items() if note}

    def retry_helps(self) -> bool:
        """Whether the same request may succeed later."""
        return self.headers["X-Should-Retry"] == "true"
