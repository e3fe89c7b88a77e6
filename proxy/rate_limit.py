"""How often each key may be used: the `limits` library counts, in this process or in Redis."""

import time
from math import ceil

from limits import parse
from limits.storage import storage_from_string
from limits.strategies import FixedWindowRateLimiter

from proxy.errors import CallerError
from proxy.request_log import logger
from proxy.settings import RateLimit

PAUSE = 5.0  # seconds until a Redis that did not answer is asked again


class Counter:
    """Counts the requests of each key."""

    def __init__(self, limit: RateLimit) -> None:
        self._rate = parse(limit.rate)
        # A Redis that is down must not hold up requests: at most a second for each wait.
        options = {"socket_timeout": 1, "socket_connect_timeout": 1}
        storage = storage_from_string(limit.storage, key_prefix="llm-proxy", **options)
        self._limiter = FixedWindowRateLimiter(storage)
        self._asks_again_at = 0.0

    def count(self, key: str) -> None:
        """Count a request of the key of this name. Raises CallerError over the limit.

        If Redis does not answer, that is logged, and requests pass until it is asked again.
        """
        if time.monotonic() < self._asks_again_at:
            return
        try:
            if self._limiter.hit(self._rate, key):
                return
            reset_time = self._limiter.get_window_stats(self._rate, key).reset_time
        except Exception as error:
            self._asks_again_at = time.monotonic() + PAUSE
            message = "RATE_LIMIT_STORAGE: cannot be used (%s); no limit for %g seconds"
            logger.warning(message, type(error).__name__, PAUSE)
            return
        wait = max(1, ceil(reset_time - time.time()))
        message = f"This key is over its rate limit; try again in {wait} seconds."
        raise CallerError("rate_limited", message, retry_after=wait)
