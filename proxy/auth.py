"""Tier 1: who may use the proxy."""

import hashlib
import hmac
import re
from collections.abc import Mapping

from proxy.settings import Settings

MASTER = "master"
NAME = "[A-Za-z0-9._-]{1,64}"


class Keys:
    """Named keys, held as SHA-256 digests only: there is no key here to show by mistake."""

    def __init__(self, digests: Mapping[str, bytes]) -> None:
        self._digests = dict(digests)

    @classmethod
    def from_settings(cls, settings: Settings) -> "Keys":
        """The master key, and those of WORKER_ACCESS_KEYS: name:key or name:sha256:hex."""
        digests: dict[str, bytes] = {}
        if master := settings.secret("WORKER_ACCESS_KEY"):
            digests[MASTER] = digest(master)
        for entry in settings.text("WORKER_ACCESS_KEYS").split(","):
            if entry.strip():
                _add_named(settings, entry.strip(), digests)
        wrong = {problem.variable for problem in settings.problems}
        if not digests and not wrong & {"WORKER_ACCESS_KEY", "WORKER_ACCESS_KEYS"}:
            tells = "is not set, so nobody can be let in; `python -m proxy keygen NAME` makes a key"
            settings.wrong("WORKER_ACCESS_KEY", tells)
        return cls(digests)

    def __bool__(self) -> bool:
        return bool(self._digests)

    def __repr__(self) -> str:
        return f"Keys({', '.join(self._digests)})"

    @property
    def fingerprints(self) -> dict[str, str]:
        """By the keys' names, the master's first where there is one."""
        return {name: value.hex()[:8] for name, value in self._digests.items()}

    def owner(self, authorization: str) -> str | None:
        """The name of the key in an Authorization header, as WSGI gives it; None: not a key.

        The header is read by hand: Werkzeug takes a token with an inner `=` for parameters. Each
        key is compared, in constant time, whether an earlier one was equal or not; as bytes,
        since compare_digest raises on non-ASCII text.
        """
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer":  # RFC 9110, 11.1: in any case
            return None
        presented = digest(token.strip(" "))
        owner = None
        for name, expected in self._digests.items():
            if hmac.compare_digest(presented, expected):
                owner = name
        return owner


def digest(key: str) -> bytes:
    """The SHA-256 of a key, 32 bytes. Total: a stranger's key may hold anything."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


def fingerprint(key: str) -> str:
    """Enough of a key's digest to tell it from others, and too little to be of use."""
    return digest(key).hex()[:8]


def _add_named(settings: Settings, entry: str, digests: dict[str, bytes]) -> None:
    name, _, key = entry.partition(":")
    variable = "WORKER_ACCESS_KEYS"
    if not re.fullmatch(NAME, name) or not key:
        settings.wrong(variable, "must be name:key or name:sha256:hex, separated by commas")
    elif name == MASTER or name in digests:
        settings.wrong(variable, "each name may be there once, and 'master' is reserved")
    elif key.startswith("sha256:"):
        if re.fullmatch("sha256:[0-9A-Fa-f]{64}", key):
            digests[name] = bytes.fromhex(key.removeprefix("sha256:"))
        else:
            settings.wrong(variable, "a sha256: digest must have 64 hexadecimal digits")
    elif settings.is_sendable(variable, key):
        digests[name] = digest(key)
