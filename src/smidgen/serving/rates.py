"""Rate limits by token buckets: a client may do so much a minute, and as much at once as it has not used."""

import math
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

BURST = 10.0
"""Seconds whose tokens a client may take at once."""
MOST_CLIENTS = 10_000
"""Clients that are remembered; of more, the one that was idle for the longest is forgotten."""


@dataclass
class _Bucket:
    tokens: float
    filled: float


class Buckets:
    """A bucket for every client, into which `per_minute` tokens flow evenly."""

    def __init__(self, per_minute: float, clock: Callable[[], float] = time.monotonic):
        """Begin with full buckets, which hold the tokens of `BURST` seconds, but at least one."""
        assert per_minute > 0, per_minute
        self._per_second = per_minute / 60
        self._burst = max(1.0, BURST * self._per_second)
        self._clock = clock
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def take(self, client: str) -> int:
        """Take a token and return 0, or return the whole seconds until there is one."""
        bucket = self._filled(client)
        if bucket.tokens >= 1:
            bucket.tokens -= 1
            return 0
        return max(1, math.ceil((1 - bucket.tokens) / self._per_second))

    def _filled(self, client: str) -> _Bucket:
        now = self._clock()
        bucket = self._buckets.setdefault(client, _Bucket(self._burst, now))
        bucket.tokens = min(self._burst, bucket.tokens + (now - bucket.filled) * self._per_second)
        bucket.filled = now
        self._buckets.move_to_end(client)
        if len(self._buckets) > MOST_CLIENTS:
            self._buckets.popitem(last=False)
        return bucket
