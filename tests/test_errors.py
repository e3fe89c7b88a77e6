"""Every error knows its status, its type, its headers and OpenAI's error object."""

import pytest

from proxy.errors import CODES, PROVIDER_CODES, ProxyError

RETRY, NO_RETRY = {"X-Should-Retry": "true"}, {"X-Should-Retry": "false"}
TOLD = {  # of a code: headers, and for the log what the operator should fix; the others have none
    "rate_limited": (RETRY, None),
    "proxy_misconfigured": (NO_RETRY, None),
    "internal_error": (NO_RETRY, None),
    "provider_unreachable": (RETRY, "LLAMA_PROVIDER_BASE_URL"),
    "provider_timeout": (NO_RETRY, "LLAMA_PROVIDER_TIMEOUT"),
    "provider_failed": (NO_RETRY, None),  # it may still be running, and billing
    "provider_overloaded": (RETRY | {"Retry-After": "5"}, None),
    "provider_rate_limited": (RETRY | {"Retry-After": "15"}, None),
    "provider_quota_exhausted": (NO_RETRY, "provider's plan or budget"),
    "provider_auth_failed": (NO_RETRY, "LLAMA_PROVIDER_API_KEY"),
    "provider_model_unavailable": (NO_RETRY, "LLAMA_PROVIDER_MODELS"),
    "provider_not_found": (NO_RETRY, None),  # each provider names its own settings
    "provider_bad_answer": (NO_RETRY, None),
}


@pytest.mark.parametrize("code", sorted(CODES))
def test_the_code_decides(code: str) -> None:
    """Its status and its type too: test_openapi.py has both."""
    headers, fix = TOLD.get(code, ({}, None))
    error = ProxyError(code, "Wrong.", param="messages")
    assert (error.headers, error.notes.get("fix")) == (headers, fix)
    message = "Wrong. Request id: r-1"
    fields = {"message": message, "type": error.type, "param": "messages", "code": code}
    assert error.to_json("r-1") == {"error": fields}
    assert code not in PROVIDER_CODES or ProxyError(code).message
