"""Tier 2: the providers, and the settings of the chosen one."""

import re

from proxy.environment import PLACEHOLDER, Variables, is_url
from proxy.keys import Keys
from proxy.providers import Provider
from proxy.providers.openai_compatible import OpenAICompatible
from proxy.providers.workers_ai import WorkersAI

PROVIDERS: dict[str, type[Provider]] = {kind.name: kind for kind in (WorkersAI, OpenAICompatible)}

_URL = r"https?://[^/@?\\<>{}$]+(/(?![.][.])[^/?\\<>{}$]*)*"
_LOOPBACK_OR_TLS = r"https|http://(localhost|\[::1\]|127([.][0-9]{1,3}){3})(:|/|$)"


def read(variables: Variables, keys: Keys) -> tuple[type[Provider], Provider | None]:
    """The chosen kind of provider, and the provider; None if there is a problem with it."""
    before = len(variables.problems)
    kind = PROVIDERS[variables.choice("LLAMA_PROVIDER", PROVIDERS, WorkersAI.name)]
    key, base_url = _key(variables, kind, keys), _base_url(variables, kind)
    models = _models(variables, kind)
    is_good = len(variables.problems) == before
    return kind, kind(base_url, key, models) if is_good else None


def _key(variables: Variables, kind: type[Provider], keys: Keys) -> str:
    name, cloudflares = "LLAMA_PROVIDER_API_KEY", "CLOUDFLARE_API_TOKEN"
    if variables.exact(cloudflares) and kind.needs_key and not variables.exact(name):
        name = cloudflares
    key = variables.exact(name)
    if key:
        variables.check_key(name, key)
    elif kind.needs_key:
        variables.report(name, "is not set; set the provider's API key (tier 2)")
    if keys.owner(f"Bearer {key}"):
        text = "is also a tier-1 key: callers could use the provider without this proxy"
        variables.warn(name, text)
    return key


def _base_url(variables: Variables, kind: type[Provider]) -> str:
    name = "LLAMA_PROVIDER_BASE_URL"
    url = variables.text(name, kind.default_base_url).rstrip("/")
    account = variables.text("CLOUDFLARE_ACCOUNT_ID")
    if "{account}" in url:
        if not re.fullmatch("[A-Za-z0-9-]+", account) or PLACEHOLDER.search(account):
            text = "must be your Account ID, as Cloudflare's dashboard shows it"
            variables.report("CLOUDFLARE_ACCOUNT_ID", text)
            account = "unknown"
        url = url.replace("{account}", account)
    if not url:
        variables.report(name, "is not set; this provider has no default")
    elif not is_url(url) or not re.fullmatch(_URL, url, re.IGNORECASE):
        variables.report(name, "must be http(s)://host/path, without user, query or placeholder")
    elif re.search(kind.wrong_url, url, re.IGNORECASE):
        variables.report(name, kind.url_end)
    elif not re.match(_LOOPBACK_OR_TLS, url, re.IGNORECASE):
        variables.warn(name, "http sends the key unencrypted; use https")
    return url


def _models(variables: Variables, kind: type[Provider]) -> dict[str, tuple[str, ...]]:
    """By public name, the provider's names in the order they are asked."""
    variable = "LLAMA_PROVIDER_MODELS"
    models: dict[str, tuple[str, ...]] = {}
    model = kind.model_name
    form = re.compile(rf"{model}|{Provider.model_name}\s*=\s*{model}(\s*[|]\s*{model})*")
    for entry in variables.entries(variable, kind.default_models):
        public, _, chain = (part.strip() for part in entry.rpartition("="))
        names = tuple(name.strip() for name in chain.split("|"))
        if not form.fullmatch(entry):
            text = "must be model, public=model or public=model|fallback, separated by commas"
            variables.report(variable, text)
        elif (public or chain) in models or len(set(names)) < len(names):
            variables.report(variable, "must not have a public name, or a fallback, twice")
        for short in [name.rpartition("/")[2] for name in names if name in kind.withdrawn]:
            variables.warn(variable, f"Cloudflare withdrew {short} on 2026-05-30; choose another")
        models[public or chain] = names
    if not models:
        variables.report(variable, "is not set; set at least one model")
    return models
