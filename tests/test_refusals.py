"""What a refusal means by its status, its headers and its form; tests/corpus has the words."""

from typing import Any

import pytest
from recorded import refused, told_of

from proxy.errors import ProxyError
from proxy.providers.openai_compatible import OpenAICompatible

PROVIDER = OpenAICompatible("http://x", "", {"m": ("m",)})


def error(status: int, body: Any = b"", **headers: str) -> ProxyError:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return refused(PROVIDER, status, named, body)


STATUSES = {  # code: what a retry does after a complete refusal, after another; statuses
    "provider_bad_answer": ("false", "false", [300, 302, 409, 418]),
    "provider_auth_failed": ("false", "false", [401, 403, 407]),
    "provider_quota_exhausted": ("false", "false", [402, 412]),
    "provider_not_found": ("false", "false", [404, 405]),
    "provider_timeout": ("false", "false", [408, 524]),
    "provider_model_unavailable": ("false", "false", [410]),
    "provider_rate_limited": ("true", "true", [429]),
    "provider_overloaded": ("true", "true", [498, 529]),
    "provider_failed": ("true", "false", [500, 503, 599]),
}


@pytest.mark.parametrize("code", STATUSES)
def test_by_status(code: str) -> None:
    """A complete refusal shows that the model is not at work any more."""
    complete, other, statuses = STATUSES[code]
    for status in statuses:
        for body, retry in ({"error": {"message": "x"}}, complete), (b"<p>", other):
            assert told_of(error(status, body))[:4] == (502, code, None, retry)


@pytest.mark.parametrize("status", [200, 400, 404, 413, 429, 500])
@pytest.mark.parametrize(
    "start", ["", "Prompt is too long: 900 > ", "Image input is not supported: ", "Bad '/seed"]
)
def test_prose_is_never_relayed(status: int, start: str) -> None:
    fields = {"message": start, "code": "unknown", "type": "x", "param": "x"}
    for key in fields:
        got = error(status, {"error": {**fields, key: f"{fields[key]}Sécret\n800"}})
        assert "cret" not in f"{got.message}{got.param}{got.headers}{got.notes}"
        assert "\n" not in got.message


@pytest.mark.parametrize(
    ("headers", "retry", "wait"),
    [
        ({"Retry_After": " 7 "}, "true", "7"),
        ({"Retry_After": "0.2"}, "true", "1"),
        ({"Retry_After": "60"}, "true", "60"),
        ({"Retry_After": "61"}, "false", "61"),  # over a minute a retry does not help
        ({"Retry_After": "99999999"}, "false", "86400"),
        ({"Retry_After": "Mon, 21 Sep 2026 14:13:30 GMT"}, "true", "10"),
        ({"Retry_After": "Mon, 21 Sep 2026 16:13:30 +0200"}, "true", "10"),
        ({"Retry_After": "Tue, 22 Sep 2026 00:13:20 GMT"}, "false", "36000"),
        ({"retry_after_ms": "1500"}, "true", "2"),
        ({"retry_after_ms": "x", "Retry_After": "3"}, "true", "3"),
        ({"Retry_After": "0"}, "true", None),
        ({"Retry_After": "Sun, 21 Sep 2025 14:13:30 GMT"}, "true", None),
        ({"Retry_After": "Mon, 99 Sep 2026 14:13:30 GMT"}, "true", None),
        ({"Retry_After": "Mon, 01 Jan 99999999999999 00:00:00 GMT"}, "true", None),
        ({"Retry_After": f"Mon, 21 Sep 2026 14:13:30 +{'9' * 22}"}, "true", None),
        ({"Retry_After": "\u0665"}, "true", None),
        ({"Retry_After": "9" * 5000}, "true", None),
        ({}, "true", None),
    ],
)
def test_a_sane_wait_is_passed_on(headers: dict[str, str], retry: str, wait: str | None) -> None:
    """RFC 9110, 10.2.3. For a limit it is 15 seconds where the provider names none."""
    assert told_of(error(503, {"error": "x"}, **headers))[3:] == (retry, wait)
    assert told_of(error(429, {"error": "x"}, **headers))[3:] == (retry, wait or "15")


def test_the_log_names_the_settings_of_an_address() -> None:
    settings = "LLAMA_PROVIDER_BASE_URL and LLAMA_PROVIDER_MODELS"
    assert error(404, {"error": "x"}).notes == {"seen": "HTTP 404", "fix": settings}
