"""Answers as Flask sends them: whole, as a stream, or as a failure in OpenAI's form."""

import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain

from flask import Response
from werkzeug.exceptions import MethodNotAllowed, NotFound

from proxy import sse, strict_json
from proxy.chat_answer import Chunk, Mark, around_text
from proxy.chat_request import ChatRequest
from proxy.errors import CallerError, ClientGone, OperatorError, ProxyError
from proxy.request_log import Entry
from proxy.strict_json import JSON


def whole(value: JSON, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON object."""
    body = strict_json.dumps(value)
    return Response(body, status, headers, content_type="application/json")


def stream(chat: ChatRequest, chunks: Iterator[Chunk], entry: Entry) -> Response:
    """Server-sent events. The first chunk is awaited: until then a failure keeps its status."""
    first = next(chunk for chunk in chunks if chunk is not Mark.PAUSE)
    entry.first_token()
    return Response(
        _events(chat, chain([first], chunks), entry),
        content_type="text/event-stream; charset=utf-8",
        headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
    )


def _events(chat: ChatRequest, chunks: Iterable[Chunk], entry: Entry) -> Iterator[bytes]:
    """What has come is sent at once, in one piece however many events it is.

    [DONE] only after a whole answer: a cut one ends with an error event, never with it.
    """
    before, after = around_text(chat)  # built once: most of a stream is text
    before, after = sse.BEFORE + before, after + sse.AFTER
    ready: list[bytes] = []
    try:
        for chunk in chunks:
            if isinstance(chunk, str):
                ready.append(before + strict_json.dumps(chunk) + after)
            elif chunk is not Mark.PAUSE:
                ready.append(sse.event(strict_json.dumps(chunk)))
            elif ready:
                yield b"".join(ready)
                ready.clear()
        ready.append(sse.event(sse.DONE))
    except Exception as error:
        failure = as_failure(error)
        entry.failed(error, failure, begun=True)
        ready.append(sse.event(strict_json.dumps(failure.to_json(entry.request_id))))
    yield b"".join(ready)


def noted(response: Response, entry: Entry, ended: Callable[[], None]) -> Response:
    """The answer, with what the log says of its way; `ended` is called when it is over."""
    if not response.is_streamed:
        response.content_length = len(response.data)
    response.response = _counted(response.iter_encoded(), entry)
    response.call_on_close(ended)
    return response


def _counted(pieces: Iterable[bytes], entry: Entry) -> Iterator[bytes]:
    try:
        for piece in pieces:
            yield piece
            entry.size += len(piece)  # it was sent, else this is not reached
    except GeneratorExit:
        entry.client_gone()
        raise
    finally:
        entry.over()


def failed(error: Exception, entry: Entry) -> Response:
    """Any failure, foreseen or not."""
    failure = as_failure(error)
    entry.failed(error, failure, begun=False)
    return whole(failure.to_json(entry.request_id), failure.status, failure.headers)


def as_failure(error: Exception) -> ProxyError:
    """The failure as one of ours."""
    if isinstance(error, ProxyError):
        return error
    if isinstance(error, NotFound):
        tells = "There is nothing at this path; POST to / or /v1/chat/completions."
        return CallerError("not_found", tells)
    if isinstance(error, MethodNotAllowed):
        return CallerError.method(", ".join(sorted(error.valid_methods or ())))
    if isinstance(error, ClientGone):
        return CallerError("invalid_http", "The caller left.")  # and so nobody will read this
    failure = OperatorError.internal()
    # The error's text may hold a secret; its type and its place do not.
    failure.notes = {
        "raised": type(error).__name__,
        "traceback": "".join(traceback.format_tb(error.__traceback__)),
    }
    return failure
