"""Every way to fail. Each failure knows its status, its headers and its OpenAI error object.

    ProxyError
    ├── CallerError      400, 401, 404, 405, 413, 429   the caller can mend it
    ├── OperatorError    500                            this proxy is misconfigured, or broke
    └── ProviderError    502                            the provider failed
    ClientGone           no answer: the caller left

The form is OpenAI's, `{"error": {"message", "type", "param", "code"}}`: the SDKs read all four.
`code` is one word of the closed lists below. Messages are this proxy's own words: no key, URL or
account, and no text of the caller's or the provider's.
"""

from typing import Any, NamedTuple


class ProxyError(Exception):
    """The root. `param` says where in the request, such as `messages[1].content`."""

    status: int
    type: str

    def __init__(self, code: str, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.param = param
        self.headers: dict[str, str] = {}
        self.notes: dict[str, str] = {}  # for the log only: what was seen, and what to mend

    def to_json(self, request_id: str) -> dict[str, Any]:
        """OpenAI's error object; people paste messages, so the request id ends the message."""
        message = f"{self.message} Request id: {request_id}"
        fields = {"message": message, "type": self.type, "param": self.param, "code": self.code}
        return {"error": fields}


class ClientGone(Exception):
    """Nobody waits for the answer any more."""


_LONGEST_WAIT = 60  # seconds; Node's SDK sleeps through any Retry-After, Python's gives up at 120


def _retry_headers(helps: bool, wait: int | None) -> dict[str, str]:
    """Whether a retry helps, and after how many seconds: both OpenAI SDKs obey these."""
    helps = helps and (wait is None or wait <= _LONGEST_WAIT)
    headers = {"X-Should-Retry": "true" if helps else "false"}
    return headers | ({"Retry-After": str(wait)} if wait else {})


_CALLERS_FAULTS = {
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
    """The request is at fault; the code decides the status."""

    def __init__(self, code: str, message: str, *, param: str | None = None) -> None:
        super().__init__(code, message, param=param)
        self.status = _CALLERS_FAULTS[code]
        self.type = _TYPES.get(self.status, "invalid_request_error")

    @classmethod
    def no_key(cls) -> "CallerError":
        """The same for a key that is missing, malformed or unknown."""
        tells = "A valid key is needed, in the header 'Authorization: Bearer KEY'."
        error = cls("invalid_api_key", tells)
        error.headers = {"WWW-Authenticate": "Bearer"}  # RFC 9110, 15.5.2 demands it
        return error

    @classmethod
    def method(cls, allowed: str) -> "CallerError":
        """`allowed`: the methods, such as GET, HEAD."""
        error = cls("method_not_allowed", f"Only {allowed.replace(', ', ' or ')} is allowed here.")
        error.headers = {"Allow": allowed}  # RFC 9110, 15.5.6 demands it
        return error

    @classmethod
    def rate_limited(cls, wait: int) -> "CallerError":
        """`wait`: seconds until the key may be used again."""
        tells = f"This key is over its rate limit; try again in {wait} seconds."
        error = cls("rate_limited", tells)
        error.headers = _retry_headers(True, wait)
        return error

    @classmethod
    def too_many_bodies(cls) -> "CallerError":
        """The bodies under way fill the memory that this process has for them."""
        tells = "This proxy receives too many large bodies just now; try again in 1 second."
        error = cls("rate_limited", tells)
        error.headers = _retry_headers(True, 1)
        return error


class OperatorError(ProxyError):
    """`proxy_misconfigured`, or `internal_error`: a fault of ours."""

    status = 500
    type = "proxy_error"

    def __init__(self, code: str, message: str) -> None:
        super().__init__(code, message)
        self.headers = _retry_headers(False, None)

    @classmethod
    def misconfigured(cls, *variables: str) -> "OperatorError":
        """The settings named are missing, or make no sense."""
        mend = ", ".join(variables)
        message = f"This proxy is misconfigured; its operator must mend {mend}."
        error = cls("proxy_misconfigured", message)
        error.notes = {"mend": mend}
        return error

    @classmethod
    def not_ready(cls) -> "OperatorError":
        """The same for whoever shows no key: which settings they are is not for everybody."""
        tells = "This proxy is misconfigured; its log, or `python -m proxy check`, says how."
        error = cls("proxy_misconfigured", tells)
        error.status = 503  # the health check's own
        return error

    @classmethod
    def internal(cls) -> "OperatorError":
        """Something that this proxy did not foresee."""
        return cls("internal_error", "This proxy failed unexpectedly; its log says where.")


class _Failure(NamedTuple):
    message: str
    retry: bool = False
    retry_after: int | None = None  # seconds, where the provider names none
    mend: str = ""  # what the operator should look at


_PROVIDERS_FAULTS = {
    "provider_unreachable": _Failure(
        "The provider could not be reached.", True, mend="LLAMA_PROVIDER_BASE_URL"
    ),
    "provider_timeout": _Failure(
        "The provider took too long; ask for less, or stream.", mend="LLAMA_PROVIDER_TIMEOUT"
    ),
    "provider_failed": _Failure("The provider failed to answer."),
    "provider_overloaded": _Failure("The provider is overloaded; try again soon.", True, 5),
    "provider_rate_limited": _Failure("The provider limits this proxy's rate.", True, 15),
    "provider_quota_exhausted": _Failure(
        "This proxy's allowance at the provider is used up.", mend="the provider's plan or budget"
    ),
    "provider_auth_failed": _Failure(
        "The provider refused this proxy's own key, not yours; the operator must mend it.",
        mend="LLAMA_PROVIDER_API_KEY",
    ),
    "provider_model_unavailable": _Failure(
        "The provider does not offer this model to this proxy; the operator must choose another.",
        mend="LLAMA_PROVIDER_MODELS",
    ),
    "provider_not_found": _Failure(
        "The provider knows no such account or address; the operator must mend it.",
        mend="CLOUDFLARE_ACCOUNT_ID and LLAMA_PROVIDER_BASE_URL",
    ),
    "provider_bad_answer": _Failure("The provider's answer could not be understood."),
}


class ProviderError(ProxyError):
    """Whether a retry helps, and when, is said in headers that both OpenAI SDKs obey."""

    status = 502
    type = "provider_error"

    def __init__(
        self,
        code: str,
        *,
        retry: bool | None = None,
        retry_after: int | None = None,  # seconds
        seen: str = "",  # facts for the log, such as "HTTP 401, code 10000"
    ) -> None:
        failure = _PROVIDERS_FAULTS[code]
        super().__init__(code, failure.message)
        helps = failure.retry if retry is None else retry
        self.headers = _retry_headers(helps, retry_after or failure.retry_after)
        notes = {"seen": seen, "mend": failure.mend}
        self.notes = {name: note for name, note in notes.items() if note}
