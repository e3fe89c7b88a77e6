"""Flask responses: JSON, server-sent events, and errors in OpenAI's form."""

import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain

from flask import Response

from proxy import sse, strict_json
from proxy.chat_request import ChatRequest
from proxy.completion import Chunk, around_text
from proxy.errors import CallerError, ClientGone, OperatorError, ProxyError
from proxy.part import Mark
from proxy.request_log import CLIENT_GONE, CUT, REFUSED, Entry
from proxy.strict_json import JSON


def json(value: JSON, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON object."""
    body = strict_json.dumps(value)
    return Response(body, status, headers, content_type="application/json")


def stream(chat: ChatRequest, chunks: Iterator[Chunk], entry: Entry) -> Response:
    """Server-sent events. Waits for the first chunk: an error before it keeps its status."""
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
        event = _logged_error(error, entry, CUT).to_json(entry.request_id)
        ready.append(sse.event(strict_json.dumps(event)))
    yield b"".join(ready)


def error(raised: Exception, entry: Entry, *, status: int | None = None) -> Response:
    """Any error, expected or not. `status`: if it is not the error's own."""
    failure = _logged_error(raised, entry, REFUSED)
    return json(failure.to_json(entry.request_id), status or failure.status, failure.headers)


def _logged_error(raised: Exception, entry: Entry, ended: str) -> ProxyError:
    """The error as one of ours, noted in the request's log entry."""
    if isinstance(raised, ClientGone):
        entry.client_gone()
        return CallerError("invalid_http", "The client disconnected.")  # nobody reads it
    if not isinstance(raised, ProxyError):  # its text may hold a secret; its type and place do not
        place = "".join(traceback.format_tb(raised.__traceback__))
        raised = OperatorError("internal_error", raised=type(raised).__name__, traceback=place)
    entry.failed(raised, ended)
    return raised


def logged(response: Response, entry: Entry, finish: Callable[[], None]) -> Response:
    """The response, counting what is sent; `finish` is called when it has ended."""
    if not response.is_streamed:
        response.content_length = len(response.data)
    response.response = _counted(response.iter_encoded(), entry)
    response.call_on_close(finish)
    return response


def _counted(pieces: Iterable[bytes], entry: Entry) -> Iterator[bytes]:
    try:
        for piece in pieces:
            yield piece
            entry.bytes += len(piece)  # reached only if the piece was sent
    except GeneratorExit as exit:
        # A server that is shut down closes the response too; then what ends it is the context.
        if is_shutdown(exit.__context__):
            entry.cut()
        else:
            entry.ended = CLIENT_GONE
        raise
    except BaseException:  # SystemExit, while it waits for the provider
        entry.cut()
        raise
    finally:
        entry.total_ms = entry.elapsed_ms()


def is_shutdown(error: BaseException | None) -> bool:
    """Whether the server ended the request: SystemExit, KeyboardInterrupt or GreenletExit."""
    return error is not None and not isinstance(error, Exception)
