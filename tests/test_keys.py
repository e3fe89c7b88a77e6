"""Tier 1: whose key a request shows."""

import hashlib
import hmac

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.keys import MASTER, Keys, digest

KEYS = Keys({MASTER: digest("s3cret=="), "alice": digest("a:b c")})
# fmt: off
HEADERS = {
    "master": ["Bearer s3cret==", "bearer s3cret==", "BEARER s3cret==", "Bearer   s3cret==  "],
    "alice": ["Bearer a:b c"],
    None: [
        "", "Bearer", "Bearer ", "Bearers3cret==", "s3cret==", "Basic s3cret==", "Bearer s3cret",
        "Bearer s3cret===", "Bearer S3CRET==", "Bearer s3cret== s3cret==", "Bearer s3cret==,",
        "Bearer a:b  c", "Bearer\ts3cret==", "Bearer \ts3cret==", "Bearer \xa0s3cret==",
        "Bearer k\xe9y", "Bearer \ud800", "Bearer " + "x" * 100_000,
        digest("s3cret==").hex(), "Bearer " + digest("s3cret==").hex(),
    ],
}
# fmt: on


@pytest.mark.parametrize("owner", HEADERS)
def test_a_header_belongs_to_the_owner_of_its_key(owner: str | None) -> None:
    assert [header for header in HEADERS[owner] if KEYS.owner(header) != owner] == []


def test_without_keys_no_header_is_accepted() -> None:
    assert Keys().owner("Bearer ") is None


def test_every_key_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time it takes must not show which key was right, or whether one was."""
    compared = []
    monkeypatch.setattr(hmac, "compare_digest", lambda a, b: compared.append(b) or a == b)
    for header in ("Bearer s3cret==", "Bearer a:b c", "Bearer wrong"):
        KEYS.owner(header)
    assert len(compared) == 6


def test_keys_are_kept_as_sha256() -> None:
    """`printf KEY | sha256sum` prints the same, for WORKER_ACCESS_KEYS=name:sha256:HEX."""
    assert digest("k") == hashlib.sha256(b"k").digest()
    assert "s3cret" not in repr(KEYS)


@settings(max_examples=25, derandomize=True, deadline=None, database=None)
@given(st.text(st.characters(exclude_categories=())), st.sampled_from(["", "Bearer ", "bearer  "]))
def test_strangers_may_send_anything(text: str, scheme: str) -> None:
    assert KEYS.owner(scheme + text) is None or text.strip(" ") in {"s3cret==", "a:b c"}
