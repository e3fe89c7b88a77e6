"""Token counts in OpenAI's form: whole numbers, always.

https://platform.openai.com/docs/api-reference/chat/object#chat/object-usage
"""

from typing import Any

from proxy import strict_json
from proxy.strict_json import JSON

_MOST = 10**15  # tokens; a larger number is no count, and could be thousands of digits long
_COUNTS = ("prompt_tokens", "completion_tokens", "total_tokens")


def counted(raw: JSON | None) -> JSON:
    """`usage` with three whole numbers, zeros where a count is missing, and its other keys."""
    raw = raw or {}
    prompt = _count(raw.get("prompt_tokens") or raw.get("input_tokens"))
    completion = _count(raw.get("completion_tokens") or raw.get("output_tokens"))
    total = _count(raw.get("total_tokens")) or prompt + completion
    counts = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": total}
    return strict_json.others(raw, {"input_tokens", "output_tokens"}) | counts


def _count(value: Any) -> int:
    is_count = type(value) in (int, float) and 0 <= value <= _MOST  # no bool, NaN or Infinity
    return int(value) if is_count else 0


class AnswerUsage:
    """The usage of one answer, from events that have all of it, all so far, or an increment."""

    def __init__(self) -> None:
        self.final: JSON | None = None
        self.last = self.sum = counted(None)

    def add(self, raw: JSON, *, is_final: bool) -> None:
        """`is_final`: the event has no choices, so it is about the whole answer."""
        used = counted(raw)
        if is_final and used["total_tokens"]:
            self.final = used
        elif used["total_tokens"]:
            self.sum = used | {name: self.sum[name] + used[name] for name in _COUNTS}
            self.last = used

    def total(self) -> JSON:
        """All tokens. Events that all have the prompt's tokens count so far; others add up."""
        return self.final or (self.last if self.last["prompt_tokens"] else self.sum)
