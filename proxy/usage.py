"""Token counts, made whole: OpenAI's `usage`.

https://platform.openai.com/docs/api-reference/chat/object#chat/object-usage
"""

from typing import Any

from proxy.strict_json import JSON


def counted(raw: JSON | None) -> JSON:
    """Three whole numbers, always, with the details where there are any; zeros for nothing."""
    raw = raw or {}
    prompt = _count(raw.get("prompt_tokens", raw.get("input_tokens")))
    answer = _count(raw.get("completion_tokens", raw.get("output_tokens")))
    total = _count(raw.get("total_tokens")) or prompt + answer
    details = {
        name: value
        for name, value in raw.items()
        if name.endswith("_tokens_details") and isinstance(value, dict)
    }
    used = {"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": total}
    return used | details


def _count(value: Any) -> int:
    return max(0, int(value)) if isinstance(value, int | float) else 0


class OfAnswer:
    """The usage of an answer, from events that tell all of it, all so far, or an increment."""

    def __init__(self) -> None:
        self.final: JSON | None = None
        self.last = self.sum = counted(None)

    def add(self, used: JSON, *, is_final: bool) -> None:
        if is_final:
            self.final = used if used["total_tokens"] else self.final
        else:
            self.sum = used | {name: self.sum[name] + used[name] for name in counted(None)}
            self.last = used

    def total(self) -> JSON:
        # Increments tell the prompt once, in the first event; counts so far tell it in each.
        return self.final or (self.last if self.last["prompt_tokens"] else self.sum)
