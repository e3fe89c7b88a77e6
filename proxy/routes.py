"""HTTP: the guard, the one view that costs money, and the list of models."""

import time
import uuid
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

from flask import Blueprint, Response, current_app, g, request

from proxy import answers, exchange, incoming
from proxy.chat_answer import chunks, completion
from proxy.chat_request import ChatRequest
from proxy.config import Config
from proxy.errors import CallerError, OperatorError
from proxy.incoming import Bodies
from proxy.providers import Provider
from proxy.request_log import Entry
from proxy.upstream import Reply, Upstream
from proxy.watchdog import Call, Watchdog

PATHS = ("/", "/v1/chat/completions", "/chat/completions")
MODELS_PATHS = ("/v1/models", "/models")

blueprint = Blueprint("chat", __name__)


@dataclass
class Proxy:
    """What the blueprints need of the application; it stands in `app.extensions["proxy"]`."""

    config: Config
    upstream: Upstream
    watchdog: Watchdog
    bodies: Bodies
    count: Callable[[], None] | None = None  # counts a request, where there is a rate limit
    last_call: Entry | None = None  # the last that the provider ended, in this process

    @classmethod
    def current(cls) -> "Proxy":
        """That of the application in use."""
        proxy: Proxy = current_app.extensions["proxy"]
        return proxy


@blueprint.before_app_request
def begin() -> None:
    """Give the request an id, the caller's own where it is short and clean, and its log entry."""
    g.entry = Entry(
        request_id=incoming.clean_id(request.headers.get("X-Request-Id")) or uuid.uuid4().hex,
        path=request.url_rule.rule if request.url_rule else None,
        retry=incoming.retry(),
    )
    g.answer_headers = {}


@blueprint.before_request
def guard() -> None:
    """Tier 1. Which keys are set comes first: without one, nobody's key is wrong."""
    proxy = Proxy.current()
    config = proxy.config
    if not config.keys:
        raise OperatorError.misconfigured(*_variables(config, "WORKER_ACCESS_KEY"))
    g.entry.key = config.keys.owner(request.headers.get("Authorization", ""))
    if g.entry.key is None:
        raise CallerError.no_key()
    if proxy.count and request.method == "POST":
        proxy.count()
    if config.problems:
        raise OperatorError.misconfigured(*_variables(config))


def chat_completions() -> Response:
    """POST: a chat completion, whole or as a stream."""
    proxy, entry = Proxy.current(), g.entry
    provider = proxy.config.provider
    assert provider is not None  # else there were problems, and the guard told them
    with ExitStack() as resources:
        call = resources.enter_context(proxy.watchdog.watch(incoming.client()))
        chat, reply = _answered(proxy, provider, call)
        resources.callback(reply.close)
        parts = exchange.parts(provider, chat, reply)
        if chat.stream:
            said = chunks(chat, parts, entry.used, token_limit=provider.token_limit)
            response = answers.stream(chat, said, entry)
        else:
            answer = completion(chat, exchange.whole(parts), token_limit=provider.token_limit)
            entry.used.add(answer["usage"], is_final=True)
            response = answers.whole(answer)
        response.call_on_close(resources.pop_all().close)
        return response


def _answered(proxy: Proxy, provider: Provider, call: Call) -> tuple[ChatRequest, Reply]:
    """What was asked, without its input, and the provider's reply, its body not yet read."""
    with proxy.bodies.read(call) as body:
        chat = ChatRequest.from_json(
            body.pop(),
            provider.models,
            id=f"chatcmpl-{uuid.uuid4().hex}",
            created=int(time.time()),
        )
        g.entry.model, g.entry.stream = chat.model, chat.stream
        call.begin(incoming.timeouts(proxy.config.timeouts, chat.stream))
        return chat.without_input(), _ask(proxy.upstream, provider, chat, call)


def _ask(upstream: Upstream, provider: Provider, chat: ChatRequest, call: Call) -> Reply:
    to_send = provider.request(chat)
    if to_send.ignored:
        g.answer_headers["X-Ignored-Parameters"] = ", ".join(to_send.ignored)
    g.entry.provider = provider.name
    reply = upstream.open(to_send, call)
    g.entry.provider_status = reply.status
    if provider_id := incoming.clean_id(reply.headers.get(provider.request_id_header)):
        g.answer_headers["X-Provider-Request-Id"] = provider_id
    return reply


def models() -> Response:
    """GET: what callers may name as `model`, as OpenAI lists it; clients fill their menus so."""
    provider = Proxy.current().config.provider
    assert provider is not None  # as above
    of_each = {"object": "model", "created": 0, "owned_by": provider.name}  # no date is known
    return answers.whole(
        {"object": "list", "data": [{"id": model, **of_each} for model in provider.models]}
    )


for path in PATHS:
    blueprint.add_url_rule(
        path,
        view_func=chat_completions,
        methods=["POST"],
        provide_automatic_options=False,  # it would answer before the guard
        strict_slashes=path != "/",  # else a URL without a path gets a redirect, in HTML
    )
for path in MODELS_PATHS:
    blueprint.add_url_rule(path, view_func=models, provide_automatic_options=False)


@blueprint.app_errorhandler(Exception)
def tell(error: Exception) -> Response:
    """Any failure, foreseen or not, in OpenAI's form."""
    return answers.failed(error, g.entry)


@blueprint.after_app_request
def finish(response: Response) -> Response:
    """What each answer carries, and its line in the log when it has ended."""
    response.headers.update(g.answer_headers)
    response.headers["X-Request-Id"] = g.entry.request_id
    proxy, entry = Proxy.current(), g.entry
    entry.answered(response.status_code)

    def ended() -> None:
        if entry.provider_outcome:
            proxy.last_call = entry
        entry.write()

    return answers.noted(response, entry, ended)


def _variables(config: Config, prefix: str = "") -> list[str]:
    variables = {problem.variable for problem in config.problems}
    return sorted(variable for variable in variables if variable.startswith(prefix))
