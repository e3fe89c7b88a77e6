"""What the provider replied: parts of an answer, or a refusal, by what came and not by what was
asked."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from recorded import chat

from proxy import sse
from proxy.errors import CallerError, ProviderError
from proxy.part import Mark, Part
from proxy.providers import answers
from proxy.providers.openai_compatible import OpenAICompatible

PROVIDER = OpenAICompatible("http://x", "", {"m": ("m",)})
TEXT = b'{"choices":[{"index":0,"message":{"content":"Hi"}}]}'


@dataclass
class Reply:
    """As much of upstream.Reply as the room needs; None breaks the body off."""

    sent: list[bytes | None]
    status: int = 200
    is_event_stream: bool = False
    headers: dict[str, str] = field(default_factory=dict)

    def pieces(self) -> Iterator[bytes]:
        for piece in self.sent:
            if piece is None:
                raise ProviderError("provider_failed")
            yield piece


def parts(*sent: bytes | None, status: int = 200, stream: bool = False) -> Iterator[Part | Mark]:
    return answers.parts(PROVIDER, chat(), Reply([*sent], status, stream))  # type: ignore[arg-type]


def test_a_whole_answer_is_one_part() -> None:
    first, end = parts(TEXT)
    assert isinstance(first, Part)
    assert first.delta == {"content": "Hi"}
    assert end is Mark.DONE


def test_a_stream_has_a_part_for_each_event_and_a_pause_after_each_piece() -> None:
    """An empty event is a pause too."""
    events = [sse.event(TEXT) * 2, b"data:\n\n", sse.event(TEXT) + sse.event(sse.DONE)]
    said = [
        part if isinstance(part, Mark) else part.delta["content"]
        for part in parts(*events, stream=True)
    ]
    pauses = [Mark.PAUSE] * 3
    assert said[:7] == ["Hi", "Hi", *pauses, "Hi", Mark.DONE]


NONSENSE = {
    "nothing": b"",
    "HTML": b"<html>",
    "a list": b"[1]",
    "null": b"null",
    "NaN": b'{"a":NaN}',
    "deep": b'{"a":' + b"[" * 100_000,
    "latin-1": b'{"a":"\xe9"}',
    "UTF-16": '{"a":1}'.encode("utf-16"),
}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "event"])
@pytest.mark.parametrize("body", NONSENSE.values(), ids=NONSENSE)
def test_what_is_no_json_object_is_no_answer(body: bytes, stream: bool) -> None:
    with pytest.raises(ProviderError) as caught:
        list(parts(sse.event(body) if stream and body else body, sse.event(b"1"), stream=stream))
    assert caught.value.code == "provider_bad_answer"


def test_an_event_without_an_end() -> None:
    with pytest.raises(ProviderError) as caught:
        list(parts(b"data: ", b"x" * sse.MAX_EVENT, stream=True))
    assert caught.value.code == "provider_bad_answer"


@pytest.mark.parametrize("body", [b'{"error":{"code":"invalid_api_key"}}', b"<html>", None])
def test_the_status_of_a_refusal_is_a_fact_whatever_its_body(body: bytes | None) -> None:
    with pytest.raises(ProviderError) as caught:
        next(parts(body, status=401))
    assert caught.value.code == "provider_auth_failed"


EVENTS = sse.event(TEXT) + sse.event(sse.DONE)
BODIES = {
    "events": (EVENTS, True),
    "events as text/plain": (EVENTS, False),
    "JSON as text/event-stream": (TEXT, True),
    "a byte order mark": (b"\xef\xbb\xbf" + TEXT, False),
    "a byte order mark before events": (b"\xef\xbb\xbf" + EVENTS, False),
    "blanks": (b" \r\n\t" + TEXT, False),
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
    pieces = [body[i : i + 1] for i in range(len(body))] if cut else [body]
    got = [part for part in parts(*pieces, stream=stream) if part is not Mark.PAUSE]
    assert [part.delta["content"] if isinstance(part, Part) else part for part in got] == [
        "Hi",
        Mark.DONE,
    ]


@pytest.mark.parametrize("status", [201, 202, 203, 206])
def test_any_2xx_is_an_answer(status: int) -> None:
    assert next(parts(TEXT, status=status)) == next(parts(TEXT))


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
    with pytest.raises(ProviderError) as caught:
        list(parts(sse.event(TEXT), b"event: error\n" + sse.event(data), EVENTS, stream=True))
    assert caught.value.code == code
    with pytest.raises(ProviderError):
        list(parts(b"event: error\ndata: " + data, stream=True))


def test_an_event_named_error_has_the_headers_of_its_response() -> None:
    headers = {"X-Should-Retry": "false", "Retry-After": "7"}
    data = b'event: error\ndata: {"message":"overloaded"}\n\n'
    with pytest.raises(ProviderError) as caught:
        list(answers.parts(PROVIDER, chat(), Reply([data], headers=headers)))  # type: ignore[arg-type]
    assert caught.value.headers == headers


def test_an_error_in_a_list() -> None:
    with pytest.raises(CallerError):
        list(parts(b'[{"error":{"code":400,"message":"x"}}]'))


def test_an_answer_over_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "MAX_ANSWER", len(TEXT) - 1)
    with pytest.raises(ProviderError) as caught:
        list(parts(TEXT))
    assert caught.value.code == "provider_bad_answer"
