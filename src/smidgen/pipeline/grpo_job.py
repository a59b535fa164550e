"""Training on rewards of the model's own answers."""

from collections.abc import Mapping, Sequence
from functools import partial
from statistics import fmean
from typing import Any

from mlx.utils import tree_unflatten

from smidgen.backend import mx, nn
from smidgen.config import GrpoConfig
from smidgen.data.types import StepResult
from smidgen.errors import ConfigError, WorkError
from smidgen.models.graph import named_arrays
from smidgen.models.lora import add_lora, without_adapter
from smidgen.pipeline.context import RunContext
from smidgen.pipeline.rolling import TaskRoller, prompts_of
from smidgen.pipeline.training_job import TrainingJob, load_for_training
from smidgen.training.batches import pad
from smidgen.training.hidden import BodyPass, frozen_trunk, packed_length
from smidgen.training.loop import optimizer_step
from smidgen.training.objectives.group_relative import GroupRelative
from smidgen.training.optimizer import AdamW
from smidgen.training.pathologies import Pathologies
from smidgen.training.rollout_batches import Answer, RolloutBatches, rollout_batch
from smidgen.training.rollouts import Rollout, Sampled, has_variance
from smidgen.training.sft import saver

PROBE = 0.1
"""Share of the learning rate of the check's step, which goes by one answer alone."""
SHOWN = 240
"""Characters of an answer that the terminal shows."""
TRIES = 4
"""Steps' worth of groups that the check before the first step looks for variance in."""


def prepare_grpo(context: RunContext) -> TrainingJob:
    """Group-relative policy optimisation, of an adapter or of every weight.

    Raises:
        ConfigError: a reward is not known, or there are several processes.
        DataError: no prompt leaves room for an answer.
    """
    settings = context.recipe.train
    assert isinstance(settings, GrpoConfig)
    if context.group.size > 1:
        raise ConfigError(
            f'method = "grpo" trains in one process, and there are {context.group.size}; start it without '
            "mlx.launch"
        )
    loaded = load_for_training(context.specialist.model.base, settings.max_length)
    if settings.lora is not None:
        add_lora(loaded.model, settings.lora, settings.seed)
    loaded.model.eval()
    how = BodyPass(recompute=settings.gradient_checkpointing, trunk=frozen_trunk(loaded.model))
    prompts = prompts_of(context, loaded)
    roller = TaskRoller(context, loaded, prompts, how)
    batches = RolloutBatches(roller, settings, share=packed_length(loaded.model) is not None)
    objective = GroupRelative(
        settings.clip_range,
        settings.beta,
        without_adapter(loaded.model) if settings.beta else None,
        settings.temperature,
        settings.importance_sampling_cap if settings.importance_sampling_correction else None,
        how,
    )
    return TrainingJob(
        loaded.model,
        objective,
        batches,
        (),
        saver(loaded, settings),
        cut_rows=prompts.left_out,
        loaded=loaded,
        begin=partial(_begin, context, loaded.model, objective, roller, settings),
        watch=partial(_watch, roller, Pathologies(settings)),
    )


def _begin(
    context: RunContext,
    model: nn.Module,
    objective: GroupRelative,
    roller: TaskRoller,
    settings: GrpoConfig,
    *,
    resumed: bool,
) -> str:
    """Check that something can be learnt, unless that is known, and keep answers from here on."""
    said = "" if resumed else check_start(model, objective, roller, settings)
    roller.log = context.run
    return said


def _watch(roller: TaskRoller, pathologies: Pathologies, result: StepResult) -> Sequence[str]:
    """Return what is worth telling after a step."""
    told = map(_in_words, roller.shown) if result.step == 1 or result.metric is not None else ()
    return [*told, *pathologies.of_step(result)]


def _in_words(row: Mapping[str, Any]) -> str:
    """Return the best or the worst answer on one line."""
    text = " ".join(row["text"].split())
    shown = text if len(text) <= SHOWN else f"{text[:SHOWN]}…"
    return f"{row['which']} answer, to {row['sample']}, reward {row['reward']:.3g}: {shown or '(empty)'}"


def check_start(model: nn.Module, objective: GroupRelative, roller: TaskRoller, settings: GrpoConfig) -> str:
    """Find out before the first step whether anything can be learnt; the weights stay as they are.

    The rewards of some group differ, the gradient of a step is not zero, and a step on one good answer makes
    it more probable.

    Raises:
        WorkError: names what is missing.
    """
    drawn = _with_variance(roller, settings)
    best = _planted(drawn.groups)
    before = {name: mx.array(value) for name, value in named_arrays(model.trainable_parameters()).items()}
    batch = rollout_batch(
        [Answer(best, 1.0)],
        pad([best.row]),
        weight=float(best.row.trained_tokens),
        by_answer=False,
        is_first=True,
    )
    first = roller.logprobs(batch.answers)[0].mean()
    done = optimizer_step(
        model,
        objective,
        AdamW(model, settings),
        [batch],
        settings,
        step=1,
        learning_rate=PROBE * settings.learning_rate,
    )
    last = roller.logprobs(batch.answers)[0].mean()
    model.update(tree_unflatten(list(before.items())))
    if not done.grad_norm > 0:
        raise WorkError(
            "nothing can be learnt: the gradient of a good answer is zero; is every trained layer unused?"
        )
    if not last > first:
        raise WorkError(
            f"nothing can be learnt: a step on a good answer made it less probable ({first:.4g} to "
            f"{last:.4g} nats per token); lower train.learning_rate, now {settings.learning_rate:g}"
        )
    figures = drawn.figures
    useful = 1 - figures["frac_reward_zero_std"]
    return (
        f"checked: mean reward {figures['reward']:.3g} ± {figures['reward_std']:.2g}, {useful:.0%} of the "
        f"groups have variance, and a step on a good answer raises its log-probability from {first:.4g} to "
        f"{last:.4g} per token. A loss near 0 is normal: advantages have a mean of 0"
    )


def _with_variance(roller: TaskRoller, settings: GrpoConfig) -> Sampled:
    """Return answers of which some group has different rewards.

    Raises:
        WorkError: there is no such group.
    """
    count = min(settings.groups_per_step, roller.num_prompts)
    flat = list[Sampled]()
    for attempt in range(TRIES):
        numbers = [(attempt * count + i) % roller.num_prompts for i in range(count)]
        drawn = roller.sample(numbers, settings.seed + attempt, 0)
        if any(map(has_variance, drawn.groups)):
            return drawn
        flat.append(drawn)
    reward, parsed, cut = (
        fmean(drawn.figures[name] for drawn in flat)
        for name in ("reward", "rewards/parsed/mean", "completions/clipped_ratio")
    )
    advice = "raise max_completion_length; " if cut > 0.5 else ""
    raise WorkError(
        f"nothing can be learnt: in each of {TRIES * count} groups all answers got the same reward (mean "
        f"{reward:.4g}; {parsed:.0%} can be read, {cut:.0%} were cut off); {advice}start from a model that "
        "is sometimes right, such as one fine-tuned for a few steps ([train.lora] start), or give other "
        "prompts or rewards"
    )


def _planted(groups: Sequence[Sequence[Rollout]]) -> Rollout:
    """Return an answer with the most reward of a group with variance."""
    group = next(group for group in groups if has_variance(group))
    return max(group, key=lambda rollout: rollout.reward)
