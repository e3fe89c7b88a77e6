"""Tier 1: whose key a request shows."""

import hashlib
import hmac

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy import keys

KEYS = keys.Keys({keys.MASTER: keys.digest("s3cret=="), "alice": keys.digest("a:b c")})
# fmt: off
HEADERS = {
    "master": ["Bearer s3cret==", "bearer s3cret==", "BEARER s3cret==", "Bearer   s3cret==  "],
    "alice": ["Bearer a:b c"],
    None: [
        "", "Bearer", "Bearer ", "Bearers3cret==", "s3cret==", "Basic s3cret==", "Bearer s3cret",
        "Bearer s3cret===", "Bearer S3CRET==", "Bearer s3cret== s3cret==", "Bearer s3cret==,",
        "Bearer a:b  c", "Bearer\ts3cret==", "Bearer \ts3cret==", "Bearer \xa0s3cret==",
        "Bearer k\xe9y", "Bearer \ud800", "Bearer " + "x" * 100_000,
        keys.digest("s3cret==").hex(), "Bearer " + keys.digest("s3cret==").hex(),
    ],
}
# fmt: on


@pytest.mark.parametrize(
    ("owner", "header"),
    [
        pytest.param(owner, header, id=f"{owner}: {header[:40]!a}")
        for owner, headers in HEADERS.items()
        for header in headers
    ],
)
def test_a_header_belongs_to_the_owner_of_its_key(owner: str | None, header: str) -> None:
    assert KEYS.owner(header) == owner


def test_without_keys_no_header_is_accepted() -> None:
    assert KEYS
    assert not keys.Keys({})
    assert keys.Keys({}).owner("Bearer ") is None


def test_every_key_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time it takes must not show which key was right, or whether one was."""
    compared = []

    def compare(a: bytes, b: bytes) -> bool:
        compared.append(b)
        return a == b

    monkeypatch.setattr(hmac, "compare_digest", compare)
    for header in ("Bearer s3cret==", "Bearer a:b c", "Bearer wrong"):
        KEYS.owner(header)
    assert len(compared) == 6


def test_keys_are_not_shown() -> None:
    """A repr ends up in a log some day."""
    assert repr(KEYS) == str(KEYS) == "Keys()"
    assert "s3cret" not in repr(vars(KEYS))
    assert keys.fingerprint(keys.digest("s3cret==")) == keys.digest("s3cret==").hex()[:8]


def test_the_digest_is_sha256() -> None:
    """`printf KEY | sha256sum` prints the same, for WORKER_ACCESS_KEYS=name:sha256:HEX."""
    assert keys.digest("k") == hashlib.sha256(b"k").digest()


@settings(max_examples=40, derandomize=True, deadline=None, database=None)
@given(st.text(st.characters(exclude_categories=())), st.sampled_from(["", "Bearer ", "bearer  "]))
def test_strangers_may_send_anything(text: str, scheme: str) -> None:
    assert KEYS.owner(scheme + text) is None or text.strip(" ") in {"s3cret==", "a:b c"}
