"""The reward of answers, as a recipe puts it together: `Σ weight · part - length penalty`.

An answer that the task cannot read must never be worth more than one that it can. So it gets 0 or, where that
is less, the lowest reward of the readable answers of its group; its length does not count.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from smidgen.config import GrpoConfig
from smidgen.tasks.rewards import Answered, find_reward
from smidgen.tasks.task import Task


class Rewarded(NamedTuple):
    """The rewards of a group.

    Attributes:
        totals: (n,) float64.
        parts: the unweighted parts by name, each (n,) float64.
    """

    totals: np.ndarray
    parts: Mapping[str, np.ndarray]


class Rewarding:
    """Rewards the answers to one task's samples.

    Raises:
        ConfigError: a part is not known to the task, or cannot be loaded.
    """

    def __init__(self, task: Task, config: GrpoConfig) -> None:
        self._config = config
        self._parts = {part.name: find_reward(part.name, task.rewards) for part in config.rewards}

    def of(self, group: Sequence[Answered]) -> Rewarded:
        """Return the rewards of the answers of a group."""
        parts = {name: np.array(part(group), np.float64) for name, part in self._parts.items()}
        parsed = np.array([answer.score.parsed for answer in group], np.float64)
        totals = sum(
            (part.weight * parts[part.name] for part in self._config.rewards),
            np.zeros(len(group), np.float64),
        )
        tokens = np.array([len(answer.completion.token_ids) for answer in group])
        totals = totals - self._config.length_penalty * tokens / self._config.max_completion_length
        if self._config.format_gate:
            readable = parsed > 0
            totals = np.where(readable, totals, totals.min(initial=0.0, where=readable))
        return Rewarded(totals, {**parts, "parsed": parsed})
