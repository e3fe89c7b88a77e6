"""Tier 1: whose key a request shows. Keys are kept as SHA-256 digests, so none can leak."""

import hashlib
import hmac
from collections.abc import Mapping

MASTER = "master"  # the name of WORKER_ACCESS_KEY
NAME = "[A-Za-z0-9._-]{1,64}"


class Keys:
    """Digests of keys by the keys' names."""

    def __init__(self, digests: Mapping[str, bytes]) -> None:
        self._digests = dict(digests)

    def __bool__(self) -> bool:
        return bool(self._digests)

    def __repr__(self) -> str:
        return f"Keys({', '.join(self._digests)})"

    @property
    def fingerprints(self) -> dict[str, str]:
        """By the keys' names."""
        return {name: value.hex()[:8] for name, value in self._digests.items()}

    def owner(self, authorization: str) -> str | None:
        """The name of the key in an Authorization header; None if it is not one of these keys.

        Werkzeug would read a token with an inner `=` as parameters. Every key is compared, in
        constant time, also after a match; as bytes: compare_digest raises on non-ASCII text.
        """
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer":  # case-insensitive: RFC 9110, 11.1
            return None
        presented = digest(token.strip(" "))
        owners = [
            name
            for name, expected in self._digests.items()
            if hmac.compare_digest(presented, expected)
        ]
        return owners[-1] if owners else None


def digest(key: str) -> bytes:
    """The SHA-256 of a key, 32 bytes, of any text."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


def fingerprint(key: str) -> str:
    """Enough of a key's digest to recognise it, too little to be of use to a thief."""
    return digest(key).hex()[:8]
