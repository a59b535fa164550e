"""The training loop, a generator that yields the result of every step; the caller prints, plots or stops.

It writes to the run folder: `metrics.jsonl` (one line per step), `checkpoints/` (resumable) and `best/` (the
weights with the best validation loss, or of the last step without validation). With several processes, each
runs the loop on its share of every step's batches, and process 0 alone writes.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from mlx.utils import tree_map, tree_unflatten

from smidgen import cpu_kernels
from smidgen.backend import mx, nn
from smidgen.config import TrainConfig
from smidgen.data.types import StepResult
from smidgen.errors import ConfigError, WorkError
from smidgen.files import append_jsonl
from smidgen.models.graph import named_arrays
from smidgen.training.batches import BatchSource, FigureSource, StepBatch
from smidgen.training.checkpoint import Checkpoints, restored
from smidgen.training.choosing import Checked, TaskMetric, note
from smidgen.training.faults import NotFinite, not_finite
from smidgen.training.objectives import Losses, Objective
from smidgen.training.optimizer import AdamW, learning_rate_at
from smidgen.training.process_group import ALONE, ProcessEnded, ProcessGroup
from smidgen.training.sums import Sums

B = TypeVar("B", bound=StepBatch)


class Output(NamedTuple):
    """Where a training writes.

    Attributes:
        folder: the run folder.
        save: writes the model to a folder, which it creates; called for each new best.
    """

    folder: Path
    save: Callable[[Path], None] | None = None


class Step(NamedTuple):
    """Result of one optimiser step: means over its batches, and the gradient norm before clipping."""

    loss: float
    grad_norm: float
    metrics: dict[str, float]


def train(
    model: nn.Module,
    objective: Objective[B],
    batches: BatchSource[B],
    config: TrainConfig,
    *,
    output: Output | None = None,
    validation: Sequence[B] = (),
    metric: TaskMetric | None = None,
    stop_after: int | None = None,
    group: ProcessGroup = ALONE,
) -> Iterator[StepResult]:
    """Train `model` in place and yield one result per step, resuming from the newest checkpoint of `output`.

    Args:
        model: the model whose trainable parameters are updated.
        objective: the loss to minimise, on training and validation batches.
        batches: source of every step's batches; it also sets the number of steps.
        config: the recipe's `[train]`.
        output: where metrics, checkpoints and the best weights are written; if None, nothing is.
        validation: the fixed validation set, evaluated in full each time.
        metric: a metric of the task, measured beside the validation loss.
        stop_after: pause after this step with a checkpoint; another call goes on from it.
        group: the processes that share the batches; only process 0 has an `output`.

    Raises:
        ConfigError: nothing is trainable, the warm-up does not end, or the folder contains another run.
        WorkError: a loss or a gradient is not finite, or the disk is full; the checkpoints are kept.
        ProcessEnded: another process has ended; the steps before are saved.
    """
    _check(model)
    _check_warmup(config, batches.num_steps)
    optimizer = AdamW(model, config)
    checkpoints = Checkpoints(output.folder, config, batches.num_steps) if output else None
    progress, position = restored(checkpoints, model, optimizer, group)
    if position is not None:
        batches.restore(position)
    while progress.step < min(stop_after or batches.num_steps, batches.num_steps) and not progress.stopped:
        started, before = time.perf_counter(), batches.state()
        step, rate = progress.step + 1, learning_rate_at(progress.step + 1, batches.num_steps, config)
        step_batches, last, done = batches.next_step(), step == batches.num_steps, None
        try:
            done = optimizer_step(
                model, objective, optimizer, step_batches, config, step=step, learning_rate=rate, group=group
            )
            seconds = time.perf_counter() - started
            found = _checked(model, objective, step, config, validation, metric, last, group)
        except NotFinite as fault:
            raise WorkError(f"{fault}; {_what_is_left(checkpoints, fault, step, config)}") from None
        except ProcessEnded as error:
            if done is None and checkpoints and config.checkpoint_every:  # the weights are those of before
                checkpoints.save(progress, model, optimizer, before)
            raise ProcessEnded(f"step {step}: {error}") from None
        progress.step = step
        is_best = note(progress, found, config.patience, by_metric=metric is not None and metric.decides)
        ends = last or progress.stopped
        if output and output.save and (is_best or (ends and not progress.has_best)):
            output.save(output.folder / "best")
        result = StepResult(
            step=step,
            epoch=batches.epoch(),
            loss=done.loss,
            trained_tokens=sum(batch.trained_tokens for batch in step_batches),
            tokens=sum(batch.tokens for batch in step_batches),
            learning_rate=rate,
            grad_norm=done.grad_norm,
            seconds=seconds,
            validation_loss=found.loss,
            metrics={**done.metrics, **_figures(batches), **found.metrics},
            metric=found.metric,
        )
        if output and checkpoints:
            append_jsonl(output.folder / "metrics.jsonl", result.to_json())
            if (
                step == stop_after
                or (ends and config.checkpoint_every)
                or _due(step, config.checkpoint_every)
            ):
                checkpoints.save(progress, model, optimizer, batches.state())
        yield result


def optimizer_step(
    model: nn.Module,
    objective: Objective[B],
    optimizer: AdamW,
    batches: Sequence[B],
    config: TrainConfig,
    *,
    step: int,
    learning_rate: float,
    group: ProcessGroup = ALONE,
) -> Step:
    """Update the model by one step and leave it in evaluation mode.

    A batch's loss is divided by the weight of the whole step, so accumulation equals one big batch, and one
    process equals several.

    Raises:
        NotFinite: the loss or the gradient is not finite; the weights are unchanged.
        ProcessEnded: another process has ended; the weights are unchanged.
    """
    total = sum(objective.weight(batch) for batch in batches)

    def shares(batch: B) -> Losses:
        loss, metrics = objective.loss(model, batch)
        return Losses(loss / total, metrics)

    value_and_grad = nn.value_and_grad(model, shares)
    model.train()
    # A resumed run gets the same dropout masks, and each process its own.
    mx.random.seed((config.seed * 1_000_003 + step) * group.size + group.rank)
    sums, gradients = Sums(), {}
    mine, factor = group.own(batches)
    for batch in mine:
        (part, measured), gradient = value_and_grad(batch)
        gradients = tree_map(mx.add, gradients, gradient) if gradients else gradient
        mx.eval(part, measured, gradients)
        sums.add(part.item(), measured)
    model.eval()
    sums = sums.over(group, counts=factor > 0)
    if group.size > 1:
        scaled = {name: value * factor for name, value in named_arrays(gradients).items()}
        gradients = tree_unflatten(list(group.sum(scaled).items()))
    norm = global_norm(gradients)
    if not (math.isfinite(sums.loss) and math.isfinite(norm)):
        what = f"step {step}: the loss is {sums.loss} and the gradient norm {norm}"
        raise not_finite(model, objective, batches, what=what, train=True)
    scale = min(1.0, config.gradient_clip / (norm + 1e-6)) if config.gradient_clip else 1.0
    optimizer.update(model, gradients, step, learning_rate, scale)
    mx.eval(model.trainable_parameters(), optimizer.state)
    return Step(sums.loss, norm, sums.means(total))


def validate(
    model: nn.Module, objective: Objective[B], batches: Sequence[B], group: ProcessGroup = ALONE
) -> tuple[float, dict[str, float]]:
    """Return the mean loss over all batches, without dropout, and the means of the metrics."""
    model.eval()
    sums = Sums()
    mine, factor = group.own(batches)
    for batch in mine:
        loss, metrics = objective.loss(model, batch)
        mx.eval(loss, metrics)
        sums.add(float(loss), metrics)
    sums = sums.over(group, counts=factor > 0)
    weight = sum(objective.weight(batch) for batch in batches)
    return sums.loss / weight, sums.means(weight)


def global_norm(gradients: dict) -> float:
    """Return the L2 norm over all arrays of a tree."""
    arrays = list(named_arrays(gradients).values())
    if cpu_kernels.usable(*arrays):
        return cpu_kernels.global_norm(arrays)
    squares = [mx.square(array.astype(mx.float32)).sum() for array in arrays]
    return float(mx.sqrt(mx.stack(squares).sum()))


def _figures(batches: BatchSource[B]) -> Mapping[str, float]:
    return batches.figures() if isinstance(batches, FigureSource) else {}


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def _checked(
    model: nn.Module,
    objective: Objective[B],
    step: int,
    config: TrainConfig,
    validation: Sequence[B],
    metric: TaskMetric | None,
    last: bool,
    group: ProcessGroup,
) -> Checked:
    """Validate and measure what is due after a step.

    Raises:
        NotFinite: the validation loss is not finite.
    """
    loss, value, metrics = None, None, {}
    if validation and (last or _due(step, config.validate_every)):
        loss, means = validate(model, objective, validation, group)
        if not math.isfinite(loss):
            what = f"step {step}: the validation loss is {loss}"
            raise not_finite(model, objective, validation, what=what, train=False)
        metrics = {f"validation_{name}": mean for name, mean in means.items()}
    if metric is not None and (last or _due(step, metric.every)):
        figures = group.told_by_leader(metric.measure() if group.leads else None)
        value = next(iter(figures.values()))
        metrics |= {f"task_{name}": figure for name, figure in figures.items()}
    return Checked(loss, value, metrics)


def _what_is_left(checkpoints: Checkpoints | None, fault: NotFinite, step: int, config: TrainConfig) -> str:
    """Say what to do after a loss that is not finite, and from which checkpoint the run can go on."""
    rate = f"lower train.learning_rate, now {config.learning_rate:g},"
    if checkpoints is None:
        return f"{rate} and run again"
    if fault.weights_at_fault:  # the checkpoint of the step before has the same weights
        checkpoints.discard(step - 1)
    kept = checkpoints.newest
    if kept is None:
        return f"there was no checkpoint yet: {rate} and run again"
    return (
        f"the checkpoint {kept} is kept: {rate} and go on from it with `smidgen train RECIPE "
        "--from-checkpoint`"
    )


def _check(model: nn.Module) -> None:
    """Refuse a model without anything to train."""
    trainable = named_arrays(model.trainable_parameters())
    if not trainable:
        raise ConfigError("the model has no trainable weights; add [train.lora] to the recipe or unfreeze it")
    adapted = any(name.endswith(".lora_b") for name in trainable)
    if not adapted and any("scales" in module for module in model.modules()):
        raise ConfigError(
            "a quantised model can only be trained through an adapter; add [train.lora] to the recipe"
        )


def _check_warmup(config: TrainConfig, num_steps: int) -> None:
    """Refuse a warm-up that never reaches the learning rate."""
    if config.warmup_steps is not None and config.warmup_steps >= num_steps:
        raise ConfigError(
            f"train.warmup_steps is {config.warmup_steps}, but the training has {num_steps} steps; lower it, "
            "or train longer"
        )
