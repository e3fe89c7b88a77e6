"""The parts of an answer: `frames` makes them, and `completion` builds the response from them."""

from collections.abc import Mapping
from enum import Enum
from types import MappingProxyType
from typing import Any, NamedTuple

from proxy.strict_json import JSON
from proxy.tool_calls import Piece


class Mark(Enum):
    """What a stream has between its parts."""

    PAUSE = "all that has arrived so far was read"
    DONE = "[DONE]"


_NOTHING: Mapping[str, Any] = MappingProxyType({})
FAILED = "error"  # a finish_reason by which the provider reports that it failed


class Part(NamedTuple):  # one for each token, so of the kind that costs least
    """What one event of a stream, or a complete answer, adds. None: it does not have that."""

    content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None
    tool_calls: tuple[Piece, ...] = ()
    finish_reason: str | None = None  # one of OpenAI's, or FAILED
    usage: JSON | None = None
    logprobs: JSON | None = None
    extra: Mapping[str, Any] = _NOTHING  # other keys of the message, relayed
    choice: Mapping[str, Any] = _NOTHING  # other keys of the choice, relayed
    fields: Mapping[str, Any] = _NOTHING  # other keys beside `choices`, relayed
    has_choices: bool = True  # it came in OpenAI's form, not in the provider's own
    is_message: bool = False  # the whole message, not a piece of it

    @property
    def has_output(self) -> bool:
        """An empty string is output of the model."""
        if self.content is not None or self.reasoning or self.refusal or self.extra:
            return True
        return any(piece.name or piece.begins_other for piece in self.tool_calls)

    @property
    def is_text(self) -> bool:
        """Whether it has a piece of the content and nothing else, like most events."""
        return bool(self.content) and not (
            self.finish_reason
            or self.tool_calls
            or self.usage
            or self.reasoning
            or self.refusal
            or self.logprobs
            or self.extra
            or self.choice
            or self.fields
            or self.is_message
        )
