"""`python -m proxy check`: what is wrong with the settings, and with --live at the provider."""

from contextlib import closing

from proxy import keys, strict_json
from proxy.chat_request import ChatRequest
from proxy.completion import Answer
from proxy.errors import ProxyError
from proxy.providers import Provider, answers
from proxy.settings import Settings
from proxy.upstream import Upstream
from proxy.usage import AnswerUsage
from proxy.watchdog import Call

_LIMITS = (None, "max_tokens", "max_completion_tokens")  # None: the provider did not say which


def run(settings: Settings, *, live: bool) -> int:
    """Print a line for each fact, warning and problem. The exit status is 1 after a problem."""
    for name, digest in settings.keys.digests.items():
        print(f"ok: tier 1: the key of {name} has the fingerprint {keys.fingerprint(digest)}")
    provider = settings.provider
    if provider:
        fingerprint = keys.fingerprint(keys.digest(provider.key))
        key = f"key {fingerprint}" if provider.key else "no key"
        print(f"ok: tier 2: {provider.name}, {key}, models {', '.join(provider.models)}")
    for warning in settings.warnings:
        print(f"warning: {warning}")
    for problem in settings.problems:
        print(f"problem: {problem}")
    if not live or settings.problems:
        return 1 if settings.problems else 0
    assert provider  # otherwise there are problems
    error = _ask(provider, settings)
    if error is None:
        print("ok: live: the provider answered")
        return 0
    notes = error.notes | ({"param": error.param} if error.param else {})
    facts = "; ".join([error.code, *(f"{name}: {note}" for name, note in notes.items())])
    print(f"problem: live: {error.message} ({facts})")
    return 1


def _ask(provider: Provider, settings: Settings) -> ProxyError | None:
    """The error of the default model, asked for one token. None: it answered."""
    error = _error(provider, settings, max_tokens=1)
    if error is None or error.status != 400:
        return error
    is_about_limit = error.code == "context_length_exceeded" or error.param in _LIMITS
    return _error(provider, settings) if is_about_limit else error  # some models refuse so few


def _error(provider: Provider, settings: Settings, **fields: int) -> ProxyError | None:
    """Send one short question. The error, or None if it was answered."""
    body = strict_json.dumps({"messages": [{"role": "user", "content": "Hi"}], **fields})
    chat = ChatRequest.from_json(body, provider.models, id="check", created=0)
    call = Call()
    call.begin(settings.timeouts)
    try:
        upstream = Upstream(settings.ca_bundle)
        to_send = provider.request(chat, provider.models[chat.model][0])
        with closing(upstream.open(to_send, call)) as reply:
            parts = answers.parts(provider, chat, reply)
            Answer(chat, AnswerUsage(), token_limit=provider.token_limit).completion(parts)
    except ProxyError as error:
        return error
    return None
