"""The parts of an answer: `frames` makes them, and `completion` builds the response from them."""

from enum import Enum
from typing import NamedTuple

from proxy.strict_json import JSON
from proxy.tool_calls import Piece


class Mark(Enum):
    """What a stream has between its parts."""

    PAUSE = "all that has arrived so far was read"
    DONE = "[DONE]"


class Part(NamedTuple):  # one for each token, so of the kind that costs least
    """What one event of a stream, or a complete answer, adds; in OpenAI's form."""

    delta: JSON  # of the message, without its tool calls; only `content` may be empty
    calls: list[Piece]
    finish_reason: str | None
    usage: JSON
    choice: JSON  # what stands beside the delta: logprobs, and other keys if they are relayed
    fields: JSON  # other keys beside `choices`, relayed
    has_choices: bool  # it came in OpenAI's form, not in the provider's own
    is_message: bool  # the whole message, not a piece of it
