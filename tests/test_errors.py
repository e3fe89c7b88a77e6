"""Every failure knows its status, its type, its headers and OpenAI's error object."""

import pytest

from proxy.errors import CallerError, OperatorError, ProviderError

INVALID, AUTH = "invalid_request_error", "authentication_error"


@pytest.mark.parametrize(
    ("code", "status", "type"),
    [
        ("invalid_json", 400, INVALID),
        ("invalid_messages", 400, INVALID),
        ("invalid_parameter", 400, INVALID),
        ("model_not_allowed", 400, INVALID),
        ("context_length_exceeded", 400, INVALID),
        ("provider_rejected_input", 400, INVALID),
        ("invalid_api_key", 401, AUTH),
        ("not_found", 404, INVALID),
        ("method_not_allowed", 405, INVALID),
        ("request_too_large", 413, INVALID),
        ("rate_limited", 429, "rate_limit_error"),
    ],
)
def test_the_callers_faults(code: str, status: int, type: str) -> None:
    """The code decides the status."""
    error = CallerError(code, "Wrong.", param="messages")
    assert (error.status, error.type, error.headers) == (status, type, {})
    assert error.to_json("r-1") == {
        "error": {
            "message": "Wrong. Request id: r-1",
            "type": type,
            "param": "messages",
            "code": code,
        }
    }


@pytest.mark.parametrize(
    ("error", "code", "headers"),
    [
        (CallerError.no_key(), "invalid_api_key", {"WWW-Authenticate": "Bearer"}),
        (CallerError.method("GET, HEAD"), "method_not_allowed", {"Allow": "GET, HEAD"}),
        (
            CallerError.rate_limited(9),
            "rate_limited",
            {"X-Should-Retry": "true", "Retry-After": "9"},
        ),
        (
            CallerError.rate_limited(61),
            "rate_limited",
            {"X-Should-Retry": "false", "Retry-After": "61"},
        ),
    ],
    ids=["401", "405", "429", "429, later"],
)
def test_what_belongs_beside_a_status(
    error: CallerError, code: str, headers: dict[str, str]
) -> None:
    """What HTTP demands, and what the SDKs obey."""
    assert (error.code, error.headers) == (code, headers)


def test_the_operators_faults() -> None:
    """A 500 names the variables to mend; a retry does not help."""
    error = OperatorError.misconfigured("WORKER_ACCESS_KEY", "LLAMA_PROVIDER_MODELS")
    assert (error.status, error.type, error.code) == (500, "proxy_error", "proxy_misconfigured")
    assert "WORKER_ACCESS_KEY, LLAMA_PROVIDER_MODELS" in error.message
    assert error.headers == {"X-Should-Retry": "false"}


def test_what_was_not_foreseen() -> None:
    error = OperatorError.internal()
    assert (error.status, error.type, error.code) == (500, "proxy_error", "internal_error")
    assert error.headers == {"X-Should-Retry": "false"}


RETRY, NO_RETRY = {"X-Should-Retry": "true"}, {"X-Should-Retry": "false"}


@pytest.mark.parametrize(
    ("code", "headers"),
    [
        ("provider_unreachable", RETRY),
        ("provider_timeout", NO_RETRY),
        ("provider_failed", NO_RETRY),  # it may still be running, and billing
        ("provider_overloaded", RETRY | {"Retry-After": "5"}),
        ("provider_rate_limited", RETRY | {"Retry-After": "15"}),
        ("provider_quota_exhausted", NO_RETRY),
        ("provider_auth_failed", NO_RETRY),
        ("provider_model_unavailable", NO_RETRY),
        ("provider_not_found", NO_RETRY),
        ("provider_bad_answer", NO_RETRY),
    ],
)
def test_the_providers_faults(code: str, headers: dict[str, str]) -> None:
    """A 502 says whether a retry helps, and when."""
    error = ProviderError(code)
    assert (error.status, error.type, error.param) == (502, "provider_error", None)
    assert error.headers == headers
    assert error.to_json("r-1")["error"]["message"].endswith(" Request id: r-1")


@pytest.mark.parametrize(
    ("seconds", "retry"), [(1, "true"), (60, "true"), (61, "false"), (86400, "false")]
)
def test_a_wait_over_a_minute_is_told_but_not_slept(seconds: int, retry: str) -> None:
    """Node's SDK would sleep any Retry-After, Python's gives up over two minutes."""
    error = ProviderError("provider_rate_limited", retry_after=seconds)
    assert error.headers == {"X-Should-Retry": retry, "Retry-After": str(seconds)}


@pytest.mark.parametrize(("complete", "retry"), [(True, "true"), (False, "false")])
def test_a_failure_may_be_known_to_be_complete(complete: bool, retry: str) -> None:
    assert ProviderError("provider_failed", retry=complete).headers == {"X-Should-Retry": retry}


@pytest.mark.parametrize(
    ("code", "variable"),
    [
        ("provider_unreachable", "LLAMA_PROVIDER_BASE_URL"),
        ("provider_auth_failed", "LLAMA_PROVIDER_API_KEY"),
        ("provider_model_unavailable", "LLAMA_PROVIDER_MODELS"),
        ("provider_not_found", "LLAMA_PROVIDER_BASE_URL"),
    ],
)
def test_the_log_names_what_the_operator_must_fix(code: str, variable: str) -> None:
    """The log has the variable and the facts; the caller's message has neither."""
    error = ProviderError(code, seen="HTTP 401, code 10000")
    assert variable in error.notes["fix"]
    assert error.notes["seen"] == "HTTP 401, code 10000"
    assert "10000" not in error.message


def test_errors_share_no_headers() -> None:
    """Adding a header to one answer must not add it to the next."""
    CallerError("not_found", "Nothing here.").headers["X"] = "1"
    assert "X" not in CallerError("not_found", "Nothing here.").headers
