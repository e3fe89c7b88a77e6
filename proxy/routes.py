"""HTTP: the guard, the one view, and an answer in OpenAI's form to whatever goes wrong."""

import logging
import re
import socket
import time
import traceback
import uuid
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain
from math import inf

from flask import Blueprint, Response, current_app, g, request
from werkzeug.exceptions import MethodNotAllowed, NotFound

from proxy import exchange, sse, strict_json, watch
from proxy.chat_answer import chunks, completion
from proxy.chat_request import ChatRequest
from proxy.config import Config
from proxy.errors import CallerError, ClientGone, OperatorError, ProxyError
from proxy.strict_json import JSON
from proxy.upstream import Upstream
from proxy.watch import Timeouts

PATHS = ("/", "/v1/chat/completions", "/chat/completions")

blueprint = Blueprint("chat", __name__)
logger = logging.getLogger("proxy")


@dataclass(frozen=True)
class Proxy:
    """What the blueprint needs of the application; it stands in `app.extensions["proxy"]`."""

    config: Config
    upstream: Upstream


@blueprint.before_app_request
def identify() -> None:
    """Give the request an id: the caller's own where it is short and clean."""
    g.request_id = _clean_id(request.headers.get("X-Request-Id")) or uuid.uuid4().hex
    g.answer_headers = {}


@blueprint.before_request
def guard() -> None:
    """Tier 1. Which keys are set comes first: without one, nobody's key is wrong."""
    config = _proxy().config
    if not config.keys:
        raise OperatorError.misconfigured(*_variables(config, "WORKER_ACCESS_KEY"))
    if config.keys.owner(request.headers.get("Authorization", "")) is None:
        raise CallerError(
            "invalid_api_key", "A valid key is needed, in the header 'Authorization: Bearer KEY'."
        )
    if config.problems:
        raise OperatorError.misconfigured(*_variables(config))


def chat_completions() -> Response:
    """POST: a chat completion, whole or as a stream."""
    proxy = _proxy()
    provider = proxy.config.provider
    assert provider is not None  # else there were problems, and the guard told them
    with ExitStack() as resources:
        call = resources.enter_context(watch.call(proxy.config.timeouts, _client()))
        chat = ChatRequest.from_json(
            _body(proxy.config.max_request_bytes),
            provider.models,
            id=f"chatcmpl-{uuid.uuid4().hex}",
            created=int(time.time()),
        )
        to_send = provider.request(chat)
        if to_send.ignored:
            g.answer_headers["X-Ignored-Parameters"] = ", ".join(to_send.ignored)
        call.timeouts = _timeouts(proxy.config.timeouts, chat.stream)
        reply = proxy.upstream.open(to_send, call)
        resources.callback(reply.close)
        if provider_id := _clean_id(reply.headers.get(provider.request_id_header)):
            g.answer_headers["X-Provider-Request-Id"] = provider_id
        parts = exchange.parts(provider, chat, reply)
        if chat.stream:
            response = _stream(chunks(chat, parts, token_limit=provider.token_limit))
        else:
            response = _json(
                completion(chat, exchange.whole(parts), token_limit=provider.token_limit)
            )
        response.call_on_close(resources.pop_all().close)
        return response


for path in PATHS:
    blueprint.add_url_rule(
        path,
        view_func=chat_completions,
        methods=["POST"],
        provide_automatic_options=False,  # it would answer before the guard
        strict_slashes=path != "/",  # else a URL without a path gets a redirect, in HTML
    )


@blueprint.app_errorhandler(Exception)
def tell(error: Exception) -> Response:
    """Any failure, foreseen or not, in OpenAI's form."""
    failure = _failure(error, g.request_id)
    return _json(failure.to_json(g.request_id), failure.status, failure.headers)


@blueprint.after_app_request
def add_headers(response: Response) -> Response:
    """What each answer carries."""
    response.headers.update(g.answer_headers)
    response.headers["X-Request-Id"] = g.request_id
    return response


def _proxy() -> Proxy:
    proxy: Proxy = current_app.extensions["proxy"]
    return proxy


def _variables(config: Config, prefix: str = "") -> list[str]:
    variables = {problem.variable for problem in config.problems}
    return sorted(variable for variable in variables if variable.startswith(prefix))


def _client() -> socket.socket | None:
    """The caller's connection, where the server shows it (gunicorn, Werkzeug)."""
    return request.environ.get("gunicorn.socket") or request.environ.get("werkzeug.socket")


def _timeouts(ours: Timeouts, stream: bool) -> Timeouts:
    """Ours, or a second less than those that OpenAI's SDKs say they have: theirs is for the time
    without bytes, in seconds. An answer that comes after they gave up is asked for, and paid,
    again."""
    told = [request.headers.get(name, "") for name in _THEIR_TIMEOUTS]
    known = [float(text) - 1 for text in told if re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,3})?", text)]
    theirs = max(0.5, min(known, default=inf))
    return Timeouts(
        first_byte=min(ours.first_byte, theirs),
        idle=min(ours.idle, theirs),
        total=ours.total if stream else min(ours.total, theirs),
    )


_THEIR_TIMEOUTS = ("x-stainless-read-timeout", "x-stainless-timeout")


def _clean_id(text: str | None) -> str | None:
    return text if text and re.fullmatch("[A-Za-z0-9._-]{1,128}", text) else None


def _body(limit: int) -> bytes:
    """The body, all of it: Werkzeug's own limit would cut a chunked one without a word."""
    length = request.content_length
    if length is not None and length > limit:
        raise _too_large(limit)
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise CallerError("invalid_json", "The body must not be compressed.")
    body = b""
    try:
        while len(body) <= limit and (piece := request.stream.read(limit + 1 - len(body))):
            body += piece
    except Exception as error:  # of gunicorn's and Werkzeug's, for chunks that are none
        logger.info("%s: the body broke off: %s", g.request_id, type(error).__name__)
        raise CallerError("invalid_json", "The body could not be read to its end.") from None
    if len(body) > limit:
        raise _too_large(limit)
    if length is not None and len(body) < length:
        tells = f"The body ended after {len(body)} of the {length} bytes that it claimed."
        raise CallerError("invalid_json", tells)
    return body


def _too_large(limit: int) -> CallerError:
    tells = f"The body is over this proxy's limit of {limit} bytes."
    return CallerError("request_too_large", tells)


def _stream(chunks: Iterator[JSON]) -> Response:
    """Server-sent events. The first chunk is awaited: until then a failure keeps its status."""
    first = next(chunks)
    return Response(
        _events(chain([first], chunks), g.request_id),
        content_type="text/event-stream; charset=utf-8",
        headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
    )


def _events(chunks: Iterable[JSON], request_id: str) -> Iterator[bytes]:
    """[DONE] only after a whole answer: a cut one ends with an error event, never with it."""
    try:
        for chunk in chunks:
            yield sse.event(strict_json.dumps(chunk))
        yield sse.event(sse.DONE)
    except Exception as error:
        yield sse.event(strict_json.dumps(_failure(error, request_id).to_json(request_id)))


def _json(value: JSON, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    body = strict_json.dumps(value)
    return Response(body, status, headers, content_type="application/json")


def _failure(error: Exception, request_id: str) -> ProxyError:
    """The failure as one of ours, in the log where it is not the caller's."""
    if isinstance(error, NotFound):
        tells = "There is nothing at this path; POST to / or /v1/chat/completions."
        return CallerError("not_found", tells)
    if isinstance(error, MethodNotAllowed):
        return CallerError("method_not_allowed", "Only POST is allowed here.")
    if isinstance(error, CallerError):
        return error
    if isinstance(error, ClientGone):
        return CallerError("invalid_http", "The caller left.")  # and so nobody will read this
    failure = error if isinstance(error, ProxyError) else OperatorError.internal()
    where = ""
    if failure is not error:  # its text may hold a secret; its type and its place do not
        where = f" {type(error).__name__}\n" + "".join(traceback.format_tb(error.__traceback__))
    logger.error("%s: %s%s", request_id, failure, where)
    return failure
