"""What a refusal means where the provider's own codes do not say more."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recorded import told_of

from proxy.providers import Refusal, refusals

quick = settings(max_examples=100, derandomize=True, deadline=None, database=None)


@pytest.mark.parametrize(
    ("status", "code", "retry_if_complete", "retry_if_not"),
    [
        (200, "provider_bad_answer", "false", "false"),
        (302, "provider_bad_answer", "false", "false"),
        (400, "provider_bad_answer", "false", "false"),
        (401, "provider_auth_failed", "false", "false"),
        (402, "provider_quota_exhausted", "false", "false"),
        (403, "provider_auth_failed", "false", "false"),
        (404, "provider_not_found", "false", "false"),
        (405, "provider_not_found", "false", "false"),
        (408, "provider_timeout", "false", "false"),
        (410, "provider_model_unavailable", "false", "false"),
        (429, "provider_rate_limited", "true", "true"),
        (500, "provider_failed", "true", "false"),
        (503, "provider_failed", "true", "false"),
        (524, "provider_timeout", "false", "false"),
        (599, "provider_failed", "true", "false"),
    ],
)
def test_by_status(status: int, code: str, retry_if_complete: str, retry_if_not: str) -> None:
    """A complete refusal tells that the model is not at work any more."""
    for complete, retry in ((True, retry_if_complete), (False, retry_if_not)):
        error = refusals.by_status(Refusal(status), complete=complete, seen="")
        assert (error.status, error.code, error.headers["X-Should-Retry"]) == (502, code, retry)


def test_a_wait_is_passed_on() -> None:
    """Also with a 503: the provider knows best."""
    error = refusals.by_status(Refusal(503, {"Retry-After": "7"}), complete=True, seen="")
    assert told_of(error) == (502, "provider_failed", None, "true", "7")


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("1", 1),
        ("007", 7),
        ("86400", 86400),
        ("86401", None),
        ("0", None),
        ("", None),
        ("-5", None),
        ("+5", None),
        ("1.5", None),
        (" 5", None),
        ("5\n", None),
        ("\u0665", None),  # a digit, but not ours
        ("9" * 5000, None),
        ("Wed, 21 Oct 2026 07:28:00 GMT", None),
    ],
)
def test_retry_after(value: str, seconds: int | None) -> None:
    """Seconds, up to a day."""
    assert refusals.retry_after({"Retry-After": value}) == seconds


def test_no_retry_after() -> None:
    assert refusals.retry_after({}) is None


@pytest.mark.parametrize(
    ("message", "limit", "needed"),
    [
        (
            "The estimated number of input and maximum output tokens (8224) exceeded this model "
            "context window limit (7968).",
            "7968",
            "8224",
        ),
        (
            "Requested token count exceeds the model's maximum context length of 262144 tokens. "
            "You requested a total of 263925 tokens: 199925 tokens from the input messages.",
            "262144",
            "263925",
        ),
        (
            "This model's maximum context length is 4097 tokens. However, your messages resulted "
            "in 5000 tokens.",
            "4097",
            "5000",
        ),
        (
            "This model's maximum context length is 4096 tokens. However, you requested 5000 "
            "tokens (4000 in the messages, 1000 in the completion).",
            "4096",
            "5000",
        ),
        (
            "the request exceeds the available context size (4096 tokens), try increasing it",
            "4096",
            None,
        ),
        ("Too long.", None, None),
        ("", None, None),
    ],
)
def test_a_context_exceeded_tells_the_numbers(
    message: str, limit: str | None, needed: str | None
) -> None:
    """As the providers' prose has them; the rest of it is not relayed."""
    error = refusals.context_exceeded(message)
    assert told_of(error) == (400, "context_length_exceeded", "messages", None, None)
    assert f"of {limit} tokens" in error.message if limit else "of " not in error.message
    assert f"{needed} were asked for" in error.message if needed else "asked" not in error.message


@pytest.mark.parametrize(
    ("message", "param", "place"),
    [
        (
            "Type mismatch of '/messages/0/content', 'array' not in 'string'",
            None,
            "messages[0].content",
        ),
        (
            "oneOf at '/' not met, required properties at '/messages/1' are 'role'",
            None,
            "messages[1]",
        ),
        ("Additional properties '/seed' at '/' not allowed", None, "seed"),
        ("'/tools/0/function/parameters/properties/mine'", None, "tools[0].function.parameters"),
        ("Invalid value", "messages[1].content", "messages[1].content"),
        ("Invalid value", "temperature", "temperature"),
        ("Invalid value", "tools[0].function.name", "tools[0].function.name"),
        ("Invalid value", "My Secret", None),
        ("Invalid value", "", None),
        ("Invalid value", 7, None),
        ("Invalid value", None, None),
        ("Failed to read '/srv/models/mine.gguf'", None, None),  # a path of the provider's
        ("No route for '/client/v4/accounts'", None, None),
        ("", None, None),
    ],
)
def test_a_rejected_input_tells_the_place(message: str, param: object, place: str | None) -> None:
    """A place in the request, and nothing else of the provider's prose."""
    error = refusals.rejected_input(message, param)
    assert told_of(error) == (400, "provider_rejected_input", place, None, None)
    assert (f"'{place}'" in error.message) is (place is not None)


@quick
@given(st.text(), st.none() | st.text())
def test_prose_is_never_relayed(message: str, param: str | None) -> None:
    for error in (refusals.context_exceeded(message), refusals.rejected_input(message, param)):
        assert error.message.isascii()
        assert "\n" not in error.message
