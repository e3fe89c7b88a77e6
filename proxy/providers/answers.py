"""Reads the response of any provider, as the parts of an answer or as a refusal."""

from codecs import BOM_UTF8
from collections.abc import Iterable, Iterator
from itertools import chain

from proxy import sse, strict_json
from proxy.chat_request import ChatRequest
from proxy.errors import ProviderError, ProxyError
from proxy.part import Mark, Part
from proxy.providers import Provider, envelopes, frames, refusals
from proxy.providers.envelopes import Refusal
from proxy.strict_json import JSON
from proxy.upstream import Reply

MAX_ANSWER = 8 * 1024**2  # bytes


def parts(provider: Provider, chat: ChatRequest, reply: Reply) -> Iterator[Part | Mark]:
    """The parts as the provider sends them, with its pauses and its [DONE]; a whole answer is one
    part. Raises ProxyError, for a refusal at the first step.

    The first bytes decide what a body is, not its Content-Type, and not what was asked for.
    """
    if not 200 <= reply.status < 300:
        raise _refused(provider, chat, Refusal(reply.status, reply.headers, _page(reply)))
    start, pieces = _start(reply.pieces())
    if start[:1] in (b"{", b"["):
        body = b"".join(_bounded(pieces)).removeprefix(BOM_UTF8)
        yield _part(provider, chat, reply, body, is_event=False)
        yield Mark.DONE
    elif reply.is_event_stream or start.startswith(_EVENT_STARTS):
        yield from _events(provider, chat, reply, pieces if chat.stream else _bounded(pieces))
    else:
        raise ProviderError("provider_bad_answer", seen="neither JSON nor events")


# The fields of an event, and a comment: WHATWG HTML, 9.2.6
_EVENT_STARTS = (b"data:", b"event:", b"id:", b"retry:", b":")
_LONGEST_START = 6  # bytes


def _start(pieces: Iterable[bytes]) -> tuple[bytes, Iterator[bytes]]:
    """How the body begins, without a byte order mark and blanks; and all its pieces."""
    pieces, read = iter(pieces), []
    start = b""
    for piece in pieces:
        read.append(piece)
        start = b"".join(read).removeprefix(BOM_UTF8).lstrip()
        if len(start) >= _LONGEST_START or start[:1] in (b"{", b"[") or len(read) > 100:
            break
    return start, chain(read, pieces)


def _events(
    provider: Provider, chat: ChatRequest, reply: Reply, pieces: Iterable[bytes]
) -> Iterator[Part | Mark]:
    try:
        for data in sse.events(pieces):
            if isinstance(data, sse.ErrorData):
                error = Refusal(200, reply.headers, frame=_error_frame(data))
                raise _refused(provider, chat, error)
            text = data if data[:1] == b"{" else data.strip()
            if text in _KEEP_ALIVES:
                yield Mark.PAUSE
            elif text == sse.DONE:
                yield Mark.DONE
            else:
                yield _part(provider, chat, reply, text, is_event=True)
    except sse.EventTooLong:
        raise ProviderError("provider_bad_answer", seen="an event without an end") from None


_KEEP_ALIVES = frozenset((sse.PAUSE, b"null", b'""'))


def _part(
    provider: Provider, chat: ChatRequest, reply: Reply, data: bytes, *, is_event: bool
) -> Part:
    """The part that is in the data. Raises ProxyError if it is an error, or is not JSON."""
    try:
        frame = strict_json.loads_upstream(data)
    except strict_json.InvalidJSON:
        raise ProviderError("provider_bad_answer", seen="not JSON") from None
    error = frames.first_object(frame) if isinstance(frame, list) else frame  # Google's are in one
    if isinstance(error, dict) and envelopes.is_error(error):
        raise _refused(provider, chat, Refusal(200, reply.headers, frame=error))
    if not isinstance(frame, dict):
        raise ProviderError("provider_bad_answer", seen="JSON, but no object")
    return frames.part(frame, is_event=is_event, relay=provider.relays_unknown)


def _error_frame(data: bytes) -> JSON:
    """The data of an event named `error`, whatever it is."""
    try:
        frame = strict_json.loads_upstream(data)
    except strict_json.InvalidJSON:
        frame = data.decode(errors="replace")
    return frame if isinstance(frame, dict) else {"error": frame}


def _refused(provider: Provider, chat: ChatRequest, refusal: Refusal) -> ProxyError:
    return refusals.error(refusal, now=chat.created, address_settings=provider.address_settings)


def _bounded(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The pieces of what is kept in memory. Raises ProviderError if they are over MAX_ANSWER."""
    size = 0
    for piece in pieces:
        size += len(piece)
        if size > MAX_ANSWER:
            raise ProviderError("provider_bad_answer", seen=f"over {MAX_ANSWER} bytes")
        yield piece


def _page(reply: Reply) -> bytes:
    """The body of a refusal; empty if it cannot be read, since the status alone has a meaning."""
    try:
        return b"".join(_bounded(reply.pieces()))
    except ProviderError:
        return b""
