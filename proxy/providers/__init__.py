"""What a provider is: four translations, values in and values out. None of them sends anything."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from proxy import strict_json
from proxy.chat_answer import Part
from proxy.chat_request import ChatRequest
from proxy.errors import ProxyError
from proxy.strict_json import JSON


@dataclass(frozen=True)
class UpstreamRequest:
    """A POST to send. `ignored` names what the caller sent and this provider cannot use."""

    url: str
    headers: dict[str, str] = field(repr=False)  # one of them is the key
    body: bytes = field(repr=False)
    ignored: tuple[str, ...] = ()


@dataclass(frozen=True)
class Refusal:
    """An answer that is none: its status, and as much of the rest as is known."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)  # names in any case
    body: bytes = b""

    def json(self) -> Any:
        """The body, or None where it is not JSON."""
        try:
            return strict_json.loads_upstream(self.body)
        except strict_json.InvalidJSON:
            return None


class Provider(Protocol):
    """One way to speak to a model. Configured once, then shared by all requests."""

    @property
    def name(self) -> str:
        """What LLAMA_PROVIDER calls it."""

    @property
    def key(self) -> str:
        """Tier 2; empty where none is sent."""

    @property
    def models(self) -> Collection[str]:
        """The public names, the default first."""

    @property
    def token_limit(self) -> int | None:
        """Tokens at which an answer is cut off without a word, where the caller sets no limit."""

    @property
    def request_id_header(self) -> str:
        """Where it names its side of a request, for asking its support."""

    def request(self, chat: ChatRequest) -> UpstreamRequest:
        """What to send."""

    def part(self, chat: ChatRequest, frame: JSON) -> Part:
        """What a whole answer, or the JSON of one event, says. Raises ProxyError."""

    def error(self, chat: ChatRequest, refusal: Refusal) -> ProxyError:
        """Whose fault a refusal is."""
