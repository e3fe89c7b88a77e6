"""Tier 2: the table of providers, and the settings of the chosen one."""

import re
from typing import NamedTuple

from proxy.environment import PLACEHOLDER, Variables, is_url
from proxy.keys import Keys
from proxy.providers import Provider
from proxy.providers.openai_compatible import OpenAICompatible
from proxy.providers.workers_ai import WorkersAI

# Printable ASCII without separators (=|,), quotes, and the brackets of placeholders.
_NAME = "[!#-&(-+.-;?-_a-z~-]+"
_URL = r"https?://[^/@?\\<>{}$]+(/(?![.][.])[^/?\\<>{}$]*)*"
_LOOPBACK_OR_TLS = r"https|http://(localhost|\[::1\]|127([.][0-9]{1,3}){3})(:|/|$)"


class Kind(NamedTuple):
    """One row of the table. An empty default means that the setting is required."""

    make: type[Provider]
    timeout: int  # seconds to the first byte
    wrong_url: str  # the pattern that its base URL must not match
    url_end: str  # what to do about one that does
    base_url: str = ""
    models: str = ""
    needs_key: bool = False
    model: str = _NAME  # the pattern of its names for models


_ENDPOINT = r"/completions$|/v[0-9][^/]*/(chat|models|messages|responses|embeddings)$"
PROVIDERS = {
    WorkersAI.name: Kind(
        WorkersAI,
        timeout=130,  # Cloudflare itself gives up at 120
        wrong_url=rf"/@|/ai/run/.|{_ENDPOINT}|/compat$|//(api|dash)[.]cloudflare[.]com/(?!.*/run$)",
        url_end="must end in /ai/run, before the model; OpenAI's form needs LLAMA_PROVIDER=openai",
        base_url="https://api.cloudflare.com/client/v4/accounts/{account}/ai/run",
        models="@cf/meta/llama-3.1-8b-instruct-fast",
        needs_key=True,
        # It goes into the path: no segment may begin with a dot, or `..` would leave /ai/run.
        model="@?[A-Za-z0-9_-][A-Za-z0-9._-]*(?:/[A-Za-z0-9_-][A-Za-z0-9._-]*)*",
    ),
    OpenAICompatible.name: Kind(
        OpenAICompatible,
        timeout=600,  # a reasoning model may think for minutes
        wrong_url=rf"{_ENDPOINT}|/ai/run(/|$)|:11434(/api.*)?$",
        url_end="must end before /chat/completions, as in /v1; for /ai/run use workers-ai",
    ),
}

# https://developers.cloudflare.com/changelog/post/2026-05-08-planned-model-deprecations/
_WITHDRAWN = re.compile(
    "@cf/meta/llama-(3-8b-instruct|3[.]1-8b-instruct)(-awq)?|@cf/meta/llama-3[.]1-70b-instruct"
    "|@cf/meta/llama-2-7b-chat-(int8|fp16)|@hf/meta-llama/meta-llama-3-8b-instruct"
    "|@cf/mistral/mistral-7b-instruct-v0[.]1|@hf/mistral/mistral-7b-instruct-v0[.]2"
    "|@hf/google/gemma-7b-it|@cf/google/gemma-3-12b-it|@cf/microsoft/phi-2"
    "|@hf/nousresearch/hermes-2-pro-mistral-7b|@cf/defog/sqlcoder-7b-2"
)


def read(variables: Variables, keys: Keys) -> tuple[Kind, Provider | None]:
    """The chosen provider's row, and the provider; None if there is a problem with it."""
    before = len(variables.problems)
    kind = PROVIDERS[variables.choice("LLAMA_PROVIDER", PROVIDERS, WorkersAI.name)]
    key, base_url = _key(variables, kind, keys), _base_url(variables, kind)
    models = _models(variables, kind)
    is_good = len(variables.problems) == before
    return kind, kind.make(base_url, key, models) if is_good else None


def _key(variables: Variables, kind: Kind, keys: Keys) -> str:
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


def _base_url(variables: Variables, kind: Kind) -> str:
    name = "LLAMA_PROVIDER_BASE_URL"
    url = variables.text(name, kind.base_url).rstrip("/")
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


def _models(variables: Variables, kind: Kind) -> dict[str, tuple[str, ...]]:
    """By public name, the provider's names in the order they are asked."""
    variable = "LLAMA_PROVIDER_MODELS"
    models: dict[str, tuple[str, ...]] = {}
    form = re.compile(rf"{kind.model}|{_NAME}\s*=\s*{kind.model}(\s*[|]\s*{kind.model})*")
    for entry in variables.entries(variable, kind.models):
        public, _, chain = (part.strip() for part in entry.rpartition("="))
        names = tuple(name.strip() for name in chain.split("|"))
        if not form.fullmatch(entry):
            text = "must be model, public=model or public=model|fallback, separated by commas"
            variables.report(variable, text)
        elif (public or chain) in models or len(set(names)) < len(names):
            variables.report(variable, "must not have a public name, or a fallback, twice")
        for name in filter(_WITHDRAWN.fullmatch, names if kind.needs_key else ()):
            short = name.rpartition("/")[2]
            variables.warn(variable, f"Cloudflare withdrew {short} on 2026-05-30; choose another")
        models[public or chain] = names
    if not models:
        variables.report(variable, "is not set; set at least one model")
    return models
