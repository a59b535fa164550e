"""Rate limits by token buckets: a client may do so much a minute, and as much at once as it has not used."""

import math
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

MOST_CLIENTS = 10_000
"""Clients that are remembered; of more, the one that was idle for the longest is forgotten."""


@dataclass
class _Bucket:
    tokens: float
    filled: float


class Buckets:
    """A bucket for every client; `per_minute` tokens flow into each, up to `burst`."""

    def __init__(
        self, per_minute: float, burst: int | None = None, clock: Callable[[], float] = time.monotonic
    ):
        """Begin with full buckets.

        Args:
            per_minute: tokens that a client gets a minute.
            burst: tokens that a bucket holds; those of ten seconds, but at least 1, if None.
            clock: what tells the time, in seconds.
        """
        assert per_minute > 0, per_minute
        self._per_second = per_minute / 60
        self._burst = burst or max(1, round(per_minute / 6))
        self._clock = clock
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def seconds_until(self, client: str) -> int:
        """Return 0 if a client has a token, else the whole seconds until it has one again."""
        lacking = 1 - self._filled(client).tokens
        return 0 if lacking <= 0 else max(1, math.ceil(lacking / self._per_second))

    def take(self, client: str) -> int:
        """Take a token if there is one, and return what `seconds_until` said before."""
        seconds = self.seconds_until(client)
        if seconds == 0:
            self._buckets[client].tokens -= 1
        return seconds

    def _filled(self, client: str) -> _Bucket:
        now = self._clock()
        bucket = self._buckets.setdefault(client, _Bucket(self._burst, now))
        bucket.tokens = min(self._burst, bucket.tokens + (now - bucket.filled) * self._per_second)
        bucket.filled = now
        self._buckets.move_to_end(client)
        if len(self._buckets) > MOST_CLIENTS:
            self._buckets.popitem(last=False)
        return bucket
