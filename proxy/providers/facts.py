"""The facts of a refusal that reach the caller: the numbers of tokens, and a waiting time.

The provider's prose does not: it may quote the caller's text, or name the provider's account.
"""

import re
from collections.abc import Iterator, Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from math import ceil

from proxy.errors import CallerError

_NAMED = (
    r"(?:context (?:length|window|size)|max(?:imum)?[ _](?:allowed )?(?:\w+[ _])?len(?:gth)?"
    r"|maximum (?:input |prompt )?tokens|token limit|max(?:imum)? number of (?:\w+ )?tokens"
    r"|tokens? allowed|n_ctx)\b(?! by)"
)
_LIMITS = (  # the surest first
    r"[0-9] ?(?:tokens? )?> ?([0-9]{3,9})\b(?! ?-)",
    rf"{_NAMED}(?:(?!exceed|request)[^0-9\n]){{0,24}}?([0-9]{{3,9}})\b(?! is (?:great|larg|long))",
    r"\blimit(?: of| is|:)? ([0-9]{3,9})\b",
    r"\b(?:less|fewer|more) than ([0-9]{3,9}) tokens|<= ?([0-9]{3,9})\b|\[1, ?([0-9]{3,9})\]",
    r"\b([0-9]{3,9}) (?:tokens? )?(?:maximum|max|limit|context)",
    r"\b(?:up to|exceed) ([0-9]{3,9})\b",
)
_NEEDED = (
    r"\b([0-9]{3,9}) ?(?:tokens? )?> ?[0-9]+(?![0-9]| ?-)"
    r"|\(([0-9]{3,9}) (?:tokens\) exceed|were asked)"
    r"|(?:tokens? \(|total of |requested(?::| about)? |resulted in |contains |given:? |length \("
    r"|length is |length |count of |count \(|count is |input \(|has |with |received |too long: )"
    r"([0-9]{3,9})\b(?!\.[0-9]| ?>)"
)


def context_exceeded(prose: str) -> CallerError:
    """The error for a context that is too long. It has the numbers only if they are certain."""
    limit = next((n for pattern in _LIMITS for n in _numbers(pattern, prose)), 0)
    needed = next((n for n in _numbers(_NEEDED, prose) if n > limit), 0)
    size = f" of {limit} tokens" if limit else ""
    if limit and needed:
        size += f" ({needed} were asked for)"
    # LangChain recognizes this error by the words "prompt is too long", and not by the code.
    message = (
        "The prompt is too long: the messages and the answer's max_tokens do not fit the model's "
        f"context window{size}; shorten the messages, or lower max_tokens."
    )
    return CallerError("context_length_exceeded", message, param="messages")


def _numbers(pattern: str, prose: str) -> Iterator[int]:
    for found in re.finditer(pattern, prose, re.IGNORECASE):
        yield int("".join(filter(None, found.groups())))


def retry_after(headers: Mapping[str, str], now: int) -> int | None:
    """Seconds, rounded up, at most a day; None without a header that makes sense.

    RFC 9110, 10.2.3: a number or a date. Some send a fraction, or `retry-after-ms`.
    """
    number = re.compile(r"[0-9]{1,12}(\.[0-9]{1,9})?").fullmatch
    text = headers.get("Retry-After", "").strip()
    if number(milliseconds := headers.get("retry-after-ms", "")):
        seconds = float(milliseconds) / 1000
    elif number(text):
        seconds = float(text)
    else:
        try:
            date = parsedate_to_datetime(text)
            seconds = date.replace(tzinfo=date.tzinfo or UTC).timestamp() - now
        except (ValueError, OverflowError):  # a year of 14 digits
            return None
    return min(ceil(seconds), 86400) if seconds > 0 else None
