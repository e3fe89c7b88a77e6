"""What the provider replied: parts of an answer, or a refusal, by what came and not by what was
asked."""

from typing import Any

import pytest
from recorded import Reply, chat

from proxy import sse
from proxy.completion import Mark
from proxy.errors import ProviderError
from proxy.providers import answers
from proxy.providers.openai_compatible import OpenAICompatible

PROVIDER = OpenAICompatible("http://x", "", {"m": ("m",)})
TEXT = b'{"choices":[{"index":0,"message":{"content":"Hi"}}]}'
EVENTS = sse.event(TEXT) + sse.event(sse.DONE)


def parts(*sent: bytes, status: int = 200, stream: bool = False, **headers: str) -> list[Any]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return list(answers.parts(PROVIDER, chat(), Reply([*sent], stream, status, named)))


def texts(*sent: bytes, **options: Any) -> list[Any]:
    """The marks, and the text of each part."""
    return [
        part if isinstance(part, Mark) else part.delta["content"]
        for part in parts(*sent, **options)
    ]


def error(*sent: bytes, **options: Any) -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        parts(*sent, **options)
    return caught.value


def test_a_stream_has_a_part_for_each_event_and_a_pause_after_each_piece() -> None:
    """An empty event is a pause too."""
    events = [sse.event(TEXT) * 2, b"data:\n\n", sse.event(TEXT) + sse.event(sse.DONE)]
    got = texts(*events, stream=True)
    assert got[:7] == ["Hi", "Hi", *[Mark.PAUSE] * 3, "Hi", Mark.DONE]


NONSENSE = {
    "nothing": b"",
    "HTML": b"<html>",
    "a list": b"[1]",
    "null": b"null",
    "NaN": b'{"a":NaN}',
    "deep": b'{"a":' + b"[" * 100_000,
    "latin-1": b'{"a":"\xe9"}',
    "UTF-16": '{"a":1}'.encode("utf-16"),
    "an event without an end": b"data: " + b"x" * sse.MAX_EVENT,
}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "event"])
@pytest.mark.parametrize("body", NONSENSE.values(), ids=NONSENSE)
def test_what_is_no_json_object_is_no_answer(body: bytes, stream: bool) -> None:
    sent = sse.event(body) if stream and body else body
    assert error(sent, sse.event(b"1"), stream=stream).code == "provider_bad_answer"


@pytest.mark.parametrize(
    "body", [b'{"error":{"code":"invalid_api_key"}}', b"<html>", b"x" * (answers.MAX_ANSWER + 1)]
)
def test_the_status_of_a_refusal_is_a_fact_whatever_its_body(body: bytes) -> None:
    assert error(body, status=401).code == "provider_auth_failed"


BODIES = {
    "events": (EVENTS, True),
    "events as text/plain": (EVENTS, False),
    "JSON as text/event-stream": (TEXT, True),
    "a byte order mark": (b"\xef\xbb\xbf" + TEXT, False),
    "a byte order mark before events": (b"\xef\xbb\xbf" + EVENTS, False),
    "blanks": (b" \r\n\t" * 2000 + TEXT, False),
    "a comment first": (b": hi\n\n" + EVENTS, False),
    "a name first": (b"event: message\n" + EVENTS, False),
    "an id first": (b"id:1\n" + EVENTS, False),
    "a retry first": (b"retry: 1\n\n" + EVENTS, False),
    "an unknown field first": (b"x: 1\n" + EVENTS, True),
    "blanks round [DONE]": (sse.event(TEXT) + b"data:  [DONE] \n\n", True),
    "keep-alives": (b'data: null\n\ndata: ""\n\ndata:\n\n' + EVENTS, True),
}


@pytest.mark.parametrize("cut", [False, True], ids=["one piece", "byte by byte"])
@pytest.mark.parametrize(("body", "stream"), BODIES.values(), ids=BODIES)
def test_the_first_bytes_say_what_a_body_is(body: bytes, stream: bool, cut: bool) -> None:
    """Any 2xx is an answer."""
    pieces = [body[i : i + 1] for i in range(len(body))] if cut else [body]
    got = texts(*pieces, status=206, stream=stream)
    assert [text for text in got if text is not Mark.PAUSE] == ["Hi", Mark.DONE]


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"broke", "provider_failed"),
        (b'{"message":"broke"}', "provider_failed"),
        (b'{"error":{"code":429}}', "provider_rate_limited"),
        (b'"broke"', "provider_failed"),
        (b"\xff", "provider_failed"),
        (sse.DONE, "provider_failed"),
    ],
)
def test_an_event_named_error(data: bytes, code: str) -> None:
    """Its response's headers count, also where it has no end."""
    event = b"event: error\ndata: " + data
    got = error(sse.event(TEXT), event + b"\n\n", EVENTS, stream=True)
    assert got.code == code
    headers = {"X-Should-Retry": "false", "Retry-After": "7"}
    got = error(event, X_Should_Retry="false", Retry_After="7")
    assert (got.code, got.headers) == (code, headers)


def test_an_error_in_a_list() -> None:
    assert error(b'[{"error":{"code":429}}]').code == "provider_rate_limited"


def test_an_answer_over_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "MAX_ANSWER", len(TEXT) - 1)
    assert error(TEXT).code == "provider_bad_answer"
