"""Tier 1: who may use the proxy."""

import hashlib
import hmac

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy import keys

KEYS = keys.Keys({keys.MASTER: keys.digest("s3cret=="), "alice": keys.digest("a:b c")})


@pytest.mark.parametrize(
    ("header", "owner"),
    [
        ("Bearer s3cret==", "master"),
        ("Bearer a:b c", "alice"),
        ("bearer s3cret==", "master"),
        ("BEARER s3cret==", "master"),
        ("Bearer   s3cret==  ", "master"),  # blanks around a key are not the key's
    ],
)
def test_a_key_is_known_by_its_name(header: str, owner: str) -> None:
    assert KEYS.owner(header) == owner


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Bearer",
        "Bearer ",
        "Bearers3cret==",
        "s3cret==",
        "Basic s3cret==",
        "Bearer s3cret",
        "Bearer s3cret===",
        "Bearer S3CRET==",
        "Bearer s3cret== s3cret==",
        "Bearer s3cret==,",
        "Bearer a:b  c",
        "Bearer\ts3cret==",
        "Bearer \ts3cret==",
        "Bearer \xa0s3cret==",
        "Bearer k\xe9y",
        "Bearer \ud800",
        "Bearer " + "x" * 100_000,
        keys.digest("s3cret==").hex(),
        "Bearer " + keys.digest("s3cret==").hex(),
    ],
)
def test_anything_else_is_no_key(header: str) -> None:
    assert KEYS.owner(header) is None


def test_no_keys_let_nobody_in() -> None:
    nobodys = keys.Keys({})
    assert not nobodys
    assert nobodys.owner("Bearer ") is None
    assert KEYS


def test_every_key_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """How long it takes must not tell which key was right, or whether one was."""
    compared = []

    def compare(a: bytes, b: bytes) -> bool:
        compared.append(b)
        return a == b

    monkeypatch.setattr(hmac, "compare_digest", compare)
    for header in ("Bearer s3cret==", "Bearer a:b c", "Bearer wrong"):
        KEYS.owner(header)
    assert len(compared) == 6


def test_keys_show_their_names_only() -> None:
    """A repr ends up in a log some day."""
    shown = repr(KEYS) + str(KEYS)
    assert "master" in shown
    assert "alice" in shown
    for secret in ("s3cret", keys.digest("s3cret==").hex(), repr(keys.digest("s3cret=="))):
        assert secret not in shown
    assert "s3cret" not in repr(vars(KEYS))


def test_the_digest_is_sha256() -> None:
    """`printf KEY | sha256sum` gives the same, for WORKER_ACCESS_KEYS=name:sha256:HEX."""
    assert keys.digest("k") == hashlib.sha256(b"k").digest()


@settings(max_examples=100, derandomize=True, deadline=None, database=None)
@given(st.text(st.characters(exclude_categories=())), st.sampled_from(["", "Bearer ", "bearer  "]))
def test_strangers_may_send_anything(text: str, scheme: str) -> None:
    assert KEYS.owner(scheme + text) is None or text.strip(" ") in {"s3cret==", "a:b c"}
