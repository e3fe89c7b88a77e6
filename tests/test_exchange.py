"""What the provider replied: parts of an answer, or a refusal, by what came and not by what was
asked."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from recorded import chat

from proxy import exchange, sse
from proxy.chat_answer import Mark, Part
from proxy.errors import ProviderError
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

    def read(self) -> bytes:
        return b"".join(self.pieces())


def parts(*sent: bytes | None, status: int = 200, stream: bool = False) -> Iterator[Part | Mark]:
    return exchange.parts(PROVIDER, chat(), Reply([*sent], status, stream))  # type: ignore[arg-type]


def test_a_whole_answer_is_one_part() -> None:
    first, end = parts(TEXT)
    assert isinstance(first, Part)
    assert first.content == "Hi"
    assert end is Mark.DONE


def test_a_stream_has_a_part_for_each_event_and_a_pause_after_each_piece() -> None:
    """An empty event is a pause too."""
    events = [sse.event(TEXT) * 2, b"data:\n\n", sse.event(TEXT) + sse.event(sse.DONE)]
    said = [
        part if isinstance(part, Mark) else part.content for part in parts(*events, stream=True)
    ]
    pauses = [Mark.PAUSE] * 3
    assert said == ["Hi", "Hi", *pauses, "Hi", Mark.DONE, Mark.PAUSE]


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


def test_whole_takes_one_part_that_has_an_end() -> None:
    part = Part(content="Hi")
    assert exchange.whole(iter([part, Mark.DONE])) is part
    assert exchange.whole(iter([Mark.PAUSE, Mark.PAUSE, part, Mark.PAUSE, Mark.DONE])) is part
    for others in ([part], [part, part], [Mark.DONE], []):
        with pytest.raises(ProviderError):
            exchange.whole(iter(others))
