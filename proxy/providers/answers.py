"""Reads the response of any provider, as the parts of an answer or as a refusal."""

from codecs import BOM_UTF8
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import partial
from itertools import chain

from proxy import sse, strict_json
from proxy.chat_request import ChatRequest
from proxy.completion import Mark, Part
from proxy.errors import ProviderError
from proxy.providers import Provider, envelopes, frames, refusals
from proxy.strict_json import JSON
from proxy.upstream import Reply

MAX_ANSWER = 8 * 1024**2  # bytes
_MARKS = {sse.DONE: Mark.DONE, sse.PAUSE: Mark.PAUSE, b"null": Mark.PAUSE, b'""': Mark.PAUSE}
_EVENT_STARTS = (b"data:", b"event:", b"id:", b"retry:", b":", b"error:")  # WHATWG HTML, 9.2.6
_LONGEST_START = 6  # bytes


def parts(provider: Provider, chat: ChatRequest, reply: Reply) -> Iterator[Part | Mark]:
    """The parts as the provider sends them, with its pauses and its [DONE]; a whole answer is one
    part. Raises ProxyError, for a refusal at the first step."""
    refused = partial(refusals.error, provider, chat.created, reply.status, reply.headers)
    if not 200 <= reply.status < 300:
        page = b""
        with suppress(ProviderError):  # the status alone has a meaning
            page = b"".join(_bounded(reply.pieces()))
        raise refused(page)
    is_event, sent = _data(reply, is_streamed=chat.stream)
    try:
        for data in sent:
            if isinstance(data, sse.ErrorData):
                raise refused(data)
            if mark := _MARKS.get(data.strip()):
                yield mark
                continue
            frame = _frame(data)
            if envelopes.is_error(frame):
                raise refused(data)
            yield frames.part(frame, is_event=is_event, relay=provider.relays_unknown)
    except sse.EventTooLong:
        raise ProviderError("provider_bad_answer", seen="an event over 1 MiB") from None


def _data(reply: Reply, *, is_streamed: bool) -> tuple[bool, Iterable[bytes]]:
    """Whether the body is a stream of events; and the data of each, or all of the body and [DONE].

    Its first bytes decide, not its Content-Type, and not what was asked for.
    """
    pieces = reply.pieces()
    start = b""  # without the blanks by which some keep a connection open
    for piece in pieces:
        start = (start + piece).removeprefix(BOM_UTF8).lstrip()
        if len(start) >= _LONGEST_START:
            break
    pieces = chain([start], pieces)
    if start.startswith((b"{", b"[")):
        return False, [b"".join(_bounded(pieces)), sse.DONE]
    if reply.is_event_stream or start.startswith(_EVENT_STARTS):
        return True, sse.events(pieces if is_streamed else _bounded(pieces))
    raise ProviderError("provider_bad_answer", seen="neither JSON nor events")


def _frame(data: bytes) -> JSON:
    """The object in the data, or an error in a list, as Google sends them. Raises ProviderError."""
    try:
        frame = strict_json.loads_upstream(data)
    except strict_json.InvalidJSON:
        raise ProviderError("provider_bad_answer", seen="not JSON") from None
    if isinstance(frame, list) and envelopes.is_error(first := frames.first_object(frame)):
        return first
    if not isinstance(frame, dict):
        raise ProviderError("provider_bad_answer", seen="JSON, but no object")
    return frame


def _bounded(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The pieces of what is kept in memory. Raises ProviderError if they are over MAX_ANSWER."""
    size = 0
    for piece in pieces:
        size += len(piece)
        if size > MAX_ANSWER:
            raise ProviderError("provider_bad_answer", seen=f"over {MAX_ANSWER} bytes")
        yield piece
