"""Every failure knows its status, its type, its headers and OpenAI's error object."""

import pytest

from proxy.errors import CallerError, OperatorError, ProviderError, ProxyError

INVALID, AUTH = "invalid_request_error", "authentication_error"


@pytest.mark.parametrize(
    ("code", "status", "type", "headers"),
    [
        ("invalid_json", 400, INVALID, {}),
        ("invalid_messages", 400, INVALID, {}),
        ("invalid_parameter", 400, INVALID, {}),
        ("model_not_allowed", 400, INVALID, {}),
        ("context_length_exceeded", 400, INVALID, {}),
        ("provider_rejected_input", 400, INVALID, {}),
        ("invalid_api_key", 401, AUTH, {"WWW-Authenticate": "Bearer"}),
        ("not_found", 404, INVALID, {}),
        ("method_not_allowed", 405, INVALID, {}),
        ("request_too_large", 413, INVALID, {}),
        ("rate_limited", 429, "rate_limit_error", {"X-Should-Retry": "true"}),
        ("proxy_misconfigured", 500, "proxy_error", {"X-Should-Retry": "false"}),
        ("internal_error", 500, "proxy_error", {"X-Should-Retry": "false"}),
    ],
)
def test_the_code_decides(code: str, status: int, type: str, headers: dict[str, str]) -> None:
    error = ProxyError(code, "Wrong.", param="messages")
    assert (error.status, error.type, error.headers) == (status, type, headers)
    assert error.to_json("r-1") == {
        "error": {
            "message": "Wrong. Request id: r-1",
            "type": type,
            "param": "messages",
            "code": code,
        }
    }


@pytest.mark.parametrize(("wait", "retry"), [(9, "true"), (61, "false")])
def test_a_rate_limit_says_when_to_come_again(wait: int, retry: str) -> None:
    error = CallerError("rate_limited", "Slow down.", retry_after=wait)
    assert error.headers == {"X-Should-Retry": retry, "Retry-After": str(wait)}


def test_notes_are_for_the_log_only() -> None:
    error = OperatorError("internal_error", raised="KeyError", traceback="")
    assert error.notes == {"raised": "KeyError"}
    assert "KeyError" not in str(error.to_json("r-1"))


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
    CallerError("invalid_api_key").headers["X"] = "1"
    assert "X" not in CallerError("invalid_api_key").headers
