"""The time of every stage of a recipe, from what it computes and from two measured rates of the device.

Answers are taken to be as long as those of the rows, and as long as they may be where a model need not stop
there: the base that was never trained, and one that thinks first. Beginnings that all prompts share count
once, as the engines compute them; what only some share is counted for each. What models on servers take is
not known. Opening a model takes seconds, which are left out.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from smidgen.backend import Rates, measure_rates
from smidgen.config import DpoConfig, FinetuneConfig, GrpoConfig, SftConfig
from smidgen.models.work import (
    PREFILL_SHARE,
    TRAINING_SHARE,
    Answers,
    answering_seconds,
    forward_operations,
    training_operations,
)
from smidgen.options import EngineOptions
from smidgen.pipeline.asking import PLAIN, Asking
from smidgen.pipeline.budgets import Budgets
from smidgen.pipeline.planned_rows import Prompts
from smidgen.pipeline.task_context import TaskContext
from smidgen.pipeline.task_metric import metric_samples

WRITING = 50e6
"""Lower bound of the bytes of weights per second that are written, read back and compared."""


@dataclass(frozen=True)
class Times:
    """The times of one recipe on a device of some rates; each is in seconds, and None if it is unknown."""

    budgets: Budgets
    rates: Rates

    def training(self) -> float | None:
        """Return the time of the training stage: steps, validations and measurements of the metric."""
        steps, plan = self.steps(), self.budgets.batches.plan
        settings = self.budgets.context.recipe.train
        if steps is not None and isinstance(settings, GrpoConfig):
            return steps + self._sampling(settings) + self._measurements(settings.steps)
        if steps is None or plan is None:  # the validation rows of a document stream are not counted
            return steps
        step = self.budgets.largest_step
        every, tokens = settings.validate_every, self.budgets.batches.validation_tokens
        read = tokens * (1 + (plan.steps // every if every else 0))
        operations = forward_operations(self.budgets.shape, read, 0, step.batch.longest or step.batch.length)
        return steps + operations / (TRAINING_SHARE * self.rates.flops) + self._measurements(plan.steps)

    def steps(self) -> float | None:
        """Return the time of all steps of the training."""
        batches, step = self.budgets.batches, self.budgets.largest_step
        if batches.tokens is None or batches.trained_tokens is None:
            return None
        cached = batches.state_tokens if self.budgets.state_bytes else 0
        operations = training_operations(step, batches.tokens, batches.trained_tokens, first_tokens=cached)
        operations += self._beside(batches.tokens, batches.trained_tokens)
        return operations / (TRAINING_SHARE * self.rates.flops)

    def evaluation(
        self,
        task: TaskContext,
        options: EngineOptions,
        asking: Asking = PLAIN,
        *,
        scores: bool = False,
        ends: bool = False,
        requests: Callable[[], int] | None = None,
    ) -> float | None:
        """Return the time of an evaluation.

        Args:
            task: the task.
            options: the model and its engine.
            asking: how it is asked.
            scores: whether answers are scored instead of written.
            ends: whether answers end as those of the rows do although the model was not trained on them.
            requests: returns the number of answers; default: one for each prompt.
        """
        budgets = self.budgets
        prompts = budgets.prompts(task, asking)
        if prompts.tokens is None:
            return None
        number = prompts.number if requests is None else requests()
        decoding = budgets.decoding(task, options, asking, scores=scores)
        own = prompts.tokens / prompts.number - prompts.shared
        untrained = options == budgets.context.base_engine and not (ends or asking.constrained)
        written = self.written(prompts, asking.max_tokens or decoding.answer, untrained=untrained)
        answers = Answers(
            budgets.shape,
            decoding.weights,
            rows=min(decoding.rows, max(1, number)),
            number=number,
            read=prompts.shared + number * own,
            longest=prompts.longest,
            written=0 if scores else written,
        )
        return answering_seconds(answers, self.rates)

    def written(self, prompts: Prompts, most: int | None = None, *, untrained: bool = False) -> float:
        """Return the mean tokens of an answer of at most `most`, by default those of the evaluations."""
        recipe = self.budgets.context.specialist
        most = most or recipe.evaluate.max_tokens
        open_ended = untrained or recipe.model.thinking
        return most if open_ended or prompts.answer is None else min(most, prompts.answer)

    def asked(
        self, task: TaskContext, options: EngineOptions, max_tokens: int, requests: Callable[[], int]
    ) -> float | None:
        """Return the time in which another model answers; None if it runs elsewhere, 0 for a recording."""
        if options.model.endswith(".jsonl"):
            return 0.0
        other = self.budgets.of_model(options, max_tokens)
        return other and Times(other, self.rates).evaluation(task, options, ends=True, requests=requests)

    def copying(self, times: int) -> float:
        """Return the time in which the weights are read, written and compared several times."""
        shape = self.budgets.shape
        return times * shape.parameters * shape.stored / WRITING

    def reading(self, tokens: int) -> float:
        """Return the time of forward passes over some tokens of the longest rows."""
        length = self.budgets.context.recipe.train.max_length
        return forward_operations(self.budgets.shape, tokens, tokens, length) / (
            PREFILL_SHARE * self.rates.flops
        )

    def _sampling(self, settings: GrpoConfig) -> float:
        """Return the time in which the model answers, as long as it may, what it is then trained on."""
        context = self.budgets.context
        options = replace(context.base_engine, engine="mlx", batch_size=settings.rollout_batch_size)
        draws = math.ceil(settings.steps / settings.num_iterations)
        answers = draws * settings.groups_per_step * settings.num_generations // len(context.tasks)
        asking = Asking(max_tokens=settings.max_completion_length)
        found = [self.evaluation(task, options, asking, requests=lambda: answers) for task in context.tasks]
        return sum(one or 0.0 for one in found)

    def _measurements(self, steps: int) -> float:
        """Return the time of all measurements of the task's metric."""
        context = self.budgets.context
        settings = context.recipe.train
        if not isinstance(settings, FinetuneConfig) or not settings.metric_every:
            return 0.0
        options, rows = replace(context.base_engine, engine="mlx"), settings.metric_rows
        once = [
            self.evaluation(task, options, requests=lambda task=task: len(metric_samples(task, rows)))
            for task in context.tasks
        ]
        return math.ceil(steps / settings.metric_every) * sum(one or 0.0 for one in once)

    def _beside(self, tokens: int, trained: int) -> float:
        """Return the operations of a teacher or a reference, which read the same tokens, maybe only once."""
        budgets, settings = self.budgets, self.budgets.context.recipe.train
        shape = budgets.shape if isinstance(settings, DpoConfig) else budgets.teacher_shape
        if shape is None:
            return 0.0
        once = isinstance(settings, DpoConfig) or budgets.target_bytes > 0
        epochs = settings.epochs if once and isinstance(settings, SftConfig | DpoConfig) else 1.0
        batch = budgets.largest_step.batch
        return forward_operations(shape, tokens, trained, batch.longest or batch.length) / max(1.0, epochs)


def times_of(budgets: Budgets, rate: float | None = None) -> Times:
    """Return the times of a recipe on this device, whose rates are measured in a second.

    Args:
        budgets: the recipe's budgets.
        rate: tokens per second of the training on the device in question, which is then taken to be faster
            than this one by the same factor in everything.
    """
    times = Times(budgets, measure_rates(repeats=3))
    seconds, tokens = times.steps(), budgets.batches.tokens
    if rate is None or seconds is None or not tokens:
        return times
    factor = seconds * rate / tokens
    return Times(budgets, Rates(*(factor * one for one in times.rates)))
