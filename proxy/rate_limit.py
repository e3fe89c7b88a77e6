"""How often each key may be used: Flask-Limiter counts, in this process or in Redis.

Imported only where RATE_LIMIT is set: its packages are those of requirements-limits.txt.
"""

import time
from contextlib import suppress
from math import ceil

from flask import Flask, g
from flask_limiter import Limiter, RateLimitExceeded

from proxy.config import RateLimit
from proxy.errors import CallerError
from proxy.request_log import logger

PAUSE = 5.0  # seconds in which a Redis that did not answer is not asked again
REDIS_TIMEOUT = 1  # second for each wait: a Redis that is down must not hold up requests


class Counter:
    """Counts the requests of each key."""

    def __init__(self, app: Flask, limit: RateLimit) -> None:
        options: dict[str, str | int] = {}
        if limit.storage.startswith("redis"):
            options = dict.fromkeys(("socket_timeout", "socket_connect_timeout"), REDIS_TIMEOUT)
        self._limiter = Limiter(
            key_func=lambda: g.entry.key,
            app=app,
            storage_uri=limit.storage,
            key_prefix="llm-proxy",
            storage_options=options,
        )
        self._hit = self._limiter.limit(limit.rate)(lambda: None)  # it counts the calls of this
        self._asks_again_at = 0.0

    def count(self) -> None:
        """Count a request of the key in `g.entry`. Raises CallerError over the limit.

        Where Redis does not answer, the log says so, and requests pass until it is asked again.
        """
        if time.monotonic() < self._asks_again_at:
            return
        try:
            with suppress(RateLimitExceeded):
                self._hit()
                return
            wait = self._wait()
        except Exception as error:
            self._asks_again_at = time.monotonic() + PAUSE
            tells = "RATE_LIMIT_STORAGE: not reached (%s); requests pass for %g seconds"
            logger.warning(tells, type(error).__name__, PAUSE)
            return
        raise CallerError.rate_limited(wait)

    def _wait(self) -> int:
        """Seconds until the window is over."""
        breached = self._limiter.current_limit
        assert breached  # the limit that was exceeded
        return max(1, ceil(breached.window.reset_time - time.time()))
