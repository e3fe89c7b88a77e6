"""All settings, read once from the environment and checked; README.md has their table."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches

from proxy import provider_settings
from proxy.environment import Problem, Variables, cores, is_url
from proxy.keys import MASTER, NAME, Keys, digest
from proxy.watchdog import Timeouts

# Of redis' options only what a platform's own certificate needs.
_REDIS = r"rediss?://[^/?]+(/[0-9]*)?([?]ssl_cert_reqs=(none|optional|required))?"
LOG_LEVELS = ("debug", "info", "warning", "error", "critical")


@dataclass(frozen=True)
class RateLimit:
    """How many requests each key may make, such as 60/minute, and where they are counted."""

    rate: str
    storage: str = field(repr=False)  # a URL, which may hold a password


class Settings:
    """What the proxy runs with. With problems it answers 500 until they are fixed.

    A new setting is one line here, one in .env.example and one in the README's table.
    """

    def __init__(self, env: Mapping[str, str], problems: Iterable[Problem] = ()) -> None:
        """Never raises, whatever the mapping holds. `problems`: known already."""
        variables = Variables(env, problems)
        self.keys = _keys(variables)
        kind, self.provider = provider_settings.read(variables, self.keys)
        # A file of certificates to trust besides the usual ones, or nothing.
        self.ca_bundle = variables.certificates("LLAMA_PROVIDER_CA_BUNDLE")
        self.timeouts = Timeouts(
            first_byte=variables.seconds("LLAMA_PROVIDER_TIMEOUT", kind.timeout),
            idle=variables.seconds("LLAMA_PROVIDER_IDLE_TIMEOUT", 60),
            total=variables.seconds("LLAMA_PROVIDER_TOTAL_TIMEOUT", 600),
        )
        self.max_request_bytes = variables.integer("MAX_REQUEST_BYTES", 10 * 1024**2, 1024**3)
        self.log_level = variables.choice("LOG_LEVEL", LOG_LEVELS, "info")
        # gunicorn's own: a platform that sets PORT calls from outside, so on all addresses.
        self.is_public = bool(variables.exact("PORT"))
        self.port = variables.integer("PORT", 8000, 65535)
        self.workers = variables.integer("WEB_CONCURRENCY", min(cores(), 4), 64)
        self.graceful_timeout = variables.integer("GRACEFUL_TIMEOUT", 25, 86400)
        self.rate_limit = _rate_limit(variables, self.workers)

        self.defaults = variables.defaults  # by name, of all settings
        self.problems = tuple(dict.fromkeys(variables.problems))
        self.warnings = (*dict.fromkeys(variables.warnings), *_misspelt(env, self.defaults))


def _keys(variables: Variables) -> Keys:
    digests: dict[str, bytes] = {}
    name = "WORKER_ACCESS_KEY"
    before = len(variables.problems)
    master = variables.exact(name)
    if master and variables.check_key(name, master):
        digests[MASTER] = digest(master)
    for entry in variables.text("WORKER_ACCESS_KEYS").split(","):
        if entry.strip():
            _add_named(variables, entry.strip(), digests)
    if not digests and len(variables.problems) == before:
        text = "is not set, so every request is refused; `python -m proxy keygen NAME` makes a key"
        variables.report(name, text)
    return Keys(digests)


def _add_named(variables: Variables, entry: str, digests: dict[str, bytes]) -> None:
    """An entry of WORKER_ACCESS_KEYS: name:key or name:sha256:hex."""
    variable = "WORKER_ACCESS_KEYS"
    name, _, key = entry.partition(":")
    if not re.fullmatch(NAME, name) or not key:
        variables.report(variable, "must be name:key or name:sha256:hex, separated by commas")
    elif name == MASTER or name in digests:
        variables.report(variable, "must not have a name twice, and 'master' is reserved")
    elif re.fullmatch("sha256:[0-9A-Fa-f]{64}", key):
        digests[name] = bytes.fromhex(key.removeprefix("sha256:"))
    elif key.startswith("sha256:"):
        variables.report(variable, "a sha256: digest must have 64 hexadecimal digits")
    elif variables.check_key(variable, key):
        digests[name] = digest(key)


def _rate_limit(variables: Variables, workers: int) -> RateLimit | None:
    rate, storage = variables.text("RATE_LIMIT"), variables.text("RATE_LIMIT_STORAGE")
    before = len(variables.problems)
    if rate and not re.fullmatch("[1-9][0-9]{0,8}/(second|minute|hour|day)", rate):
        variables.report("RATE_LIMIT", "must be like 60/minute (second, minute, hour or day)")
    elif rate and not storage and workers > 1:
        text = f"each of the {workers} workers counts alone, so up to {workers} times as many pass"
        variables.warn("RATE_LIMIT", f"{text}; set RATE_LIMIT_STORAGE to count together")
    if storage and not rate:
        variables.warn("RATE_LIMIT_STORAGE", "has no effect without RATE_LIMIT")
    elif storage and not (is_url(storage) and re.fullmatch(_REDIS, storage)):
        text = "must be redis(s)://:password@host:port/number, other characters percent-encoded"
        variables.report("RATE_LIMIT_STORAGE", text)
    is_good = rate and len(variables.problems) == before
    return RateLimit(rate, storage or "memory://") if is_good else None


def _misspelt(env: Iterable[str], names: Iterable[str]) -> Iterator[Problem]:
    """Variables that are not settings, with names close to a setting's."""
    for name in sorted(set(env) - set(names)):
        is_likely = name.startswith(("WORKER_ACCESS", "LLAMA_PROVIDER", "RATE_LIMIT"))
        near = get_close_matches(name.upper(), names, n=1, cutoff=0.6 if is_likely else 0.8)
        if near and re.fullmatch("[A-Za-z0-9_]{8,64}", name):
            yield Problem(name, f"is not a setting of this proxy; did you mean {near[0]}?")
