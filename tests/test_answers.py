"""What the provider replied: an answer, or a refusal, by what came and not by what was asked."""

import pytest
from test_provider_cases import ask, check_error, heard_in

from proxy import sse
from proxy.providers import answers

TEXT = b'{"choices":[{"index":0,"message":{"content":"Hi"}}]}'
EVENTS = sse.event(TEXT) + sse.event(sse.DONE)
BAD = {"code": "provider_bad_answer"}
NONSENSE = {
    "nothing": b"",
    "HTML": b"<html>",
    "a list": b"[1]",
    "null": b"null",
    "deep": b'{"a":' + b"[" * 100_000,
    "an event without an end": b"data: " + b"x" * sse.MAX_EVENT,
}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "event"])
@pytest.mark.parametrize("body", NONSENSE.values(), ids=NONSENSE)
def test_what_is_no_json_object_is_no_answer(body: bytes, stream: bool) -> None:
    sent = (sse.event(body) if stream and body else body) + sse.event(b"1")
    check_error(ask(sent, stream, content_type="text/event-stream" if stream else None), BAD)


@pytest.mark.parametrize(
    "body", [b'{"error":{"code":"invalid_api_key"}}', b"<html>", b"x" * (answers.MAX_ANSWER + 1)]
)
def test_the_status_of_a_refusal_is_a_fact_whatever_its_body(body: bytes) -> None:
    check_error(ask(body, False, status=401), {"code": "provider_auth_failed"})


BODIES = {
    "events": (EVENTS, "text/event-stream"),
    "events as text/plain": (EVENTS, "text/plain"),
    "JSON as text/event-stream": (TEXT, "text/event-stream"),
    "a byte order mark": (b"\xef\xbb\xbf" + TEXT, "text/plain"),
    "a byte order mark before events": (b"\xef\xbb\xbf" + EVENTS, "text/plain"),
    "blanks": (b" \r\n\t" * 2000 + TEXT, "text/plain"),
    "a comment first": (b": hi\n\n" + EVENTS, "text/plain"),
    "a name first": (b"event: message\n" + EVENTS, "text/plain"),
    "an id first": (b"id:1\n" + EVENTS, "text/plain"),
    "a retry first": (b"retry: 1\n\n" + EVENTS, "text/plain"),
    "an unknown field first": (b"x: 1\n" + EVENTS, "text/event-stream"),
    "blanks round [DONE]": (sse.event(TEXT) + b"data:  [DONE] \n\n", "text/event-stream"),
    "keep-alives": (b'data: null\n\ndata: ""\n\ndata:\n\n' + EVENTS, "text/event-stream"),
}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("size", [1, 100_000], ids=["byte by byte", "at once"])
@pytest.mark.parametrize(("body", "content_type"), BODIES.values(), ids=BODIES)
def test_the_first_bytes_say_what_a_body_is(
    body: bytes, content_type: str, size: int, stream: bool
) -> None:
    """Any 2xx is an answer."""
    response = ask(body, stream, status=206, size=size, content_type=content_type)
    assert heard_in(response).content == "Hi"


@pytest.mark.parametrize("data", [b"broke", b'"broke"', b"\xff", sse.DONE])
def test_an_event_named_error_is_one_whatever_its_data(data: bytes) -> None:
    """Its response's headers count, also where it has no end."""
    event = b"event: error\ndata: " + data
    later = ask(sse.event(TEXT) + event + b"\n\n" + EVENTS, True)
    assert heard_in(later).error == "provider_failed"
    headers = {"X-Should-Retry": "false", "Retry-After": "7"}
    gets = {"code": "provider_failed", "retry": "false", "retry_after": "7"}
    check_error(ask(event, False, headers=headers), gets)


def test_an_error_in_a_list() -> None:
    check_error(ask([{"error": {"code": 429}}], False), {"code": "provider_rate_limited"})


def test_an_answer_over_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "MAX_ANSWER", len(TEXT) - 1)
    check_error(ask(TEXT, False), BAD)
    check_error(ask(EVENTS, False), BAD)
    assert heard_in(ask(EVENTS, True)).content == "Hi"  # of a stream nothing is kept
