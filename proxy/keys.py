"""Tier 1: whose key a request shows. Keys are kept as SHA-256 digests, so none can leak."""

import hashlib
import hmac

MASTER = "master"  # the name of WORKER_ACCESS_KEY
NAME = "[A-Za-z0-9._-]{1,64}"


class Keys(dict[str, bytes]):
    """Digests of keys by the keys' names."""

    def owner(self, authorization: str) -> str | None:
        """The name of the key in an Authorization header; None if it is not one of these keys.

        Werkzeug would read a token with an inner `=` as parameters. Every key is compared, in
        constant time, also after a match; as bytes: compare_digest raises on non-ASCII text.
        """
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer":  # case-insensitive: RFC 9110, 11.1
            return None
        shown = digest(token.strip(" "))
        owners = [name for name, known in self.items() if hmac.compare_digest(shown, known)]
        return owners[0] if owners else None


def digest(key: str) -> bytes:
    """The SHA-256 of a key, 32 bytes, of any text."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
