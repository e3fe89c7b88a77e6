"""What a refusal means, where the provider's own codes do not say more.

Of the provider's prose only facts are taken: numbers, and a JSON pointer.
"""

import re
from collections.abc import Mapping
from itertools import takewhile

from proxy.chat_request import PARAMETERS
from proxy.errors import CallerError, ProviderError
from proxy.providers import Refusal

_BY_STATUS = {
    401: "provider_auth_failed",
    402: "provider_quota_exhausted",
    403: "provider_auth_failed",
    404: "provider_not_found",
    405: "provider_not_found",
    408: "provider_timeout",
    410: "provider_model_unavailable",
    429: "provider_rate_limited",
    524: "provider_timeout",
}


def by_status(refusal: Refusal, *, complete: bool, seen: str) -> ProviderError:
    """`complete`: it came from the provider itself, so the model is not at work any more.

    An edge's own page for a 5xx does not tell that: a retry might be billed a second time.
    """
    code = _BY_STATUS.get(refusal.status)
    if code is None:
        code = "provider_failed" if refusal.status >= 500 else "provider_bad_answer"
    retry = complete if code == "provider_failed" else None
    return ProviderError(code, retry=retry, retry_after=retry_after(refusal.headers), seen=seen)


def retry_after(headers: Mapping[str, str]) -> int | None:
    """Seconds, up to a day; None where the header is absent, a date, or not sane."""
    value = headers.get("Retry-After") or ""
    sane = re.fullmatch("[0-9]{1,5}", value) and 0 < int(value) <= 86400
    return int(value) if sane else None


_LIMIT = re.compile(r"(?:context length (?:of|is)|limit|context size) \(?([0-9]{1,9})\b")
_NEEDED = re.compile(r"(?:tokens \(|total of |requested |resulted in )([0-9]{1,9})\b")


def context_exceeded(message: str) -> CallerError:
    """The prompt and the answer do not fit, with the numbers that the provider told."""
    limit, needed = _LIMIT.search(message), _NEEDED.search(message)
    # LangChain tells this failure by the words "prompt is too long", and not by the code.
    tells = (
        "The prompt is too long: the messages and the answer's max_tokens do not fit "
        "the model's context window"
    )
    if limit:
        tells += f" of {limit[1]} tokens"
    if needed:
        tells += f" ({needed[1]} were asked for)"
    advice = "shorten the messages, or lower max_tokens."
    return CallerError("context_length_exceeded", f"{tells}; {advice}", param="messages")


_POINTER = re.compile(r"'/([a-z_]{1,40}(?:/[a-z_0-9]{1,40})*)")
_LISTS = ("messages", "tools")  # the steps below are ours there; elsewhere the caller's own names


def rejected_input(message: str, param: object = None) -> CallerError:
    """The provider found the request invalid, and perhaps said where: in OpenAI's `param`, or in
    prose with a JSON pointer."""
    pointers = [str(param).replace("[", "/").replace("]", "").replace(".", "/")] if param else []
    pointers += _POINTER.findall(message)
    place = next(filter(None, map(_place, pointers)), None)
    where = f"'{place}'" if place else "the messages and parameters"
    tells = f"The provider rejected the request as invalid; check {where} against the model."
    return CallerError("provider_rejected_input", tells, param=place)


def _place(pointer: str) -> str | None:
    """`messages/0/content` as `messages[0].content`; None where it is no place in a request."""
    first, *steps = pointer.split("/")
    if first not in PARAMETERS:
        return None
    if first not in _LISTS or not steps or not re.fullmatch("[0-9]{1,6}", steps[0]):
        return first
    names = takewhile(re.compile("[a-z_]{1,40}").fullmatch, steps[1:3])
    return ".".join([f"{first}[{steps[0]}]", *names])
