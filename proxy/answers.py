"""Answers as Flask sends them: whole, as a stream, or as a failure in OpenAI's form."""

import traceback
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain

from flask import Response
from werkzeug.exceptions import MethodNotAllowed, NotFound

from proxy import sse, strict_json
from proxy.errors import CallerError, ClientGone, OperatorError, ProxyError
from proxy.request_log import Entry
from proxy.strict_json import JSON


def whole(value: JSON, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON object."""
    body = strict_json.dumps(value)
    return Response(body, status, headers, content_type="application/json")


def stream(chunks: Iterator[JSON], entry: Entry) -> Response:
    """Server-sent events. The first chunk is awaited: until then a failure keeps its status."""
    first = next(chunks)
    entry.first_token()
    return Response(
        _events(chain([first], chunks), entry),
        content_type="text/event-stream; charset=utf-8",
        headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
    )


def _events(chunks: Iterable[JSON], entry: Entry) -> Iterator[bytes]:
    """[DONE] only after a whole answer: a cut one ends with an error event, never with it."""
    try:
        for chunk in chunks:
            yield entry.counted(sse.event(strict_json.dumps(chunk)))
        yield entry.counted(sse.event(sse.DONE))
    except GeneratorExit:
        entry.client_gone()
        raise
    except Exception as error:
        failure = as_failure(error)
        entry.failed(error, failure, begun=True)
        yield entry.counted(sse.event(strict_json.dumps(failure.to_json(entry.request_id))))
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
