"""Preference training on pairs of answers without a reward model: DPO and IPO.

The implicit reward of an answer is r = β (log π(answer) - log π_ref(answer)). DPO minimises -ln σ(r_chosen -
r_rejected) (https://arxiv.org/abs/2305.18290); with label smoothing ε, a share ε of it with the pair swapped
(https://ericmitchell.ai/cdpo.pdf). IPO minimises (d - 1/(2β))², where d is the difference of log-ratios per
token (https://arxiv.org/abs/2310.12036, normalised as in TRL).

The reference is the base, so its log-probabilities are the same in every epoch and computed once.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from smidgen.backend import mx, nn
from smidgen.training.answers_batch import AnswersBatch
from smidgen.training.batches import TrainBatch, TrainRow
from smidgen.training.hidden import BodyPass
from smidgen.training.losses import trained_token_losses
from smidgen.training.objectives import Losses
from smidgen.training.row_cache import PendingCache, RowCache, row_key, weights_checksum


@dataclass(frozen=True)
class PreferencePair:
    """Two answers to one prompt, each in a row with the prompt."""

    chosen: TrainRow
    rejected: TrainRow

    def __len__(self) -> int:
        return max(len(self.chosen), len(self.rejected))


@dataclass(frozen=True)
class PairBatch(AnswersBatch):
    """Pairs for one forward pass over both answers of all.

    Attributes:
        answers: the rows of all answers.
        chosen: (pairs,) int32, the place of each chosen answer in `answers.rows`.
        rejected: (pairs,) int32, that of each rejected one.
    """

    answers: TrainBatch
    chosen: np.ndarray
    rejected: np.ndarray


def pair_batch(
    pairs: Sequence[PreferencePair], collate: Callable[[Sequence[TrainRow]], TrainBatch]
) -> PairBatch:
    """Return the batch of some pairs; `collate` makes one of all answers."""
    answers = collate([row for pair in pairs for row in (pair.chosen, pair.rejected)])
    places = {id(row): place for place, row in enumerate(answers.rows)}
    chosen, rejected = (
        np.array([places[id(row)] for row in rows], np.int32)
        for rows in ([pair.chosen for pair in pairs], [pair.rejected for pair in pairs])
    )
    return PairBatch(answers, chosen, rejected)


def answer_logprobs(model: nn.Module, batch: TrainBatch, how: BodyPass | None = None) -> mx.array:
    """Return the log-probability of the trained tokens of each row, (rows,) float32, in nats."""
    lengths = [row.trained_tokens for row in batch.rows]
    rows = mx.array(np.repeat(np.arange(len(lengths)), lengths))
    return mx.zeros(len(lengths)).at[rows].add(-trained_token_losses(model, batch, how))


class Reference:
    """The model that preferences are learnt against, frozen.

    Args:
        model: the base, without an adapter.
        trunk_pass: how its body runs, which may read the states of frozen blocks.
    """

    def __init__(self, model: nn.Module, trunk_pass: BodyPass | None = None) -> None:
        self._model = model
        self._how = BodyPass(trunk=trunk_pass.trunk if trunk_pass else None)
        self._cache: RowCache | None = None

    def logprobs(self, batch: TrainBatch) -> mx.array:
        """Return the log-probability of each row, (rows,) float32, stored ones if there is a cache."""
        if self._cache is None:
            return mx.stop_gradient(answer_logprobs(self._model, batch, self._how))
        found = np.empty(len(batch.rows), np.float32)
        places = [(row_key(row, trained=True), slice(i, i + 1)) for i, row in enumerate(batch.rows)]
        self._cache.fill(found, places, lambda: np.array(answer_logprobs(self._model, batch, self._how)))
        return mx.array(found)

    def pending(self, pairs: Sequence[PreferencePair]) -> PendingCache:
        """Return a cache of the log-probabilities of some pairs."""
        rows = [row for pair in pairs for row in (pair.chosen, pair.rejected)]
        return PendingCache(
            "reference",
            "the log-probabilities of the base",
            "remove other files",
            {row_key(row, trained=True): 1 for row in rows},
            np.dtype(np.float32),
            lambda: weights_checksum([self._model]),
            self._keep,
        )

    def _keep(self, cache: RowCache) -> None:
        self._cache = cache


@dataclass(frozen=True)
class DirectPreference:
    """The loss per pair; metrics are the mean rewards, their margin, and how often it is positive.

    Attributes:
        reference: the base.
        beta: β.
        kind: DPO's loss or IPO's.
        label_smoothing: ε.
        how: how the body of the trained model runs.
    """

    reference: Reference
    beta: float = 0.1
    kind: Literal["sigmoid", "ipo"] = "sigmoid"
    label_smoothing: float = 0.0
    how: BodyPass = field(default_factory=BodyPass)

    def weight(self, batch: PairBatch) -> float:
        """Return the number of pairs."""
        return len(batch.chosen)

    def loss(self, model: nn.Module, batch: PairBatch) -> Losses:
        """Return the sums over the pairs of a batch."""
        reference = self.reference.logprobs(batch.answers)
        ratios = answer_logprobs(model, batch.answers, self.how) - reference
        chosen, rejected = (mx.array(places) for places in (batch.chosen, batch.rejected))
        rewards = mx.stop_gradient(self.beta * ratios)
        margins = rewards[chosen] - rewards[rejected]
        metrics = {
            "chosen_reward": rewards[chosen].sum(),
            "rejected_reward": rewards[rejected].sum(),
            "margin": margins.sum(),
            "preferred": (margins > 0).sum(),
        }
        if self.kind == "ipo":
            ratios = ratios / mx.array([row.trained_tokens for row in batch.answers.rows])
        return Losses(self._losses(ratios[chosen] - ratios[rejected]).sum(), metrics)

    def _losses(self, differences: mx.array) -> mx.array:
        """Return the loss of each pair from the difference of its log-ratios, (pairs,)."""
        if self.kind == "ipo":
            return mx.square(differences - 1 / (2 * self.beta))
        margins, smoothing = self.beta * differences, self.label_smoothing
        return -(1 - smoothing) * nn.log_sigmoid(margins) - smoothing * nn.log_sigmoid(-margins)
