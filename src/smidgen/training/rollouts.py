"""Rollouts: groups of a model's own answers, their rewards and advantages.

The advantage of an answer is its reward minus the mean of its group, divided by a standard deviation
(https://arxiv.org/abs/2402.03300, with the sample deviation and 10⁻⁴ in the divisor as in TRL) or not
(https://arxiv.org/abs/2503.20783).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np

from smidgen.training.batches import TrainBatch, TrainRow

Scale = Literal["group", "batch", "none"]
SMALLEST_DEVIATION = 1e-4
"""Added to the deviation that advantages are divided by."""


@dataclass(frozen=True, eq=False)
class Rollout:
    """One sampled answer.

    Attributes:
        row: the prompt and the answer as token ids; the loss mask covers the answer.
        logprobs: (n,) float32, natural-log probability of each token of the answer when it was sampled, at
            temperature 1.
        reward: its reward.
        truncated: whether it was cut off.
        old: (n,) float32, those in training, without dropout and at the temperature of the sampling; None if
            only the step itself computes them.
        gap: (n,) float32, those in training minus those when it was sampled, at temperature 1; None with
            `old`.
    """

    row: TrainRow
    logprobs: np.ndarray
    reward: float
    truncated: bool
    old: np.ndarray | None = None
    gap: np.ndarray | None = None

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values, from which `from_json` makes an equal one."""
        return {
            "id": self.row.id,
            "prompt": len(self.row) - len(self.logprobs),
            "token_ids": self.row.token_ids.tolist(),
            "logprobs": self.logprobs.tolist(),
            "reward": self.reward,
            "truncated": self.truncated,
            "old": None if self.old is None else self.old.tolist(),
            "gap": None if self.gap is None else self.gap.tolist(),
        }

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> "Rollout":
        """Read what `to_json` returned."""
        text = sampled_row(row["id"], row["token_ids"], row["prompt"])
        logprobs, old, gap = (
            None if row[name] is None else np.array(row[name], np.float32)
            for name in ("logprobs", "old", "gap")
        )
        assert logprobs is not None
        return cls(text, logprobs, row["reward"], row["truncated"], old, gap)


def sampled_row(name: str, token_ids: Sequence[int], prompt_tokens: int) -> TrainRow:
    """Return the row of a prompt with its answer, which alone is in the loss."""
    mask = np.arange(len(token_ids)) >= prompt_tokens
    return TrainRow(np.array(token_ids, np.int32), mask, id=name)


def advantages_of(groups: Sequence[Sequence[float]], scale: Scale) -> list[np.ndarray]:
    """Return the advantages (n,) float64 of each group of rewards (n,)."""
    rewards = [np.array(group, np.float64) for group in groups]
    whole = np.std(np.concatenate(rewards), ddof=1)
    found = []
    for group in rewards:
        deviation = np.std(group, ddof=1) if scale == "group" else whole
        divisor = 1.0 if scale == "none" else deviation + SMALLEST_DEVIATION
        found.append((group - group.mean()) / divisor)
    return found


def has_variance(group: Sequence[Rollout]) -> bool:
    """Whether the rewards of a group differ, so that there is something to learn from it."""
    return not np.isclose(np.std([rollout.reward for rollout in group]), 0.0)


class Sampled(NamedTuple):
    """Answers to some prompts.

    Attributes:
        groups: the answers of each prompt, or group of prompts.
        figures: means over all of them, by name.
    """

    groups: list[list[Rollout]]
    figures: Mapping[str, float]


class Roller(Protocol):
    """What a batch source needs of the model that is trained."""

    num_prompts: int
    """Number of prompts, or of groups of prompts that are asked together."""

    def sample(self, prompts: Sequence[int], seed: int, step: int) -> Sampled:
        """Return answers of the model as it is to the prompts of these numbers, for an optimiser step."""
        ...

    def logprobs(self, batch: TrainBatch) -> np.ndarray:
        """Return log-probabilities of all answers in training, without dropout, (2, T) float32.

        The first are those at the temperature of the sampling, the second those at temperature 1.
        """
        ...
