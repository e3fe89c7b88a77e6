"""All settings, read once from the environment and checked; README.md has their table."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches

from proxy import provider_settings
from proxy.environment import Problem, Variables, cores, is_url
from proxy.keys import MASTER, NAME, Keys, digest
from proxy.watchdog import Timeouts

_NAMED_KEY = re.compile(rf"{NAME}:(sha256:[0-9A-Fa-f]{{64}}|(?!sha256:).+)", re.DOTALL)
_RATE = "[1-9][0-9]{0,8}/(second|minute|hour|day)"
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
    before = len(variables.problems)
    digests: dict[str, bytes] = {}
    name = "WORKER_ACCESS_KEY"
    master = variables.exact(name)
    if master and variables.check_key(name, master):
        digests[MASTER] = digest(master)
    _add_named_keys(variables, digests)
    if not digests and len(variables.problems) == before:
        text = "is not set, so every request is refused; `python -m proxy keygen NAME` makes a key"
        variables.report(name, text)
    return Keys(digests)


def _add_named_keys(variables: Variables, digests: dict[str, bytes]) -> None:
    variable = "WORKER_ACCESS_KEYS"
    for entry in variables.entries(variable):
        name, _, key = entry.partition(":")
        if not _NAMED_KEY.fullmatch(entry):
            text = "must be name:key or name:sha256:hex, separated by commas"
            variables.report(variable, text)
        elif name == MASTER or name in digests:
            variables.report(variable, "must not have a name twice, and 'master' is reserved")
        elif key.startswith("sha256:"):
            digests[name] = bytes.fromhex(key.removeprefix("sha256:"))
        elif variables.check_key(variable, key):
            digests[name] = digest(key)


def _rate_limit(variables: Variables, workers: int) -> RateLimit | None:
    rate = variables.text("RATE_LIMIT")
    storage = variables.text("RATE_LIMIT_STORAGE", "memory://")
    is_good_rate = re.fullmatch(_RATE, rate)
    is_good_storage = storage == "memory://" or (is_url(storage) and re.fullmatch(_REDIS, storage))
    if rate and not is_good_rate:
        variables.report("RATE_LIMIT", "must be like 60/minute (second, minute, hour or day)")
    if not is_good_storage:
        text = "must be redis(s)://:password@host:port/number, other characters percent-encoded"
        variables.report("RATE_LIMIT_STORAGE", text)
    if is_good_rate and storage == "memory://" and workers > 1:
        text = f"each of the {workers} workers counts alone; RATE_LIMIT_STORAGE makes it one count"
        variables.warn("RATE_LIMIT", text)
    return RateLimit(rate, storage) if is_good_rate and is_good_storage else None


def _misspelt(env: Iterable[str], names: Iterable[str]) -> Iterator[Problem]:
    """Variables that are not settings, with names close to a setting's."""
    for name in sorted(set(env) - set(names)):
        near = get_close_matches(name.upper(), names, n=1, cutoff=0.8)
        if near and re.fullmatch("[A-Za-z0-9_]{8,64}", name):
            yield Problem(name, f"is not a setting of this proxy; did you mean {near[0]}?")
