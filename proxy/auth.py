"""Tier 1: who may use the proxy."""

import hashlib
import hmac
from collections.abc import Mapping

MASTER = "master"


class Keys:
    """Named keys, held as SHA-256 digests only: there is no key here to show by mistake."""

    def __init__(self, digests: Mapping[str, bytes]) -> None:
        self._digests = dict(digests)

    def __bool__(self) -> bool:
        return bool(self._digests)

    def __repr__(self) -> str:
        return f"Keys({', '.join(self._digests)})"

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
