"""Batches of rollouts: the model as it is answers the prompts of every step.

The place in the prompts, and the answers that more steps are taken on, are all of the position: a resumed run
samples the same answers.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from smidgen.config import GrpoConfig
from smidgen.training.answers_batch import AnswersBatch
from smidgen.training.batches import TrainBatch, pad
from smidgen.training.rollouts import Roller, Rollout, Sampled, advantages_of, has_variance
from smidgen.training.shared_prefix import prompt_tokens, share_prefixes


class Answer(NamedTuple):
    """An answer with its advantage, and the factor on its loss."""

    rollout: Rollout
    advantage: float
    weight: float = 1.0


@dataclass(frozen=True, eq=False)
class RolloutBatch(AnswersBatch):
    """Answers for one forward pass. T is the number of their tokens, in the order of `answers.rows`.

    Attributes:
        answers: the rows of the answers.
        advantages: (T,) float32, that of the answer of each token.
        logprobs: (T,) float32, log-probabilities when the answers were sampled, at temperature 1.
        old: (T,) float32, log-probabilities in training before the first step on these answers, without
            dropout and at the temperature of the sampling; None if only the step itself computes them.
        gap: (T,) float32, those minus `logprobs`, both at temperature 1; None with `old`.
        weights: (T,) float32, factor on the loss of each token.
        weight: divisor of the sum; all batches of a step together have that of all its answers.
        is_first: whether this is the first step on these answers, so that all ratios are 1.
    """

    answers: TrainBatch
    advantages: np.ndarray
    logprobs: np.ndarray
    old: np.ndarray | None
    gap: np.ndarray | None
    weights: np.ndarray
    weight: float
    is_first: bool = True

    def singly(self) -> Iterator[tuple[str, "RolloutBatch"]]:
        """Yield the name of every answer and a batch of it alone."""
        start = 0
        for name, alone in self.answers.singly():
            part = slice(start, start + alone.trained_tokens)
            start = part.stop
            old, gap = (None if values is None else values[part] for values in (self.old, self.gap))
            own = self.advantages[part], self.logprobs[part], old, gap, self.weights[part]
            yield name, RolloutBatch(alone, *own, self.weight, self.is_first)


class RolloutBatches:
    """A batch source that asks the model as it is for the answers of every step, resumable exactly.

    An answer from which nothing can be learnt (without an advantage or a divergence to measure, or masked)
    takes no pass, but counts in the divisor.
    """

    def __init__(self, roller: Roller, config: GrpoConfig, *, share: bool = False) -> None:
        """Ask a model.

        Args:
            roller: the model.
            config: the training.
            share: whether answers to one prompt share its tokens in a pass; the architecture must allow it.
        """
        self._roller, self._config = roller, config
        self._collate = share_prefixes if share else pad
        self._step = self._drawn = 0
        self._groups: list[list[Rollout]] = []
        self._figures: Mapping[str, float] = {}
        self.num_steps = config.steps

    def next_step(self) -> list[RolloutBatch]:
        """Return the batches of the next optimiser step; every `num_iterations` steps, of new answers."""
        iteration = self._step % self._config.num_iterations
        if iteration == 0:
            self._groups, self._figures = self._sampled()
        self._step += 1
        return self._batches(is_first=iteration == 0)

    def epoch(self) -> float:
        """Return the number of passes over the prompts so far."""
        return self._drawn / self._roller.num_prompts

    def figures(self) -> Mapping[str, float]:
        """Return the figures of the answers of the last step."""
        return self._figures

    def state(self) -> dict[str, Any]:
        """Return the position as JSON values, with the answers if there are more steps on them."""
        state: dict[str, Any] = {"step": self._step, "drawn": self._drawn}
        if self._step % self._config.num_iterations:
            state["groups"] = [[rollout.to_json() for rollout in group] for group in self._groups]
            state["figures"] = dict(self._figures)
        return state

    def restore(self, state: dict[str, Any]) -> None:
        """Restore a position that `state` returned."""
        self._step, self._drawn = state["step"], state["drawn"]
        self._groups = [[Rollout.from_json(row) for row in group] for group in state.get("groups", ())]
        self._figures = state.get("figures", {})

    def _sampled(self) -> Sampled:
        """Return the groups of the next steps, those without variance replaced as often as is wished."""
        groups, figures = self._draw(self._config.groups_per_step)
        resampled = 0
        for _ in range(self._config.resample):
            useful = [group for group in groups if has_variance(group)]
            if not (lacking := len(groups) - len(useful)):
                break
            more = self._draw(lacking).groups
            resampled += lacking
            rest = [group for group in groups if not has_variance(group)]
            groups = (useful + sorted(more, key=lambda group: not has_variance(group)) + rest)[: len(groups)]
        if self._config.resample:
            figures = {**figures, "resampled_groups": float(resampled)}
        return Sampled(self._scored(groups) if self._scores else groups, figures)

    def _draw(self, count: int) -> Sampled:
        """Return groups of answers to the next prompts, which are shuffled anew in every epoch."""
        numbers, total = range(self._drawn, self._drawn + count), self._roller.num_prompts
        orders = {
            epoch: np.random.default_rng([self._config.seed, epoch]).permutation(total)
            for epoch in {number // total for number in numbers}
        }
        prompts = [int(orders[number // total][number % total]) for number in numbers]
        sampled = self._roller.sample(prompts, self._config.seed * 1_000_003 + self._drawn, self._step + 1)
        self._drawn += count
        return sampled

    @property
    def _scores(self) -> bool:
        """Whether the probabilities in training are needed besides those that a first step computes."""
        config = self._config
        return config.num_iterations > 1 or (config.lora is not None and config.lora.dropout > 0)

    def _scored(self, groups: list[list[Rollout]]) -> list[list[Rollout]]:
        """Return the groups with their log-probabilities in training."""
        flat = [rollout for group in groups for rollout in group]
        found: dict[int, np.ndarray] = {}
        for start in range(0, len(flat), self._config.batch_size):
            batch = self._collate([one.row for one in flat[start : start + self._config.batch_size]])
            ends = np.cumsum([row.trained_tokens for row in batch.rows])[:-1]
            parts = np.split(self._roller.logprobs(batch), ends, axis=1)
            found |= {id(row): part for row, part in zip(batch.rows, parts, strict=True)}

        def scored(rollout: Rollout) -> Rollout:
            old, plain = found[id(rollout.row)]
            return replace(rollout, old=old, gap=plain - rollout.logprobs)

        return [[scored(rollout) for rollout in group] for group in groups]

    def _batches(self, *, is_first: bool) -> list[RolloutBatch]:
        config = self._config
        advantages = advantages_of(
            [[one.reward for one in group] for group in self._groups], config.scale_rewards
        )
        answers = [
            Answer(rollout, float(advantage))
            for group, values in zip(self._groups, advantages, strict=True)
            for rollout, advantage in zip(group, values, strict=True)
        ]
        masked = config.mask_truncated_completions
        counted = [one for one in answers if not (masked and one.rollout.truncated)]
        learnt = [one for one in counted if one.advantage or config.beta]
        if not learnt:  # a step needs a batch, also one that changes nothing
            learnt = [answers[0]._replace(weight=0.0)]
        ordered = _by_prompt(learnt)
        parts = [ordered[i : i + config.batch_size] for i in range(0, len(ordered), config.batch_size)]
        weight = divisor(config, len(answers), sum(one.rollout.row.trained_tokens for one in counted))
        return [
            rollout_batch(
                part,
                self._collate([one.rollout.row for one in part]),
                weight=weight / len(parts),
                by_answer=config.loss_type == "grpo",
                is_first=is_first,
            )
            for part in parts
        ]


def _by_prompt(answers: Sequence[Answer]) -> list[Answer]:
    """Return the answers to each prompt one after the other, those of long prompts last."""

    def key(answer: Answer) -> tuple[int, bytes]:
        row = answer.rollout.row
        size = prompt_tokens(row)
        return size, row.token_ids[:size].tobytes()

    return sorted(answers, key=key)


def divisor(config: GrpoConfig, answers: int, tokens: int) -> float:
    """Return what the sum of the losses of a step is divided by.

    Args:
        config: the loss.
        answers: number of all answers of the step.
        tokens: number of their tokens, without those of masked answers.
    """
    if config.loss_type == "dapo":
        return max(1, tokens)
    return answers * (config.max_completion_length if config.loss_type == "dr_grpo" else 1)


def rollout_batch(
    answers: Sequence[Answer], rows: TrainBatch, *, weight: float, by_answer: bool, is_first: bool
) -> RolloutBatch:
    """Return the batch of some answers.

    Args:
        answers: the answers with their advantages.
        rows: a batch of their rows, in any order.
        weight: the share of the batch in the divisor of the step.
        by_answer: whether every answer counts the same, however long it is.
        is_first: whether this is the first step on these answers.
    """
    of_row = {id(one.rollout.row): one for one in answers}
    ordered = [of_row[id(row)] for row in rows.rows]
    lengths = [len(one.rollout.logprobs) for one in ordered]

    def each(values: Sequence[float]) -> np.ndarray:
        return np.repeat(np.array(values, np.float32), lengths)

    def joined(arrays: Sequence[np.ndarray | None]) -> np.ndarray | None:
        known = [array for array in arrays if array is not None]
        return np.concatenate(known) if len(known) == len(arrays) else None

    return RolloutBatch(
        rows,
        each([one.advantage for one in ordered]),
        np.concatenate([one.rollout.logprobs for one in ordered]),
        joined([one.rollout.old for one in ordered]),
        joined([one.rollout.gap for one in ordered]),
        each(
            [one.weight / (length if by_answer else 1) for one, length in zip(ordered, lengths, strict=True)]
        ),
        weight,
        is_first,
    )
