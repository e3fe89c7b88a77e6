"""Every error knows its status, its type, its headers and OpenAI's error object."""

import pytest

from proxy.errors import CODES, OperatorError, ProviderError, ProxyError

INVALID = (400, "invalid_request_error", {}, None)
RETRY, NO_RETRY = {"X-Should-Retry": "true"}, {"X-Should-Retry": "false"}


def provider(headers: dict[str, str], fix: str | None = None) -> tuple[object, ...]:
    return 502, "provider_error", headers, fix


KINDS = {  # status, type, headers, and for the log what the operator should fix
    "invalid_json": INVALID,
    "invalid_messages": INVALID,
    "invalid_parameter": INVALID,
    "model_not_allowed": INVALID,
    "context_length_exceeded": INVALID,
    "provider_rejected_input": INVALID,
    "invalid_http": INVALID,
    "invalid_api_key": (401, "authentication_error", {}, None),
    "not_found": (404, "invalid_request_error", {}, None),
    "method_not_allowed": (405, "invalid_request_error", {}, None),
    "request_too_large": (413, "invalid_request_error", {}, None),
    "rate_limited": (429, "rate_limit_error", RETRY, None),
    "proxy_misconfigured": (500, "proxy_error", NO_RETRY, None),
    "internal_error": (500, "proxy_error", NO_RETRY, None),
    "provider_unreachable": provider(RETRY, "LLAMA_PROVIDER_BASE_URL"),
    "provider_timeout": provider(NO_RETRY, "LLAMA_PROVIDER_TIMEOUT"),
    "provider_failed": provider(NO_RETRY),  # it may still be running, and billing
    "provider_overloaded": provider(RETRY | {"Retry-After": "5"}),
    "provider_rate_limited": provider(RETRY | {"Retry-After": "15"}),
    "provider_quota_exhausted": provider(NO_RETRY, "provider's plan or budget"),
    "provider_auth_failed": provider(NO_RETRY, "LLAMA_PROVIDER_API_KEY"),
    "provider_model_unavailable": provider(NO_RETRY, "LLAMA_PROVIDER_MODELS"),
    "provider_not_found": provider(NO_RETRY),  # each provider names its own settings
    "provider_bad_answer": provider(NO_RETRY),
}


@pytest.mark.parametrize("code", sorted(CODES | KINDS.keys()))
def test_the_code_decides(code: str) -> None:
    status, type, headers, fix = KINDS[code]
    error = ProxyError(code, "Wrong.", param="messages")
    assert (error.status, error.type, error.headers) == (status, type, headers)
    assert error.notes.get("fix") == fix
    message = "Wrong. Request id: r-1"
    fields = {"message": message, "type": type, "param": "messages", "code": code}
    assert error.to_json("r-1") == {"error": fields}
    assert status != 502 or ProxyError(code).message


@pytest.mark.parametrize("code", ["rate_limited", "provider_rate_limited"])
@pytest.mark.parametrize(
    ("seconds", "retry"), [(1, "true"), (60, "true"), (61, "false"), (86400, "false")]
)
def test_a_wait_over_a_minute_is_told_but_not_slept(code: str, seconds: int, retry: str) -> None:
    """Node's SDK would sleep any Retry-After, Python's gives up over two minutes."""
    error = ProxyError(code, retry_after=seconds)
    assert error.headers == {"X-Should-Retry": retry, "Retry-After": str(seconds)}


@pytest.mark.parametrize(("complete", "retry"), [(True, "true"), (False, "false")])
def test_a_failure_may_be_known_to_be_complete(complete: bool, retry: str) -> None:
    assert ProviderError("provider_failed", retry=complete).headers == {"X-Should-Retry": retry}


def test_notes_are_for_the_log_only() -> None:
    error = OperatorError("internal_error", raised="KeyError", traceback="")
    assert error.notes == {"raised": "KeyError"}
    assert "KeyError" not in str(error.to_json("r-1"))
