"""POST: one chat completion, from the request's body to the response."""

import time
import uuid
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

from flask import Response, current_app, g

from proxy import exchange, incoming, responses
from proxy.chat_answer import chunks, completion
from proxy.chat_request import ChatRequest
from proxy.incoming import Bodies
from proxy.providers import Provider
from proxy.settings import Settings
from proxy.upstream import Reply, Upstream
from proxy.watchdog import Call, Watchdog


@dataclass
class Proxy:
    """What the views share; `app.extensions["proxy"]` holds it."""

    config: Settings
    upstream: Upstream
    watchdog: Watchdog
    bodies: Bodies
    count: Callable[[str], None] | None = None  # counts a request, if there is a rate limit
    last_outcome: tuple[str, float] | None = None  # of the provider's last call, and when it ended

    @classmethod
    def current(cls) -> "Proxy":
        """The one of the current application."""
        proxy: Proxy = current_app.extensions["proxy"]
        return proxy


def chat_completions() -> Response:
    """Answer with a chat completion, or with its stream."""
    proxy, entry = Proxy.current(), g.entry
    provider = proxy.config.provider
    assert provider is not None  # otherwise there are problems, and the guard has refused
    with ExitStack() as resources:
        call = resources.enter_context(proxy.watchdog.watch(incoming.client_socket()))
        chat, reply = _answered(proxy, provider, call)
        resources.callback(reply.close)
        parts = exchange.parts(provider, chat, reply)
        if chat.stream:
            events = chunks(chat, parts, entry.usage, token_limit=provider.token_limit)
            response = responses.stream(chat, events, entry)
        else:
            answer = completion(chat, exchange.whole(parts), token_limit=provider.token_limit)
            entry.usage.add(answer["usage"], is_final=True)
            response = responses.json(answer)
        response.call_on_close(resources.pop_all().close)
        return response


def _answered(proxy: Proxy, provider: Provider, call: Call) -> tuple[ChatRequest, Reply]:
    """The request, without its input, and the provider's reply, its body not yet read."""
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
        g.entry.provider_request_id = g.answer_headers["X-Provider-Request-Id"] = provider_id
    return reply
