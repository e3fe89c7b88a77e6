"""What the provider replied, read as the parts of an answer, or as its refusal."""

from collections.abc import Iterator
from itertools import islice

from proxy import sse, strict_json
from proxy.chat_answer import Mark, Part
from proxy.chat_request import ChatRequest
from proxy.errors import ProviderError
from proxy.providers import Provider, Refusal
from proxy.strict_json import JSON
from proxy.upstream import Reply


def parts(provider: Provider, chat: ChatRequest, reply: Reply) -> Iterator[Part | Mark]:
    """As the provider says them, with its pauses and its [DONE]; a whole answer is one part.

    What came decides, not what was asked. Raises ProxyError, a refusal at the first step.
    """
    if reply.status != 200:
        raise provider.error(chat, Refusal(reply.status, reply.headers, _page(reply)))
    if not reply.is_event_stream:
        yield provider.part(chat, _object(reply.read()))
        yield Mark.DONE
        return
    try:
        for data in sse.events(reply.pieces()):
            if data == sse.PAUSE:  # an empty event too: some servers keep a stream alive so
                yield Mark.PAUSE
            elif data == sse.DONE:
                yield Mark.DONE
            else:
                yield provider.part(chat, _object(data))
    except sse.EventTooLong:
        raise ProviderError("provider_bad_answer", seen="an event without an end") from None


def whole(parts: Iterator[Part | Mark]) -> Part:
    """The only part. Raises ProviderError where it is not the only one."""
    said = (part for part in parts if part is not Mark.PAUSE)
    match list(islice(said, 2)):
        case [Part() as part, Mark.DONE]:
            return part
    raise ProviderError("provider_bad_answer", seen="a stream that was not asked for")


def _page(reply: Reply) -> bytes:
    """What a refusal says; its status is a fact also where that cannot be read."""
    try:
        return reply.read()
    except ProviderError:
        return b""


def _object(data: bytes) -> JSON:
    try:
        value = strict_json.loads_upstream(data)
    except strict_json.InvalidJSON:
        raise ProviderError("provider_bad_answer", seen="not JSON") from None
    if not isinstance(value, dict):
        raise ProviderError("provider_bad_answer", seen="JSON, but no object")
    return value
