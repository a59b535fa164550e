"""Which request a slot takes next: one that begins as its last one did, so far as there is one."""

import threading
from collections import deque
from collections.abc import Sequence
from itertools import pairwise
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Shares(Generic[Item]):
    """Items in order, split into one contiguous share for each slot; taken from several threads.

    A slot goes through its share from the front, so that what it takes next is a neighbour of what it took
    last. One whose share is done takes over the back half of the longest one that is left.
    """

    def __init__(self, items: Sequence[Item], num_slots: int):
        self._lock = threading.Lock()
        bounds = [len(items) * slot // num_slots for slot in range(num_slots + 1)]
        self._shares = [deque(items[start:stop]) for start, stop in pairwise(bounds)]

    def take(self, slot: int) -> Item | None:
        """Take the next item for `slot`; None if none is left."""
        with self._lock:
            own = self._shares[slot]
            if not own:
                longest = max(self._shares, key=len)
                own.extendleft(longest.pop() for _ in range(-(-len(longest) // 2)))
            return own.popleft() if own else None

    def clear(self) -> None:
        """Take all that is left away."""
        with self._lock:
            for share in self._shares:
                share.clear()
