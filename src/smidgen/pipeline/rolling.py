"""The answers of the model that is trained to the prompts of a recipe's tasks, with their rewards."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np

from smidgen.backend import mx
from smidgen.config import GrpoConfig
from smidgen.data.types import Completion, Request, Sample, Sampling
from smidgen.errors import ConfigError, DataError, counted
from smidgen.evaluation.collect import sampling_of, score_of
from smidgen.inference.mlx import MlxEngine
from smidgen.models.load import LoadedModel
from smidgen.pipeline.context import RunContext
from smidgen.pipeline.rewarding import Rewarded, Rewarding
from smidgen.pipeline.rollout_entry import ROLLOUTS
from smidgen.pipeline.task_context import TaskContext
from smidgen.runs import Run
from smidgen.tasks.rewards import Answered
from smidgen.tasks.task import Task
from smidgen.training.batches import TrainBatch
from smidgen.training.hidden import BodyPass
from smidgen.training.losses import trained_states
from smidgen.training.objectives.group_relative import state_logprobs
from smidgen.training.rollouts import Rollout, Sampled, has_variance, sampled_row


class PromptGroup(NamedTuple):
    """Prompts whose answers are rewarded together, as both orders of a pair.

    Attributes:
        task: the task of the prompts.
        samples: the prompts.
        prompts: their token ids.
    """

    task: TaskContext
    samples: list[Sample]
    prompts: list[list[int]]


@dataclass(frozen=True)
class Prompts:
    """The prompts of a training, and how many were left out because they are too long."""

    groups: list[PromptGroup]
    left_out: int


def prompts_of(context: RunContext, loaded: LoadedModel) -> Prompts:
    """Return the training prompts of all tasks that leave room for an answer.

    Raises:
        ConfigError: the answers of a group cannot be spread evenly over its prompts.
        DataError: none does.
    """
    settings = context.recipe.train
    assert isinstance(settings, GrpoConfig)
    longest, thinking = (
        settings.max_length - settings.max_completion_length,
        context.specialist.model.thinking,
    )
    found, left_out, shortest = list[PromptGroup](), 0, 0
    for task in context.tasks:
        for samples in task.task.reward_groups(task.split_samples[0]):
            if settings.num_generations % len(samples):
                raise ConfigError(
                    f"num_generations is {settings.num_generations}, and the prompts that are rewarded "
                    f"together are {len(samples)}, such as both orders of a pair; give a multiple of "
                    f"{len(samples)}"
                )
            prompts = [loaded.tokenizer.render_prompt(one.messages, thinking=thinking) for one in samples]
            size = max(map(len, prompts))
            if size <= longest:
                found.append(PromptGroup(task, samples, prompts))
            else:
                left_out, shortest = left_out + 1, min(shortest or size, size)
    if not found:
        needed = shortest + settings.max_completion_length
        raise DataError(
            f"no prompt leaves room for an answer of {settings.max_completion_length} tokens within "
            f"max_length ({settings.max_length}); the shortest has {counted(shortest, 'token')}, so raise "
            f"max_length to {needed} or more"
        )
    return Prompts(found, left_out)


class TaskRoller:
    """Answers of the model as it is, and their rewards; a `Roller`.

    Attributes:
        shown: the best and the worst of the last answers, for the eye.
        log: the run whose `rollouts.jsonl` they are written to, before the step that learns from them; None
            for none, as in a plan.
    """

    def __init__(self, context: RunContext, loaded: LoadedModel, prompts: Prompts, how: BodyPass) -> None:
        settings = context.recipe.train
        assert isinstance(settings, GrpoConfig)
        self._settings, self._loaded, self._how = settings, loaded, how
        self._thinking = context.specialist.model.thinking
        self._groups = prompts.groups
        self._rewarding = {task.name: Rewarding(task.task, settings) for task in context.tasks}
        self.num_prompts = len(prompts.groups)
        self.shown: list[dict[str, Any]] = []
        self.log: Run | None = None
        self._has_logged = False

    def sample(self, prompts: Sequence[int], seed: int, step: int) -> Sampled:
        """Return `num_generations` answers to each group of prompts, which are spread over its prompts."""
        asked = [self._requests(place, self._groups[number], seed) for place, number in enumerate(prompts)]
        engine = MlxEngine(  # a new engine copies the weights as they are now, and gives the memory back
            self._loaded, thinking=self._thinking, batch_size=self._settings.rollout_batch_size
        )
        try:
            requests = [request for group in asked for request in group]
            found = {request.sample.id: completion for request, completion in engine.complete(requests)}
        finally:
            engine.close()
        groups, rewards, answers = list[list[Rollout]](), list[Rewarded](), list[list[Answered]]()
        for number, requests in zip(prompts, asked, strict=True):
            group = self._groups[number]
            answered = [_answered(group.task.task, one.sample, found[one.sample.id]) for one in requests]
            rewarded = self._rewarding[group.task.name].of(answered)
            answers.append(answered)
            rewards.append(rewarded)
            groups.append([
                _rollout(answer, group.prompts[i % len(group.prompts)], float(total))
                for i, (answer, total) in enumerate(zip(answered, rewarded.totals, strict=True))
            ])  # fmt: skip
        self.shown = _best_and_worst(answers, rewards)
        if self.log is not None:
            self._write(self.log, step)
        return Sampled(groups, figures_of(groups, rewards))

    def _write(self, run: Run, step: int) -> None:
        """Write the best and the worst answer; those of steps that are done again are removed first."""
        if not self._has_logged:
            run.keep_jsonl(ROLLOUTS, lambda row: row["step"] < step)
        self._has_logged = True
        for row in self.shown:
            run.append_jsonl(ROLLOUTS, {"step": step, **row})

    def logprobs(self, batch: TrainBatch) -> np.ndarray:
        """Return log-probabilities of answers in training, (2, T); see `Roller.logprobs`."""
        self._loaded.model.eval()
        hidden = trained_states(self._loaded.model, batch, self._how).hidden
        found = [
            np.array(state_logprobs(self._loaded.model, batch, hidden, temperature))
            for temperature in (self._settings.temperature, 1.0)
        ]
        mx.clear_cache()
        return np.stack(found)

    def _requests(self, place: int, group: PromptGroup, seed: int) -> list[Request]:
        """Return the requests of a group; the sampling of each depends on its id and the seed."""
        settings, task = self._settings, group.task.task
        sampled = Sampling(
            max_tokens=settings.max_completion_length, temperature=settings.temperature, seed=seed
        )
        sampling = sampling_of(task, sampled, constrained=False)
        samples = [group.samples[i % len(group.samples)] for i in range(settings.num_generations)]
        return [
            Request(replace(sample, id=f"{place}/{i}/{sample.id}"), sampling)
            for i, sample in enumerate(samples)
        ]


def _answered(task: Task, sample: Sample, completion: Completion) -> Answered:
    return Answered(sample, completion, score_of(task, sample, completion))


def _rollout(answer: Answered, prompt: Sequence[int], reward: float) -> Rollout:
    completion = answer.completion
    row = sampled_row(answer.sample.id, [*prompt, *completion.token_ids], len(prompt))
    logprobs = np.array(completion.logprobs, np.float32)
    return Rollout(row, logprobs, reward, truncated=completion.finish_reason == "length")


def figures_of(groups: Sequence[Sequence[Rollout]], rewards: Sequence[Rewarded]) -> dict[str, float]:
    """Return figures of all answers, by the names that TRL gives them.

    `entropy` is estimated as the mean of -ln p of the sampled tokens, at temperature 1.
    """
    flat = [rollout for group in groups for rollout in group]
    totals = np.concatenate([one.totals for one in rewards])
    lengths = [len(rollout.logprobs) for rollout in flat]
    found = {
        "reward": float(totals.mean()),
        "reward_std": float(totals.std(ddof=1)),
        "frac_reward_zero_std": fmean(not has_variance(group) for group in groups),
        "entropy": -sum(float(rollout.logprobs.sum()) for rollout in flat) / sum(lengths),
        "completions/mean_length": fmean(lengths),
        "completions/clipped_ratio": fmean(rollout.truncated for rollout in flat),
    }
    for name in dict.fromkeys(name for one in rewards for name in one.parts):
        values = np.concatenate([one.parts[name] for one in rewards if name in one.parts])
        found |= {
            f"rewards/{name}/mean": float(values.mean()),
            f"rewards/{name}/std": float(values.std(ddof=1)),
        }
    return found


def _best_and_worst(
    answers: Sequence[Sequence[Answered]], rewards: Sequence[Rewarded]
) -> list[dict[str, Any]]:
    """Return the answer with the most reward and that with the least, and what each was given for."""
    flat = [
        (float(total), {name: float(values[i]) for name, values in one.parts.items()}, answer)
        for group, one in zip(answers, rewards, strict=True)
        for i, (total, answer) in enumerate(zip(one.totals, group, strict=True))
    ]
    chosen = {"best": max(flat, key=lambda one: one[0]), "worst": min(flat, key=lambda one: one[0])}
    return [
        {
            "which": which,
            "sample": answer.sample.id.split("/", 2)[2],
            "reward": total,
            "parts": parts,
            "text": answer.completion.text,
        }
        for which, (total, parts, answer) in chosen.items()
    ]
