"""Tier 2: the table of providers, and the settings of the chosen one."""

import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

from proxy.environment import PLACEHOLDER, PREFIX, Variables, is_url
from proxy.keys import Keys
from proxy.providers import Provider
from proxy.providers.openai_compatible import OpenAICompatible
from proxy.providers.workers_ai import WorkersAI

# Printable ASCII without separators (=|,), quotes, and the brackets of placeholders.
_NAME = "[!#-&(-+.-;?-_a-z~-]+"


class Kind(NamedTuple):
    """One row of the table. An empty default means that the setting is required."""

    # From the base URL, the key, and each public model's names in the order they are asked.
    make: Callable[[str, str, Mapping[str, tuple[str, ...]]], Provider]
    timeout: int  # seconds to the first byte
    misplaced: Mapping[str, str]  # what else its base URL must not match -> the fix
    base_url: str = ""
    models: str = ""
    needs_key: bool = False
    model: str = _NAME  # the pattern of its names for models


_SAFE = r"https|http://(localhost|\[::1\]|127([.][0-9]{1,3}){3})(:|/|$)"
_URL_FORM = "must be http(s)://host/path, without user, query or fragment"
_NO_BASE_URL = {  # what a base URL must not match -> the fix
    "^$": "is not set; this provider has no default",
    r"[<>{}]|\$[a-z{(]": "must not have a placeholder; {account} alone is replaced",
    r"^(?!https?://[^/@?\\]+(/(?![.][.])[^/?\\]*)*$)": _URL_FORM,
}
_ENDPOINT = r"/completions$|/v[0-9][^/]*/(chat|models|messages|responses|embeddings)$"
_OPENAIS_FORM = (  # or Cloudflare's own pages
    rf"{_ENDPOINT}|^https://(api|dash)[.]cloudflare[.]com/(?!.*/ai/run$)"
    r"|//gateway[.]ai[.]cloudflare[.]com/.*/compat$|//api[.](openai|anthropic)[.]com|:11434"
)
PROVIDERS = {
    WorkersAI.name: Kind(
        WorkersAI,
        timeout=130,  # Cloudflare itself gives up at 120
        misplaced={
            "/@|/ai/run/.": "must end before the model, which is appended",
            _OPENAIS_FORM: "must end in /ai/run; for OpenAI's form set LLAMA_PROVIDER=openai",
        },
        base_url="https://api.cloudflare.com/client/v4/accounts/{account}/ai/run",
        models="@cf/meta/llama-3.1-8b-instruct-fast",
        needs_key=True,
        # It goes into the path: no segment may begin with a dot, or `..` would leave /ai/run.
        model="@?[A-Za-z0-9_-][A-Za-z0-9._-]*(?:/[A-Za-z0-9_-][A-Za-z0-9._-]*)*",
    ),
    OpenAICompatible.name: Kind(
        OpenAICompatible,
        timeout=600,  # a reasoning model may think for minutes
        misplaced={
            _ENDPOINT: "must end before the endpoint: /chat/completions is appended",
            r":11434(/api.*)?$|^https://api[.](openai|anthropic)[.]com$": "must end in /v1",
            "/ai/run(/|$)": "must end in /ai/v1; for /ai/run set LLAMA_PROVIDER=workers-ai",
        },
    ),
}

# https://developers.cloudflare.com/changelog/post/2026-05-08-planned-model-deprecations/
_WITHDRAWN = re.compile(
    "(workers-ai/)?("
    "@cf/meta/llama-(3-8b-instruct|3[.]1-8b-instruct)(-awq)?|@cf/meta/llama-3[.]1-70b-instruct"
    "|@cf/meta/llama-2-7b-chat-(int8|fp16)|@hf/meta-llama/meta-llama-3-8b-instruct"
    "|@cf/mistral/mistral-7b-instruct-v0[.]1|@hf/mistral/mistral-7b-instruct-v0[.]2"
    "|@hf/google/gemma-7b-it|@cf/google/gemma-3-12b-it|@cf/microsoft/phi-2"
    "|@hf/nousresearch/hermes-2-pro-mistral-7b|@cf/defog/sqlcoder-7b-2)"
)


def read(variables: Variables, keys: Keys) -> tuple[Kind, Provider | None]:
    """The chosen provider's row, and the provider; None if there is a problem with it."""
    before = len(variables.problems)
    kind = PROVIDERS[variables.choice("LLAMA_PROVIDER", PROVIDERS, WorkersAI.name)]
    is_unknown = len(variables.problems) > before
    key, base_url = _key(variables, kind, keys), _base_url(variables, kind)
    models = _models(variables, kind, base_url)
    if is_unknown:  # what else is wrong depends on the provider
        del variables.problems[before + 1 :]
    is_good = len(variables.problems) == before
    return kind, kind.make(base_url, key, models) if is_good else None


def _key(variables: Variables, kind: Kind, keys: Keys) -> str:
    name, cloudflares = "LLAMA_PROVIDER_API_KEY", "CLOUDFLARE_API_TOKEN"
    if variables.exact(cloudflares) and kind.needs_key and not variables.exact(name):
        name = cloudflares
    key = variables.exact(name)
    if kind.needs_key and not key:
        variables.report(name, "is not set; set the provider's API key (tier 2)")
    if PREFIX.match(key):
        variables.report(name, "must be the key alone, without Bearer or another name before it")
    elif key:
        variables.check_key(name, key)
    if keys.owner(f"Bearer {key}"):
        text = "is also a tier-1 key: callers could use the provider without this proxy"
        variables.warn(name, text)
    return key


def _base_url(variables: Variables, kind: Kind) -> str:
    name = "LLAMA_PROVIDER_BASE_URL"
    url = variables.text(name, kind.base_url).rstrip("/")
    account = variables.text("CLOUDFLARE_ACCOUNT_ID")
    if "{account}" in url:
        if not account:
            text = "is not set; Cloudflare's dashboard shows it as Account ID"
            variables.report("CLOUDFLARE_ACCOUNT_ID", text)
        elif not re.fullmatch("[A-Za-z0-9-]+", account) or PLACEHOLDER.search(account):
            text = "must be your own, of letters, digits and hyphens"
            variables.report("CLOUDFLARE_ACCOUNT_ID", text)
        url = url.replace("{account}", re.sub("[^A-Za-z0-9-]", "", account))
    patterns = {**_NO_BASE_URL, **kind.misplaced}
    fixes = [fix for pattern, fix in patterns.items() if re.search(pattern, url, re.IGNORECASE)]
    if fixes or not is_url(url):
        variables.report(name, fixes[0] if fixes else _URL_FORM)
    elif not re.match(_SAFE, url, re.IGNORECASE):
        variables.warn(name, "http sends the key unencrypted; use https")
    return url


def _models(variables: Variables, kind: Kind, base_url: str) -> dict[str, tuple[str, ...]]:
    """By public name, the provider's names in the order they are asked."""
    variable = "LLAMA_PROVIDER_MODELS"
    models: dict[str, tuple[str, ...]] = {}
    form = re.compile(rf"{kind.model}|{_NAME}\s*=\s*{kind.model}(\s*[|]\s*{kind.model})*")
    entries = [entry.strip() for entry in variables.text(variable, kind.models).split(",")]
    for entry in filter(None, entries):
        public, _, chain = (part.strip() for part in entry.rpartition("="))
        names = tuple(name.strip() for name in chain.split("|"))
        if not form.fullmatch(entry):
            text = "must be model, public=model or public=model|fallback, separated by commas"
            variables.report(variable, text)
        elif (public or chain) in models or len(set(names)) < len(names):
            variables.report(variable, "must not have a public name, or a fallback, twice")
        models[public or chain] = names
    if not models:
        variables.report(variable, "is not set; set at least one model")
    asked = {name for names in models.values() for name in names}
    if kind.needs_key or "cloudflare.com/" in base_url:  # elsewhere the name may be another model's
        for name in filter(_WITHDRAWN.fullmatch, sorted(asked)):
            short = name.rpartition("/")[2]
            variables.warn(variable, f"Cloudflare withdrew {short} on 2026-05-30; choose another")
    return models
