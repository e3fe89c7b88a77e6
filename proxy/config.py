"""The settings: read once from a mapping, each checked; README.md has their table."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import urlsplit

from proxy import auth
from proxy.providers import Provider
from proxy.providers.openai_compatible import OpenAICompatible
from proxy.providers.workers_ai import WorkersAI
from proxy.settings import Problem, Settings
from proxy.watch import Timeouts


class _Kind(NamedTuple):
    """How a provider is configured; an empty default means that the setting is required."""

    make: Callable[[str, str, Mapping[str, str]], Provider]
    base_url: str = ""
    models: str = ""
    key_names: tuple[str, ...] = ("LLAMA_PROVIDER_API_KEY",)
    needs_key: bool = False
    model: str = "[!-~]+"  # what its names for models look like


PROVIDERS = {
    "workers-ai": _Kind(
        WorkersAI,
        base_url="https://api.cloudflare.com/client/v4/accounts/{account}/ai/run",
        models="@cf/meta/llama-3.1-8b-instruct-fast",
        key_names=("LLAMA_PROVIDER_API_KEY", "CLOUDFLARE_API_TOKEN"),
        needs_key=True,
        # It goes into the path: no segment may begin with a dot, or `..` would leave /ai/run.
        model="@?[A-Za-z0-9_-][A-Za-z0-9._-]*(?:/[A-Za-z0-9_-][A-Za-z0-9._-]*)*",
    ),
    "openai": _Kind(OpenAICompatible),
}


LOG_LEVELS = ("debug", "info", "warning", "error", "critical")


@dataclass(frozen=True)
class Config:
    """What the proxy runs on. With problems it answers 500 until they are mended."""

    keys: auth.Keys
    provider: Provider | None
    timeouts: Timeouts
    max_request_bytes: int
    log_level: str
    problems: tuple[Problem, ...]
    warnings: tuple[Problem, ...]

    @classmethod
    def from_env(cls, env: Mapping[str, str], problems: Iterable[Problem] = ()) -> "Config":
        """Total: whatever the mapping holds, the outcome is a Config. `problems`: known already."""
        settings = _Settings(env)
        keys = settings.keys()
        settings.problems += problems
        if settings.text("RATE_LIMIT"):  # it must not look as if there were a limit
            settings.wrong("RATE_LIMIT", "this version has none; limit rates in front of it")
        return cls(
            keys=keys,
            provider=settings.provider(keys),
            timeouts=Timeouts(
                settings.number("LLAMA_PROVIDER_TIMEOUT", Timeouts().first_byte),
                settings.number("LLAMA_PROVIDER_IDLE_TIMEOUT", Timeouts().idle),
                settings.number("LLAMA_PROVIDER_TOTAL_TIMEOUT", Timeouts().total),
            ),
            max_request_bytes=int(
                settings.number("MAX_REQUEST_BYTES", 10 * 1024**2, most=1024**3, whole=True)
            ),
            log_level=settings.choice("LOG_LEVEL", LOG_LEVELS, "info"),
            problems=tuple(settings.problems),
            warnings=tuple(settings.warnings),
        )


class _Settings(Settings):
    """Each setting, or group of them, that needs more than one rule."""

    def keys(self) -> auth.Keys:
        digests: dict[str, bytes] = {}
        if master := self.secret("WORKER_ACCESS_KEY"):
            digests[auth.MASTER] = auth.digest(master)
        for entry in self.text("WORKER_ACCESS_KEYS").split(","):
            if entry.strip():
                self.named_key(entry.strip(), digests)
        if not digests and not self.problems:
            self.wrong("WORKER_ACCESS_KEY", "no key is set, so nobody can be let in")
        return auth.Keys(digests)

    def named_key(self, entry: str, digests: dict[str, bytes]) -> None:
        name, _, key = entry.partition(":")
        variable = "WORKER_ACCESS_KEYS"
        if not re.fullmatch("[A-Za-z0-9._-]{1,64}", name) or not key:
            self.wrong(variable, "must be name:key or name:sha256:hex, separated by commas")
        elif name == auth.MASTER or name in digests:
            self.wrong(variable, "each name may be there once, and 'master' is reserved")
        elif key.startswith("sha256:"):
            if re.fullmatch("sha256:[0-9A-Fa-f]{64}", key):
                digests[name] = bytes.fromhex(key.removeprefix("sha256:"))
            else:
                self.wrong(variable, "a sha256: digest must have 64 hexadecimal digits")
        elif self.is_sendable(variable, key):
            digests[name] = auth.digest(key)

    def secret(self, name: str) -> str:
        """Letter for letter; blank is not set."""
        key = self.env.get(name, "")
        return key if key.strip() and self.is_sendable(name, key) else ""

    def is_sendable(self, variable: str, key: str) -> bool:
        if not re.fullmatch("[!-~]([ -~]*[!-~])?", key):
            self.wrong(variable, "a key must be printable ASCII without blanks at its ends")
            return False
        if len(key) < 16 or re.search("your|change|example|placeholder|secret|xxx", key.lower()):
            self.doubtful(variable, "a key looks short, or like a placeholder; make a strong one")
        return True

    def provider(self, keys: auth.Keys) -> Provider | None:
        before = len(self.problems)
        kind = PROVIDERS[self.choice("LLAMA_PROVIDER", PROVIDERS, "workers-ai")]
        if len(self.problems) > before:
            return None
        key, base_url, models = self.provider_key(kind), self.base_url(kind), self.models(kind)
        if keys.owner(f"Bearer {key}"):
            tells = "is a key of tier 1 too: whoever calls could use the provider without the proxy"
            self.doubtful(kind.key_names[0], tells)
        return kind.make(base_url, key, models) if len(self.problems) == before else None

    def provider_key(self, kind: _Kind) -> str:
        variable = next((name for name in kind.key_names if self.text(name)), kind.key_names[0])
        key = self.secret(variable)
        if kind.needs_key and not self.text(variable):
            self.wrong(variable, "the provider's API key is not set")
        return key

    def base_url(self, kind: _Kind) -> str:
        variable = "LLAMA_PROVIDER_BASE_URL"
        url = self.text(variable, kind.base_url).rstrip("/")
        if "{account}" in url:
            account = self.text("CLOUDFLARE_ACCOUNT_ID")
            if not re.fullmatch("[A-Za-z0-9-]+", account):
                tells = "must be letters, digits and hyphens" if account else "is not set"
                self.wrong("CLOUDFLARE_ACCOUNT_ID", tells)
                return ""
            url = url.replace("{account}", account)
        if not url:
            self.wrong(variable, "is not set; this provider has no address of its own")
        elif not _is_plain_url(url):
            self.wrong(variable, "must be http(s)://host/path, without user, query or fragment")
        elif urlsplit(url).scheme == "http" and not _is_loopback(url):
            self.doubtful(variable, "http sends the key in clear; use https")
        return url

    def models(self, kind: _Kind) -> Mapping[str, str]:
        variable = "LLAMA_PROVIDER_MODELS"
        models: dict[str, str] = {}
        entries = [entry.strip() for entry in self.text(variable, kind.models).split(",")]
        for entry in filter(None, entries):
            public, _, name = (part.strip() for part in entry.rpartition("="))
            if not re.fullmatch(kind.model, name) or not re.fullmatch("[!-~]*", public):
                self.wrong(variable, "must be names, or public=name, separated by commas")
            elif (public or name) in models:
                self.wrong(variable, "each public name may be there once")
            models[public or name] = name
        if not models:
            self.wrong(variable, "is not set; name at least one model")
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
