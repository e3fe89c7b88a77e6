"""What a provider is: how to ask it. Answers and refusals are read the same way for all."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from proxy.chat_request import ChatRequest


@dataclass(frozen=True)
class UpstreamRequest:
    """A POST to send. `ignored`: the names of parameters that this provider cannot use."""

    url: str
    headers: dict[str, str] = field(repr=False)  # one of them is the key
    body: bytes = field(repr=False)
    ignored: tuple[str, ...] = ()


class Provider(Protocol):
    """One way to ask a model. Configured once, then shared by all requests."""

    @property
    def name(self) -> str:
        """The value of LLAMA_PROVIDER that chooses it."""

    @property
    def key(self) -> str:
        """Tier 2; empty where none is sent."""

    @property
    def models(self) -> Mapping[str, tuple[str, ...]]:
        """By public name, the default first: the provider's names, in the order to ask them."""

    @property
    def token_limit(self) -> int | None:
        """Tokens at which an answer is cut silently, if the caller sets no limit."""

    @property
    def relays_unknown(self) -> bool:
        """Whether keys that this proxy does not know are relayed, in both directions."""

    @property
    def request_id_header(self) -> str:
        """The response header that identifies a request for the provider's support."""

    @property
    def address_settings(self) -> str:
        """What to check if the provider answers that there is nothing at the address."""

    def request(self, chat: ChatRequest, model: str) -> UpstreamRequest:
        """What to send. `model`: one of the provider's names."""
