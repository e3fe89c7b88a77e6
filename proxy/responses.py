"""Flask responses: JSON, server-sent events, and errors in OpenAI's form."""

import traceback
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain

from flask import Response

from proxy import sse, strict_json
from proxy.chat_request import ChatRequest
from proxy.completion import Chunk, Mark, around_text
from proxy.errors import OperatorError, ProxyError
from proxy.request_log import Entry
from proxy.strict_json import JSON


def json(value: JSON, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON object."""
    body = strict_json.dumps(value)
    return Response(body, status, headers, content_type="application/json")


def stream(chat: ChatRequest, chunks: Iterator[Chunk], entry: Entry) -> Response:
    """Server-sent events. Waits for the first chunk: an error before it has a status of its own."""
    first = next(chunk for chunk in chunks if chunk is not Mark.PAUSE)
    entry.first_token_ms = entry.elapsed_ms()
    return Response(
        _events(chat, chain([first], chunks), entry),
        content_type="text/event-stream; charset=utf-8",
        headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
    )


def _events(chat: ChatRequest, chunks: Iterable[Chunk], entry: Entry) -> Iterator[bytes]:
    """Send what has arrived at once, in one piece however many events it is.

    [DONE] follows a complete answer only. A cut answer ends with an error event.
    """
    before, after = around_text(chat)  # built once: most of a stream is text
    ready: list[bytes] = []
    try:
        for chunk in chunks:
            if isinstance(chunk, str):
                ready.append(sse.event(before + strict_json.dumps(chunk) + after))
            elif chunk is not Mark.PAUSE:
                ready.append(sse.event(strict_json.dumps(chunk)))
            elif ready:
                yield b"".join(ready)
                ready.clear()
        ready.append(sse.event(sse.DONE))
    except Exception as raised:
        ready.append(sse.event(error(raised, entry).data))
    yield b"".join(ready)


def error(raised: Exception, entry: Entry) -> Response:
    """The response to any error, expected or not. The log entry notes it."""
    if not isinstance(raised, ProxyError):  # its text may hold a secret; its type and place do not
        place = "".join(traceback.format_tb(raised.__traceback__, limit=-5))
        raised = OperatorError("internal_error", raised=type(raised).__name__, traceback=place)
    entry.failed(raised)
    return json(raised.to_json(entry.request_id), raised.status, raised.headers)


def counted(pieces: Iterable[bytes], entry: Entry) -> Iterator[bytes]:
    """The pieces. The log entry counts what was sent, and notes why the rest was not."""
    try:
        for piece in pieces:
            yield piece
            entry.bytes += len(piece)  # reached only if the piece was sent
    except BaseException as error:
        entry.failed(error)
        raise
    finally:
        entry.total_ms = entry.elapsed_ms()
