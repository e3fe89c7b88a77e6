"""How often each key may be used: Flask-Limiter counts, in this process or in Redis.

Imported only where RATE_LIMIT is set: its packages are those of requirements-limits.txt.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from math import ceil

from flask import Flask, g
from flask_limiter import Limiter, RateLimitExceeded

from proxy.config import RateLimit
from proxy.errors import CallerError
from proxy.request_log import logger

PAUSE = 5.0  # seconds in which a Redis that did not answer is not asked again
REDIS_TIMEOUT = 1  # second for each wait: a Redis that is down must not hold up requests


def counter(app: Flask, limit: RateLimit) -> Callable[[], None]:
    """What counts a request of the key in `g.entry`. It raises CallerError over the limit.

    Where Redis does not answer, the log says so, and requests pass until it is asked again.
    """
    options: dict[str, str | int] = {}
    if limit.storage.startswith("redis"):
        options = dict.fromkeys(("socket_timeout", "socket_connect_timeout"), REDIS_TIMEOUT)
    limiter = Limiter(
        key_func=lambda: g.entry.key,
        app=app,
        storage_uri=limit.storage,
        key_prefix="llm-proxy",
        storage_options=options,
    )

    @limiter.limit(limit.rate)
    def hit() -> None:
        """Flask-Limiter counts the calls of what it decorates."""

    asks_again_at = 0.0

    def count() -> None:
        nonlocal asks_again_at
        if time.monotonic() < asks_again_at:
            return
        try:
            with suppress(RateLimitExceeded):
                hit()
                return
            wait = _wait(limiter)
        except Exception as error:
            asks_again_at = time.monotonic() + PAUSE
            tells = "RATE_LIMIT_STORAGE: not reached (%s); requests pass for %g seconds"
            logger.warning(tells, type(error).__name__, PAUSE)
            return
        raise CallerError.rate_limited(wait)

    return count


def _wait(limiter: Limiter) -> int:
    """Seconds until the window is over."""
    breached = limiter.current_limit
    assert breached  # the limit that was exceeded
    return max(1, ceil(breached.window.reset_time - time.time()))
