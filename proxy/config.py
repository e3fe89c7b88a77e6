"""The settings: read once from a mapping, each checked; README.md has their table."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import ClassVar
from urllib.parse import urlsplit

from proxy import environ
from proxy.auth import Keys
from proxy.providers import Provider, table
from proxy.settings import Problem, Settings
from proxy.watchdog import Timeouts

NAMES = frozenset(
    {
        *("WORKER_ACCESS_KEY", "WORKER_ACCESS_KEYS"),
        *("LLAMA_PROVIDER", "LLAMA_PROVIDER_API_KEY", "CLOUDFLARE_API_TOKEN"),
        *("CLOUDFLARE_ACCOUNT_ID", "LLAMA_PROVIDER_BASE_URL", "LLAMA_PROVIDER_MODELS"),
        "LLAMA_PROVIDER_CA_BUNDLE",
        *("LLAMA_PROVIDER_TIMEOUT", "LLAMA_PROVIDER_IDLE_TIMEOUT", "LLAMA_PROVIDER_TOTAL_TIMEOUT"),
        *("MAX_REQUEST_BYTES", "RATE_LIMIT", "RATE_LIMIT_STORAGE"),
        *("PORT", "WEB_CONCURRENCY", "GRACEFUL_TIMEOUT", "LOG_LEVEL"),
    }
)
LOG_LEVELS = ("debug", "info", "warning", "error", "critical")


@dataclass(frozen=True)
class Server:
    """What gunicorn runs with."""

    VARIABLES: ClassVar = ("PORT", "WEB_CONCURRENCY", "GRACEFUL_TIMEOUT")

    port: int
    everywhere: bool  # on all addresses: a platform that sets PORT calls from outside
    workers: int
    graceful_timeout: int  # seconds for open answers after SIGTERM

    @classmethod
    def from_settings(cls, settings: Settings) -> "Server":
        return cls(
            port=settings.whole("PORT", 8000, most=65535),
            everywhere=bool(settings.text("PORT")),
            workers=settings.whole("WEB_CONCURRENCY", min(environ.cores(), 4), most=64),
            graceful_timeout=settings.whole("GRACEFUL_TIMEOUT", 25, most=86400),
        )


@dataclass(frozen=True)
class RateLimit:
    """How many requests each key may make, such as 60/minute, and where they are counted."""

    rate: str
    storage: str = field(repr=False)  # a URL, which may hold a password

    @classmethod
    def from_settings(cls, settings: Settings, workers: int) -> "RateLimit | None":
        """None where there is no limit, or a wrong one. `workers`: the processes that count."""
        rate, storage = settings.text("RATE_LIMIT"), settings.text("RATE_LIMIT_STORAGE")
        if not rate:
            if storage:
                settings.doubtful("RATE_LIMIT_STORAGE", "means nothing without RATE_LIMIT")
            return None
        before = len(settings.problems)
        if not re.fullmatch("[1-9][0-9]{0,8}/(second|minute|hour|day)", rate):
            settings.wrong("RATE_LIMIT", "must be like 60/minute (second, minute, hour or day)")
        if storage and not _is_redis_url(storage):
            tells = "must be redis(s)://:password@host:port/number, odd letters percent-encoded"
            settings.wrong("RATE_LIMIT_STORAGE", tells)
        if not storage and workers > 1:
            tells = f"each of the {workers} workers counts alone, so up to {workers} times as much"
            tells += " passes; set RATE_LIMIT_STORAGE to count together"
            settings.doubtful("RATE_LIMIT", tells)
        return cls(rate, storage or "memory://") if len(settings.problems) == before else None


@dataclass(frozen=True)
class Config:
    """What the proxy runs on. With problems it answers 500 until they are mended."""

    keys: Keys
    provider: Provider | None
    ca_bundle: str  # a file of certificates to trust besides the usual ones, or nothing
    timeouts: Timeouts
    max_request_bytes: int
    rate_limit: RateLimit | None
    server: Server
    log_level: str
    problems: tuple[Problem, ...]
    warnings: tuple[Problem, ...]

    @classmethod
    def from_env(cls, env: Mapping[str, str], problems: Iterable[Problem] = ()) -> "Config":
        """Total: whatever the mapping holds, the outcome is a Config. `problems`: known already."""
        settings = Settings(env, problems)
        keys = Keys.from_settings(settings)
        server = Server.from_settings(settings)
        return cls(
            keys=keys,
            provider=table.from_settings(settings, keys),
            ca_bundle=settings.certificates("LLAMA_PROVIDER_CA_BUNDLE"),
            timeouts=Timeouts(
                settings.number("LLAMA_PROVIDER_TIMEOUT", Timeouts().first_byte),
                settings.number("LLAMA_PROVIDER_IDLE_TIMEOUT", Timeouts().idle),
                settings.number("LLAMA_PROVIDER_TOTAL_TIMEOUT", Timeouts().total),
            ),
            max_request_bytes=settings.whole("MAX_REQUEST_BYTES", 10 * 1024**2, most=1024**3),
            rate_limit=RateLimit.from_settings(settings, server.workers),
            server=server,
            log_level=settings.choice("LOG_LEVEL", LOG_LEVELS, "info"),
            problems=tuple(settings.problems),
            warnings=(*settings.warnings, *_misspelt(env)),
        )


def _is_redis_url(url: str) -> bool:
    """One that the client can read; of its options only what a platform's own certificate needs."""
    try:
        parts = urlsplit(url)
        whole = parts.hostname and parts.port != 0
    except ValueError:  # a port that is no number, a broken IPv6 address
        return False
    query = re.fullmatch("(ssl_cert_reqs=(none|optional|required))?", parts.query)
    plain = re.fullmatch("[!-~]+", url) and re.fullmatch("/?[0-9]*", parts.path) and query
    return bool(parts.scheme in ("redis", "rediss") and whole and plain and "#" not in url)


def _misspelt(env: Iterable[str]) -> Iterator[Problem]:
    """Names that are none of ours, and near to one of them."""
    for name in sorted(set(env) - NAMES):
        ours = name.startswith(("WORKER_ACCESS", "LLAMA_PROVIDER", "RATE_LIMIT"))
        near = get_close_matches(name.upper(), NAMES, n=1, cutoff=0.6 if ours else 0.8)
        if near and re.fullmatch("[A-Za-z0-9_]{8,64}", name):
            yield Problem(name, f"is no setting of this proxy; did you mean {near[0]}?")
