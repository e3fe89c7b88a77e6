"""What a provider is: how to ask it. Answers and refusals are read the same way for all."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import ClassVar

from proxy.chat_request import ChatRequest


@dataclass(frozen=True, repr=False)  # a header holds the key
class UpstreamRequest:
    """A POST to send. `ignored`: the names of parameters that this provider cannot use."""

    url: str
    headers: dict[str, str]
    body: bytes
    ignored: Collection[str] = ()


# What a base URL must not end in: something is appended to it.
ENDPOINT = r"/completions$|/v[0-9][^/]*/(chat|models|messages|responses|embeddings)$"


@dataclass(frozen=True, repr=False)
class Provider(ABC):
    """One way to ask a model. Configured once, then shared by all requests."""

    base_url: str
    key: str  # tier 2; empty where none is sent
    models: Mapping[str, tuple[str, ...]]  # public name, default first -> names to ask

    name: ClassVar[str]  # the value of LLAMA_PROVIDER that chooses it
    request_id_header: ClassVar[str]  # identifies a request for the provider's support
    address_settings: ClassVar[str]  # what to check if it answers that the address is wrong
    token_limit: ClassVar[int | None] = None  # its max_tokens if the caller sets none
    relays_unknown: ClassVar[bool] = True  # relay keys that this proxy does not know

    # Defaults and checks of its settings. A setting without a default is required.
    timeout: ClassVar[int]  # seconds to the first byte
    default_base_url: ClassVar[str] = ""
    default_models: ClassVar[str] = ""
    needs_key: ClassVar[bool] = False
    wrong_url: ClassVar[str]  # the pattern that its base URL must not match
    url_end: ClassVar[str]  # what to do about one that does
    # Of its names for models: printable ASCII without =|, quotes and brackets of placeholders.
    model_name: ClassVar[str] = "[!#-&(-+.-;?-_a-z~-]+"
    withdrawn: ClassVar[frozenset[str]] = frozenset()  # models that are no longer there

    @abstractmethod
    def request(self, chat: ChatRequest, model: str) -> UpstreamRequest:
        """What to send. `model`: one of the provider's names."""
