"""How far drafts are accepted, and how wide a pass is worth its time."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np

MOST_DRAFT = 64
"""Maximum tokens of a draft."""
PRIOR, WEIGHT = 0.7, 4.0
"""Chance of acceptance, and the number of trials that it counts as, of a source that was not tried yet."""
PRIORS: Mapping[str, float] = {"choice": 0.3, "first": 0.3, "noise": 0.0}
"""The chance by the first word of a source where it differs: untrained models guess badly."""
FADING = 0.98
"""What is known of a source fades with every draft of it that was not run, so that it is tried again."""

WINDOWS = (0, 4, 8, 16, 32, MOST_DRAFT)
STRETCH, REVISIT = 24, 8
"""Passes after which a window is judged, and stretches after which a neighbour of the best is tried again."""
LEAST_SHARE = 0.34
"""Smallest weight of the latest stretch of a window in what is known of it, since acceptance changes."""


class Parts(Protocol):
    """A draft, as far as it matters here: its sources, each with a number of tokens."""

    @property
    def parts(self) -> Sequence[tuple[str, int]]:
        """The sources."""
        ...


class Acceptance:
    """For every source of drafts, the chance that its next token is accepted if all before it were."""

    def __init__(self):
        self._counts: dict[str, np.ndarray] = {}  # (2, MOST_DRAFT): tokens tried, and tokens accepted

    def survival(self, draft: Parts) -> np.ndarray:
        """Return for every token of a draft the chance that it and all before it are accepted."""
        chances = [self._chances(source)[:size] for source, size in draft.parts]
        return np.cumprod(np.concatenate(chances)) if chances else np.zeros(0)

    def expected(self, draft: Parts) -> float:
        """Return the expected number of accepted tokens."""
        return float(self.survival(draft).sum())

    def learn(self, draft: Parts, accepted: int) -> None:
        """Count a verified draft, of which the first tokens were accepted and the next, if any, was not."""
        for source, size in draft.parts:
            tried, right = self._counts_of(source)
            tried[: min(size, accepted + 1)] += 1
            right[: min(size, accepted)] += 1
            accepted -= size
            if accepted < 0:
                break

    def fade(self, draft: Parts) -> None:
        """Let what is known of the sources of a draft fade."""
        for source in {source for source, _ in draft.parts}:
            self._counts_of(source)[:] *= FADING

    def _counts_of(self, source: str) -> np.ndarray:
        return self._counts.setdefault(source, np.zeros((2, MOST_DRAFT)))

    def _chances(self, source: str) -> np.ndarray:
        tried, right = self._counts_of(source)
        prior = PRIORS.get(source.split()[0], PRIOR)
        overall = (right.sum() + WEIGHT * prior) / (tried.sum() + WEIGHT)
        return (right + WEIGHT * overall) / (tried + WEIGHT)


class Windows:
    """How many tokens Jacobi decoding keeps in flight for each row, by what this gave.

    A guess in the window is worth more than its chance of acceptance, since it is refined for later passes.
    So windows are used for a stretch of passes and judged by the tokens per second that they gave: from a
    small one on, its neighbours and theirs as long as they are better. Then the best one is used, and its
    neighbours are tried again from time to time. It depends on the number of rows.
    """

    def __init__(self, fixed: int | None = None):
        """Choose windows, or always give a `fixed` one."""
        self._fixed = fixed
        self._gains: dict[int, dict[int, float]] = {}  # by number of rows, and by window
        self._judged: dict[int, Counter[int]] = {}  # number of stretches, likewise
        self._stretches: dict[int, list[float]] = {}  # the gains of the current stretch
        self._used: dict[int, int] = {}  # the window of the current stretch

    def size(self, num_rows: int) -> int:
        """Return the window for a pass of some rows."""
        return self._fixed if self._fixed is not None else self._used.get(num_rows.bit_length(), WINDOWS[1])

    def gain(self, num_rows: int) -> float:
        """Return the tokens per second of some rows, by those without drafts; 1 before a window is judged."""
        return max(self._gains.get(num_rows.bit_length(), {}).values(), default=1.0)

    def learn(self, num_rows: int, gain: float) -> None:
        """Count a pass of some rows, whose tokens per second were `gain` times those without drafts."""
        load = num_rows.bit_length()
        window, stretch = self._used.get(load, WINDOWS[1]), self._stretches.setdefault(load, [])
        stretch.append(gain)
        if len(stretch) == STRETCH:
            gains, judged = self._gains.setdefault(load, {}), self._judged.setdefault(load, Counter())
            judged[window] += 1
            known, share = gains.get(window, 0.0), max(1 / judged[window], LEAST_SHARE)
            gains[window] = known + share * (sum(stretch) / STRETCH - known)
            stretch.clear()
            self._used[load] = _next_window(gains, judged.total())


def _next_window(gains: Mapping[int, float], number: int) -> int:
    """Return the window after a number of stretches, given the gains of those tried."""
    best = max(gains, key=lambda window: gains[window])
    at = WINDOWS.index(best)
    beside = [window for window in WINDOWS[max(0, at - 1) : at + 2] if window != best]
    if untried := [window for window in beside if window not in gains]:
        return untried[-1 if gains[best] >= 1 else 0]  # a narrower one first if this one costs time
    return best if number % REVISIT else beside[number // REVISIT % len(beside)]


def worthwhile(
    survivals: Sequence[np.ndarray],
    running: int,
    seconds: Callable[[np.ndarray], np.ndarray],
    *,
    padded: bool = False,
    worth: float | None = None,
) -> list[int]:
    """Return how many tokens of each row's draft to run, so that the pass gives most tokens per second.

    Args:
        survivals: for each of B rows, the chance that each token of its draft is accepted, decreasing.
        running: number of tokens that all rows run in any case, B or more.
        seconds: time of passes of given numbers of tokens.
        padded: whether every row of a pass costs as much as the longest.
        worth: seconds that a token takes otherwise; then the pass saves most of them.
    """
    B = len(survivals)
    chances = np.concatenate(survivals)
    sizes = [len(each) for each in survivals]
    rows, depths = np.repeat(np.arange(B), sizes), np.concatenate([np.arange(size) for size in sizes])
    order = np.argsort(-chances, kind="stable")
    gained = np.concatenate([[0.0], np.cumsum(chances[order])])
    if padded:
        tokens = running + B * np.concatenate([[0], np.maximum.accumulate(1 + depths[order])])
    else:
        tokens = running + np.arange(len(gained))
    taken = seconds(tokens)
    best = int(np.argmax((running + gained) / taken if worth is None else worth * gained - taken))
    return np.bincount(rows[order[:best]], minlength=B).tolist()
