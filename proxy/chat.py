"""POST: one chat completion, from the request's body to the response."""

import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from itertools import chain

from flask import Response, g, request

from proxy import incoming, responses
from proxy.chat_request import ChatRequest
from proxy.completion import Answer, Mark, Part
from proxy.errors import ProviderError
from proxy.incoming import Bodies
from proxy.providers import Provider, answers
from proxy.request_log import Entry
from proxy.settings import Settings
from proxy.upstream import Reply, Upstream
from proxy.watchdog import Call, Watchdog


class Proxy:
    """What all requests share: `g.proxy`."""

    last_asked: Entry | None = None  # the last ended request for which the provider was called

    def __init__(self, config: Settings) -> None:
        self.config, self.watchdog = config, Watchdog()
        self.upstream = Upstream(config.ca_bundle)
        self.bodies = Bodies(config.max_request_bytes)
        self.count = None
        if config.rate_limit:  # its library takes 30 ms to import, and most set no limit
            from proxy.rate_limit import Counter

            self.count = Counter(config.rate_limit).count


# After these errors the next model is asked: the refusal was complete, and is not billed.
_FALLBACK_AFTER = {
    "provider_unreachable",
    "provider_overloaded",
    "provider_rate_limited",
    "provider_model_unavailable",
}


def chat_completions() -> Response:
    """Answer with a chat completion, or with its stream."""
    proxy: Proxy = g.proxy
    entry: Entry = g.entry
    provider = proxy.config.provider
    with ExitStack() as resources:
        call = resources.enter_context(proxy.watchdog.watch(request.environ.get("gunicorn.socket")))
        with proxy.bodies.read(call) as body:
            answer_id, now = f"chatcmpl-{uuid.uuid4().hex}", int(time.time())
            chat = ChatRequest.from_json(body, provider.models, id=answer_id, created=now)
            del body  # its memory, before the provider is asked
            entry.model, entry.stream = chat.model, chat.stream
            call.begin(incoming.timeouts(proxy.config.timeouts, chat.stream))
            chat, parts = _ask(chat, provider, call, resources)
        answer = Answer(chat, entry.usage, token_limit=provider.token_limit)
        if chat.stream:
            response = responses.stream(chat, answer.chunks(parts), entry)
        else:
            response = responses.json(answer.completion(parts))
        response.call_on_close(resources.pop_all().close)
        return response


def _ask(
    chat: ChatRequest, provider: Provider, call: Call, resources: ExitStack
) -> tuple[ChatRequest, Iterator[Part | Mark]]:
    """The request without its input, and the answer of the first model that does not refuse."""
    models, entry, kept = provider.models[chat.model], g.entry, chat.without_input()
    errors: list[ProviderError] = []
    for model in models:
        to_send = provider.request(chat, model)
        entry.provider, entry.provider_model = provider.name, model
        entry.provider_status = entry.provider_request_id = None  # not those of one that refused
        g.answer_headers = {"X-Provider-Model": model} if len(models) > 1 else {}
        try:
            reply = g.proxy.upstream.open(to_send, call)
            resources.callback(reply.close)
            _note(reply, to_send.ignored, provider)
            parts = answers.parts(provider, kept, reply)
            if len(models) > 1:  # a refusal is raised at the first part
                first = next((part for part in parts if part is not Mark.PAUSE), Mark.PAUSE)
                parts = chain([first], parts)
            return kept, parts
        except ProviderError as error:
            if error.code not in _FALLBACK_AFTER:
                raise
            errors.append(error)
    raise next((error for error in errors if error.retry_helps), errors[-1])


def _note(reply: Reply, ignored: Iterable[str], provider: Provider) -> None:
    """What the provider's headers say, for the log and for the headers of the response."""
    g.entry.provider_status = reply.status
    if names := incoming.ignored_names(ignored, reply.headers.get("X-Ignored-Parameters")):
        g.answer_headers["X-Ignored-Parameters"] = names
    if provider_id := incoming.clean_id(reply.headers.get(provider.request_id_header)):
        g.entry.provider_request_id = g.answer_headers["X-Provider-Request-Id"] = provider_id
