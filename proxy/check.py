"""`python -m proxy check`: what is wrong with the settings, and with --live at the provider."""

import time
import uuid
from contextlib import closing

from proxy import exchange, keys, strict_json
from proxy.chat_answer import completion
from proxy.chat_request import ChatRequest
from proxy.errors import CallerError, ProxyError
from proxy.providers import Provider
from proxy.settings import Settings
from proxy.upstream import Upstream
from proxy.watchdog import Call

# What to look at, by the code of the provider's refusal; else it is the provider itself.
_AT_FAULT = {
    "provider_auth_failed": "the token",
    "provider_not_found": "the account, or the base URL",
    "provider_model_unavailable": "the model",
    "provider_quota_exhausted": "the plan, whose allowance is used up,",
    "provider_unreachable": "the network, or the base URL",
    "provider_timeout": "the network, or a slow provider",
}


def run(config: Settings, *, live: bool) -> int:
    """Print a line for each fact, warning and problem. The exit status: 1 where there is one."""
    for name, fingerprint in config.keys.fingerprints.items():
        print(f"ok: tier 1: the key of {name} has the fingerprint {fingerprint}")
    provider = config.provider
    if provider:
        key = f"key {keys.fingerprint(provider.key)}" if provider.key else "no key"
        print(f"ok: tier 2: {provider.name}, {key}, models {', '.join(provider.models)}")
    for warning in config.warnings:
        print(f"warning: {warning}")
    for problem in config.problems:
        print(f"problem: {problem}")
    if config.problems:
        if live:
            print("problem: live: not asked before the settings are mended")
        return 1
    if not live:
        return 0
    assert provider  # else there were problems
    trouble = _ask(provider, config)
    print(f"problem: live: {trouble}" if trouble else "ok: live: the provider answered")
    return 1 if trouble else 0


def _ask(provider: Provider, config: Settings) -> str:
    """One question, for one token, to the default model; what is at fault, or nothing."""
    body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}
    chat = ChatRequest.from_json(
        strict_json.dumps(body),
        provider.models,
        id=f"chatcmpl-{uuid.uuid4().hex}",
        created=int(time.time()),
    )
    call = Call()
    call.begin(config.timeouts)
    upstream = Upstream(config.ca_bundle)
    try:
        with closing(upstream.open(provider.request(chat), call)) as reply:
            part = exchange.whole(exchange.parts(provider, chat, reply))
            completion(chat, part, token_limit=provider.token_limit)
    except CallerError:  # it let us in and read the question, which is all that was to be known
        return ""
    except ProxyError as error:
        at_fault = _AT_FAULT.get(error.code, "the provider")
        notes = "; ".join(f"{name}: {note}" for name, note in error.notes.items())
        return f"{at_fault} is at fault ({error.code}; {notes})"
    return ""
