"""The facts of a refusal that reach the caller: numbers, a place in the request, a waiting time.

The provider's prose does not: it may quote the caller's text, or name the provider's account.
"""

import re
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from itertools import takewhile
from math import ceil

from proxy.chat_request import PARAMETERS
from proxy.errors import CallerError
from proxy.strict_json import JSON

_NAMED = (
    r"(?:context (?:length|window|size)|max(?:imum)?[ _](?:allowed )?(?:\w+[ _])?len(?:gth)?"
    r"|maximum (?:input |prompt )?tokens|token limit|number of (?:\w+ )?tokens|tokens? allowed"
    r"|n_ctx)\b(?! by)"
)
_LIMITS = [  # the surest first
    re.compile(pattern, re.I)
    for pattern in (
        r"[0-9] ?(?:tokens? )?> ?([0-9]{3,9})\b(?! ?-)",
        rf"{_NAMED}(?:(?!exceed)[^0-9\n]){{0,24}}?([0-9]{{3,9}})\b",
        r"\blimit(?: of| is|:)? ([0-9]{3,9})\b",
        r"\b(?:less|fewer|more) than ([0-9]{3,9}) tokens|<= ?([0-9]{3,9})\b|\[1, ?([0-9]{3,9})\]",
        r"\b([0-9]{3,9}) (?:tokens? )?(?:maximum|max|limit|context)",
        r"\b(?:up to|exceed) ([0-9]{3,9})\b",
    )
]
_NEEDED = re.compile(
    r"\b([0-9]{3,9}) ?(?:tokens? )?> ?[0-9]+(?![0-9]| ?-)"
    r"|\(([0-9]{3,9}) (?:tokens\) exceed|were asked)"
    r"|(?:tokens? \(|total of |requested(?::| about)? |resulted in |contains |given:? |length \("
    r"|length is |length |count of |count \(|count is |input \(|has |with |received |too long: )"
    r"([0-9]{3,9})\b(?!\.[0-9]| ?>)",
    re.I,
)


def context_exceeded(prose: str) -> CallerError:
    """The error for a context that is too long. It has the numbers only if they are certain."""
    limits = (found for pattern in _LIMITS if (found := pattern.search(prose)))
    limit = next((_number(found) for found in limits), 0)
    needed = next((n for n in map(_number, _NEEDED.finditer(prose)) if n > limit), 0)
    # LangChain recognizes this error by the words "prompt is too long", and not by the code.
    message = (
        "The prompt is too long: the messages and the answer's max_tokens do not fit "
        "the model's context window"
    )
    if limit:
        message += f" of {limit} tokens"
    if limit and needed:
        message += f" ({needed} were asked for)"
    advice = "shorten the messages, or lower max_tokens."
    return CallerError("context_length_exceeded", f"{message}; {advice}", param="messages")


def _number(found: re.Match[str]) -> int:
    return next(int(number) for number in found.groups() if number)


def rejected_input(entries: list[JSON], prose: str) -> CallerError:
    """The error for an invalid request, with the place if the provider named it."""
    at = place(entries, prose)
    where = f"'{at}'" if at else "the messages and parameters"
    message = f"The provider rejected the request as invalid; check {where} against the model."
    return CallerError("provider_rejected_input", message, param=at)


_POINTER = re.compile(r"'/([a-z_]{1,40}(?:/[a-z_0-9]{1,40}){0,8})")
# Their fields have fixed names; elsewhere a name may be the caller's text.
_LISTS = ("messages", "tools")


def place(entries: list[JSON], prose: str) -> str | None:
    """The place in the request: OpenAI's `param`, FastAPI's `loc`, or a JSON pointer in prose."""
    pointers = [_pointer(str(entry["param"])) for entry in entries if entry.get("param")]
    for entry in entries:
        if isinstance(loc := entry.get("loc"), list):
            pointers.append("/".join(str(step)[:40] for step in loc[:6] if step != "body"))
    return next(filter(None, map(_named, [*pointers, *_POINTER.findall(prose)[:20]])), None)


def is_place(param: str) -> bool:
    """Whether OpenAI's `param` names a place in the request."""
    return _named(_pointer(param)) is not None


def _pointer(param: str) -> str:
    return param[:200].replace("[", "/").replace("]", "").replace(".", "/")


def _named(pointer: str) -> str | None:
    """`messages/0/content` as `messages[0].content`; None if it is no place in a request."""
    first, *steps = pointer.split("/")
    if first not in PARAMETERS:
        return None
    if first not in _LISTS or not steps or not re.fullmatch("[0-9]{1,6}", steps[0]):
        return first
    names = takewhile(re.compile("[a-z_]{1,40}").fullmatch, steps[1:3])
    return ".".join([f"{first}[{steps[0]}]", *names])


def retry_after(headers: Mapping[str, str], now: int) -> int | None:
    """Seconds, rounded up, at most a day; None without a header that makes sense.

    RFC 9110, 10.2.3: a number or a date. Some send a fraction, or `retry-after-ms`.
    """
    if re.fullmatch(r"[0-9]{1,12}(\.[0-9]{1,9})?", text := headers.get("retry-after-ms", "")):
        seconds = ceil(float(text) / 1000)
    elif re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", text := headers.get("Retry-After", "").strip()):
        seconds = ceil(float(text))
    else:
        try:
            seconds = ceil(parsedate_to_datetime(text).replace(tzinfo=UTC).timestamp() - now)
        except ValueError:
            return None
    return min(seconds, 86400) if seconds > 0 else None
