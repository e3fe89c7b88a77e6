"""POST: one chat completion, from the request's body to the response."""

import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain

from flask import Response, current_app, g

from proxy import incoming, responses
from proxy.chat_request import ChatRequest
from proxy.completion import chunks, completion
from proxy.errors import ProviderError
from proxy.incoming import Bodies
from proxy.part import Mark, Part
from proxy.providers import Provider, answers
from proxy.settings import Settings
from proxy.upstream import Upstream
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
        with proxy.bodies.read(call) as body:
            chat = _chat_request(body.pop(), provider)
            call.begin(incoming.timeouts(proxy.config.timeouts, chat.stream))
            parts = _ask(chat, provider, proxy.upstream, call, resources)
        chat = chat.without_input()
        if chat.stream:
            events = chunks(chat, parts, entry.usage, token_limit=provider.token_limit)
            response = responses.stream(chat, events, entry)
        else:
            answer = completion(chat, parts, entry.usage, token_limit=provider.token_limit)
            response = responses.json(answer)
        response.call_on_close(resources.pop_all().close)
        return response


def _chat_request(body: bytes, provider: Provider) -> ChatRequest:
    answer_id, now = f"chatcmpl-{uuid.uuid4().hex}", int(time.time())
    chat = ChatRequest.from_json(body, provider.models, id=answer_id, created=now)
    g.entry.model, g.entry.stream = chat.model, chat.stream
    return chat


_Parts = Iterator[Part | Mark]
# After these errors the next model is asked: the refusal was complete, and is not billed.
_FALLBACK_AFTER = {
    "provider_unreachable",
    "provider_overloaded",
    "provider_rate_limited",
    "provider_model_unavailable",
}


def _ask(
    chat: ChatRequest, provider: Provider, upstream: Upstream, call: Call, resources: ExitStack
) -> _Parts:
    """The answer of the first model that does not refuse. All share the deadlines of the call."""
    models = provider.models[chat.model]
    errors: list[ProviderError] = []
    for model in models:
        try:
            with ExitStack() as attempt:
                parts = _open(chat, model, provider, upstream, call, attempt)
                if len(models) > 1:
                    parts = _begun(parts)
                resources.push(attempt.pop_all())
                return parts
        except ProviderError as error:
            if error.code not in _FALLBACK_AFTER:
                raise
            errors.append(error)
    raise next((error for error in errors if error.retry_helps), errors[-1])


def _begun(parts: _Parts) -> _Parts:
    """The same parts. Raises ProxyError if the provider refuses."""
    first = next((part for part in parts if part is not Mark.PAUSE), Mark.PAUSE)
    return chain([first], parts)


def _open(
    chat: ChatRequest,
    model: str,
    provider: Provider,
    upstream: Upstream,
    call: Call,
    resources: ExitStack,
) -> _Parts:
    """Send the request to one model, and wait for the status of the response."""
    to_send, entry = provider.request(chat, model), g.entry
    entry.provider, entry.provider_model, entry.provider_request_id = provider.name, model, None
    g.answer_headers = {"X-Provider-Model": model} if len(provider.models[chat.model]) > 1 else {}
    reply = upstream.open(to_send, call)
    resources.callback(reply.close)
    entry.provider_status = reply.status
    if ignored := incoming.names(to_send.ignored, reply.headers.get("X-Ignored-Parameters")):
        g.answer_headers["X-Ignored-Parameters"] = ignored
    if provider_id := incoming.clean_id(reply.headers.get(provider.request_id_header)):
        entry.provider_request_id = g.answer_headers["X-Provider-Request-Id"] = provider_id
    return answers.parts(provider, chat.without_input(), reply)
