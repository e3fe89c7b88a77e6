"""All settings, read once from the environment and checked; README.md has their table."""

import re
import ssl
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from proxy.environment import Problem, Variables, cores
from proxy.keys import MASTER, NAME, Keys, digest
from proxy.providers import Provider
from proxy.providers.openai_compatible import OpenAICompatible
from proxy.providers.workers_ai import WorkersAI
from proxy.watchdog import Timeouts

PROVIDERS: dict[str, type[Provider]] = {kind.name: kind for kind in (WorkersAI, OpenAICompatible)}
LOG_LEVELS = ("debug", "info", "warning", "error", "critical")

_NAMED_KEY = re.compile(rf"{NAME}:(sha256:[0-9A-Fa-f]{{64}}|(?!sha256:).+)", re.DOTALL)
# What is copied together with a key: a scheme, a header's name, a variable's name.
_PREFIX = r"\s*((?i:bearer\s|authorization\s*:|(x-)?api-key\s*:)|(export\s+)?[A-Z]+_[A-Z_]+=)"
_PLACEHOLDER = re.compile("your|change|example|placeholder|secret|xxx", re.IGNORECASE)
_URL = r"(?i:https?)://[^/@?\\<>{}$]+(/(?![.][.])[^/?\\<>{}$]*)*"
_LOOPBACK_OR_TLS = r"https|http://(localhost|\[::1\]|127([.][0-9]{1,3}){3})(:|/|$)"
_RATE = re.compile("[1-9][0-9]{0,8}/(second|minute|hour|day)")
# Of redis' options only what a platform's own certificate needs.
_REDIS = r"rediss?://[^/?]+(/[0-9]*)?([?]ssl_cert_reqs=(none|optional|required))?"


@dataclass(frozen=True, repr=False)  # the storage's URL may hold a password
class RateLimit:
    """How many requests each key may make, such as 60/minute, and where they are counted."""

    rate: str
    storage: str


class Settings:
    """What the proxy runs with. With problems it answers 500 until they are fixed.

    A new setting is one line here, one in .env.example and one in the README's table.
    """

    def __init__(self, env: Mapping[str, str], problems: Iterable[Problem] = ()) -> None:
        """Never raises, whatever the mapping holds. `problems`: known already."""
        variables = Variables(env, problems)
        self.keys = _keys(variables)
        kind = PROVIDERS[variables.choice("LLAMA_PROVIDER", PROVIDERS, WorkersAI.name)]
        key, base_url = _provider_key(variables, kind, self.keys), _base_url(variables, kind)
        self.provider = kind(base_url, key, _models(variables, kind))
        self.ca_bundle = _certificates(variables)  # to trust besides the usual ones
        self.timeouts = Timeouts(
            first_byte=variables.seconds("LLAMA_PROVIDER_TIMEOUT", kind.timeout),
            idle=variables.seconds("LLAMA_PROVIDER_IDLE_TIMEOUT", 60),
            total=variables.seconds("LLAMA_PROVIDER_TOTAL_TIMEOUT", 600),
        )
        self.max_request_bytes = variables.integer("MAX_REQUEST_BYTES", 10 * 1024**2, 1024**3)
        self.log_level = variables.choice("LOG_LEVEL", LOG_LEVELS, "info")
        # gunicorn's own: a platform that sets PORT calls from outside, so on all addresses.
        self.is_public = bool(variables.text("PORT"))
        self.port = variables.integer("PORT", 8000, 65535)
        self.workers = variables.integer("WEB_CONCURRENCY", min(cores(), 4), 64)
        self.graceful_timeout = variables.integer("GRACEFUL_TIMEOUT", 25, 86400)
        self.rate_limit = _rate_limit(variables, self.workers)
        variables.warn_of_misspelt_names()

        self.defaults = variables.defaults  # by name, of all settings
        self.problems = tuple(dict.fromkeys(variables.problems))
        self.warnings = tuple(dict.fromkeys(variables.warnings))


def _keys(env: Variables) -> Keys:
    name, names = "WORKER_ACCESS_KEY", "WORKER_ACCESS_KEYS"
    master, entries = env.exact(name), env.entries(names)
    keys = Keys()
    if not master and not entries:
        text = "is not set, so every request is refused; `python -m proxy keygen NAME` makes a key"
        env.report(name, text)
    if master and _check_key(env, name, master):
        keys[MASTER] = digest(master)
    for entry in entries:
        owner, _, key = entry.partition(":")
        if not _NAMED_KEY.fullmatch(entry):
            env.report(names, "must be name:key or name:sha256:hex, separated by commas")
        elif owner == MASTER or owner in keys:
            env.report(names, "must not have a name twice, and 'master' is reserved")
        elif key.startswith("sha256:"):
            keys[owner] = bytes.fromhex(key.removeprefix("sha256:"))
        elif _check_key(env, names, key):
            keys[owner] = digest(key)
    return keys


def _check_key(env: Variables, name: str, key: str) -> bool:
    """Whether it can be used as a key. What is wrong with it is noted; a weak one is a warning."""
    if re.match(_PREFIX, key):
        env.report(name, "must be the key alone, without Bearer or another name before it")
        return False
    if not re.fullmatch("[!-~]([ -~]*[!-~])?", key):
        env.report(name, "a key must be printable ASCII without blanks at its ends")
        return False
    if len(key) < 16 or _PLACEHOLDER.search(key):
        env.warn(name, "a key is short or looks like a placeholder; make a strong one")
    return True


def _provider_key(env: Variables, kind: type[Provider], keys: Keys) -> str:
    name, cloudflares = "LLAMA_PROVIDER_API_KEY", "CLOUDFLARE_API_TOKEN"
    key, token = env.exact(name), env.exact(cloudflares)
    if kind.needs_key and token and not key:
        name, key = cloudflares, token
    if key:
        _check_key(env, name, key)
    elif kind.needs_key:
        env.report(name, "is not set; set the provider's API key (tier 2)")
    if digest(key) in keys.values():
        env.warn(name, "is also a tier-1 key: callers could use the provider without this proxy")
    return key


def _base_url(env: Variables, kind: type[Provider]) -> str:
    name, accounts = "LLAMA_PROVIDER_BASE_URL", "CLOUDFLARE_ACCOUNT_ID"
    url = env.text(name, kind.default_base_url).rstrip("/")
    account = env.text(accounts)
    if "{account}" in url:
        if not re.fullmatch("[A-Za-z0-9-]+", account) or _PLACEHOLDER.search(account):
            env.report(accounts, "must be your Account ID, as Cloudflare's dashboard shows it")
            account = "unknown"
        url = url.replace("{account}", account)
    if not url:
        env.report(name, "is not set; this provider has no default")
    elif not _is_url(url, _URL):
        env.report(name, "must be http(s)://host/path, without user, query or placeholder")
    elif re.search(kind.wrong_url, url, re.IGNORECASE):
        env.report(name, kind.url_end)
    elif not re.match(_LOOPBACK_OR_TLS, url, re.IGNORECASE):
        env.warn(name, "http sends the key unencrypted; use https")
    return url


def _is_url(text: str, form: str) -> bool:
    """Whether it has that form and a host, in printable ASCII without `#`."""
    try:
        parts = urlsplit(text)
        has_host = bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is not a number, a broken IPv6 address
        return False
    return has_host and all(re.fullmatch(pattern, text) for pattern in (form, '[!"$-~]+'))


def _models(env: Variables, kind: type[Provider]) -> dict[str, tuple[str, ...]]:
    """By public name, the provider's names in the order they are asked."""
    variable, model = "LLAMA_PROVIDER_MODELS", kind.model_name
    form = re.compile(rf"{model}|{Provider.model_name}\s*=\s*{model}(\s*[|]\s*{model})*")
    models: dict[str, tuple[str, ...]] = {}
    for entry in env.entries(variable, kind.default_models):
        alias, _, chain = entry.rpartition("=")
        names = tuple(name.strip() for name in chain.split("|"))
        public = alias.strip() or names[0]
        if not form.fullmatch(entry):
            text = "must be model, alias=model or alias=model|fallback, separated by commas"
            env.report(variable, text)
        elif public in models or len(set(names)) < len(names):
            env.report(variable, "must not have a public name, or a fallback, twice")
        for short in [name.rpartition("/")[2] for name in names if name in kind.withdrawn]:
            env.warn(variable, f"Cloudflare withdrew {short} on 2026-05-30; choose another")
        models[public] = names
    if not models:
        env.report(variable, "is not set; set at least one model")
    return models


def _certificates(env: Variables) -> str:
    name = "LLAMA_PROVIDER_CA_BUNDLE"
    path = env.text(name)
    try:
        if path:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except (OSError, ValueError) as error:  # ssl.SSLError, a NUL in the path
        kind = type(error).__name__
        env.report(name, f"must be a file of certificates in PEM form ({kind})")
        return ""
    return path


def _rate_limit(env: Variables, workers: int) -> RateLimit | None:
    name, memory = "RATE_LIMIT_STORAGE", "memory://"
    form = "like 60/minute (second, minute, hour or day)"
    rate = env.checked("RATE_LIMIT", "", _RATE.fullmatch, form)
    storage = env.text(name, memory)
    if storage != memory and not _is_url(storage, _REDIS):
        form = "redis(s)://:password@host:port/number, other characters percent-encoded"
        env.report(name, f"must be {form}")
        return None  # counted elsewhere, it would answer 429, and no retry can help
    if rate and workers > 1 and storage == memory:
        text = f"each of the {workers} workers counts alone; RATE_LIMIT_STORAGE makes it one count"
        env.warn("RATE_LIMIT", text)
    return RateLimit(rate, storage) if rate else None
