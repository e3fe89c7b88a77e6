"""The table of providers, and how the chosen one is configured: tier 2."""

import re
from collections.abc import Callable, Mapping
from typing import NamedTuple
from urllib.parse import urlsplit

from proxy.auth import Keys
from proxy.providers import Provider
from proxy.providers.openai_compatible import OpenAICompatible
from proxy.providers.workers_ai import WorkersAI
from proxy.settings import Settings


class _Kind(NamedTuple):
    """How a provider is configured; an empty default means that the setting is required."""

    make: Callable[[str, str, Mapping[str, str]], Provider]
    base_url: str = ""
    models: str = ""
    key_names: tuple[str, ...] = ("LLAMA_PROVIDER_API_KEY",)
    needs_key: bool = False
    model: str = "[!-~]+"  # what its names for models look like


PROVIDERS = {
    WorkersAI.name: _Kind(
        WorkersAI,
        base_url="https://api.cloudflare.com/client/v4/accounts/{account}/ai/run",
        models="@cf/meta/llama-3.1-8b-instruct-fast",
        key_names=("LLAMA_PROVIDER_API_KEY", "CLOUDFLARE_API_TOKEN"),
        needs_key=True,
        # It goes into the path: no segment may begin with a dot, or `..` would leave /ai/run.
        model="@?[A-Za-z0-9_-][A-Za-z0-9._-]*(?:/[A-Za-z0-9_-][A-Za-z0-9._-]*)*",
    ),
    OpenAICompatible.name: _Kind(OpenAICompatible),
}


def from_settings(settings: Settings, keys: Keys) -> Provider | None:
    """The provider, or None where a problem was noted. `keys`: those of tier 1."""
    before = len(settings.problems)
    kind = PROVIDERS[settings.choice("LLAMA_PROVIDER", PROVIDERS, WorkersAI.name)]
    if len(settings.problems) > before:
        return None
    variable, key = _key(settings, kind)
    base_url, models = _base_url(settings, kind), _models(settings, kind)
    if keys.owner(f"Bearer {key}"):
        tells = "is a key of tier 1 too: whoever calls could use the provider without the proxy"
        settings.doubtful(variable, tells)
    return kind.make(base_url, key, models) if len(settings.problems) == before else None


def _key(settings: Settings, kind: _Kind) -> tuple[str, str]:
    """The variable that has it, and the key."""
    variable = next((name for name in kind.key_names if settings.text(name)), kind.key_names[0])
    key = settings.secret(variable)
    if kind.needs_key and not settings.text(variable):
        settings.wrong(variable, "is not set; give the provider's API key (tier 2)")
    return variable, key


def _base_url(settings: Settings, kind: _Kind) -> str:
    variable = "LLAMA_PROVIDER_BASE_URL"
    url = settings.text(variable, kind.base_url).rstrip("/")
    if "{account}" in url:
        account = settings.text("CLOUDFLARE_ACCOUNT_ID")
        if not re.fullmatch("[A-Za-z0-9-]+", account):
            tells = "must be letters, digits and hyphens"
            if not account:
                tells = "is not set; the account's page at Cloudflare shows it"
            settings.wrong("CLOUDFLARE_ACCOUNT_ID", tells)
            return ""
        url = url.replace("{account}", account)
    if not url:
        settings.wrong(variable, "is not set; this provider has no address of its own")
    elif not _is_plain_url(url):
        settings.wrong(variable, "must be http(s)://host/path, without user, query or fragment")
    elif urlsplit(url).scheme == "http" and not _is_loopback(url):
        settings.doubtful(variable, "http sends the key in clear; use https")
    return url


def _models(settings: Settings, kind: _Kind) -> Mapping[str, str]:
    variable = "LLAMA_PROVIDER_MODELS"
    models: dict[str, str] = {}
    entries = [entry.strip() for entry in settings.text(variable, kind.models).split(",")]
    for entry in filter(None, entries):
        public, _, name = (part.strip() for part in entry.rpartition("="))
        if not re.fullmatch(kind.model, name) or not re.fullmatch("[!-~]*", public):
            settings.wrong(variable, "must be names, or public=name, separated by commas")
        elif (public or name) in models:
            settings.wrong(variable, "each public name may be there once")
        models[public or name] = name
    if not models:
        settings.wrong(variable, "is not set; name at least one model")
    return models


def _is_plain_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        odd = parts.username or parts.password or "?" in url or "#" in url or parts.port == 0
    except ValueError:  # a port that is no number, a broken IPv6 address
        return False
    clean = re.fullmatch("[!-~]+", url) and "\\" not in url and "/.." not in parts.path
    return bool(parts.scheme in ("http", "https") and parts.hostname and clean and not odd)


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    return re.fullmatch(r"localhost|::1|127(\.[0-9]{1,3}){3}", host) is not None
