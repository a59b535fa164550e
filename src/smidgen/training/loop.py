"""The training loop, a generator that yields the result of every step; the caller prints, plots or stops.

It writes to the run folder: `metrics.jsonl` (one line per step), `checkpoints/` (resumable) and `best/` (the
weights with the best validation loss, or of the last step without validation).
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from mlx.utils import tree_map

from smidgen import cpu_kernels
from smidgen.backend import mx, nn
from smidgen.config import TrainConfig
from smidgen.data.types import StepResult
from smidgen.errors import ConfigError, WorkError
from smidgen.files import append_jsonl
from smidgen.models.graph import named_arrays
from smidgen.training.batches import BatchSource, FigureSource, StepBatch
from smidgen.training.checkpoint import Checkpoints, TrainingProgress
from smidgen.training.choosing import Checked, TaskMetric, note
from smidgen.training.faults import NotFinite, not_finite
from smidgen.training.objectives import Losses, Mean, Objective
from smidgen.training.optimizer import AdamW, learning_rate_at

B = TypeVar("B", bound=StepBatch)


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
    run_dir: Path | None = None,
    validation: Sequence[B] = (),
    save: Callable[[Path], None] | None = None,
    metric: TaskMetric | None = None,
    stop_after: int | None = None,
) -> Iterator[StepResult]:
    """Train `model` in place and yield one result per step, resuming from the newest checkpoint in `run_dir`.

    Args:
        model: the model whose trainable parameters are updated.
        objective: the loss to minimise, on training and validation batches.
        batches: source of every step's batches; it also sets the number of steps.
        config: the recipe's `[train]`.
        run_dir: folder for metrics, checkpoints and the best weights; if None, nothing is written.
        validation: the fixed validation set, evaluated in full each time.
        save: writes the model to a folder, which it creates; called for each new best.
        metric: a metric of the task, measured beside the validation loss.
        stop_after: pause after this step with a checkpoint; another call goes on as if there were no pause.

    Raises:
        ConfigError: nothing is trainable, the warm-up does not end, or `run_dir` contains another run.
        WorkError: a loss or a gradient is not finite, or the disk is full; the checkpoints are kept.
    """
    _check(model)
    _check_warmup(config, batches.num_steps)
    optimizer = AdamW(model, config)
    checkpoints = Checkpoints(run_dir, config, batches.num_steps) if run_dir else None
    progress, position = checkpoints.restore(model, optimizer) if checkpoints else (TrainingProgress(), None)
    if position is not None:
        batches.restore(position)
    by_metric = metric is not None and metric.decides
    until = batches.num_steps if stop_after is None else min(stop_after, batches.num_steps)
    while progress.step < until and not progress.stopped:
        started = time.perf_counter()
        progress.step += 1
        rate = learning_rate_at(progress.step, batches.num_steps, config)
        step_batches = batches.next_step()
        last = progress.step == batches.num_steps
        try:
            done = optimizer_step(
                model, objective, optimizer, step_batches, config, step=progress.step, learning_rate=rate
            )
            seconds = time.perf_counter() - started
            figures = batches.figures() if isinstance(batches, FigureSource) else {}
            validates = last or _due(progress.step, config.validate_every)
            found = _checked(
                model, objective, progress.step,
                validation=validation if validates else (),
                metric=metric if metric and (last or _due(progress.step, metric.every)) else None,
            )  # fmt: skip
        except NotFinite as fault:
            raise WorkError(f"{fault}; {_what_is_left(checkpoints, fault, progress, config)}") from None
        is_best = note(progress, found, config.patience, by_metric=by_metric)
        ends = last or progress.stopped
        none_chosen = progress.best_loss is None and progress.best_metric is None
        if run_dir and save and (is_best or (ends and none_chosen)):
            save(run_dir / "best")
        result = StepResult(
            step=progress.step,
            epoch=batches.epoch(),
            loss=done.loss,
            trained_tokens=sum(batch.trained_tokens for batch in step_batches),
            tokens=sum(batch.tokens for batch in step_batches),
            learning_rate=rate,
            grad_norm=done.grad_norm,
            seconds=seconds,
            validation_loss=found.loss,
            metrics={**done.metrics, **figures, **found.metrics},
            metric=found.metric,
        )
        if run_dir and checkpoints:
            append_jsonl(run_dir / "metrics.jsonl", result.to_json())
            due = _due(progress.step, config.checkpoint_every) or (config.checkpoint_every and ends)
            if due or progress.step == stop_after:
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
) -> Step:
    """Update the model by one step and leave it in evaluation mode.

    A batch's loss is divided by the weight of the whole step, so accumulation equals one big batch.

    Raises:
        NotFinite: the loss or the gradient is not finite; the weights are unchanged.
    """
    total = sum(objective.weight(batch) for batch in batches)

    def shares(batch: B) -> Losses:
        loss, metrics = objective.loss(model, batch)
        return Losses(loss / total, metrics)

    value_and_grad = nn.value_and_grad(model, shares)
    model.train()
    mx.random.seed(config.seed * 1_000_003 + step)  # a resumed run gets the same dropout masks
    loss, means, gradients = 0.0, _Means(), {}
    for batch in batches:
        (part, measured), gradient = value_and_grad(batch)
        gradients = tree_map(mx.add, gradients, gradient) if gradients else gradient
        mx.eval(part, measured, gradients)
        loss += part.item()
        means.add(measured)
    model.eval()
    norm = global_norm(gradients)
    if not (math.isfinite(loss) and math.isfinite(norm)):
        what = f"step {step}: the loss is {loss} and the gradient norm {norm}"
        raise not_finite(model, objective, batches, what=what, train=True)
    scale = min(1.0, config.gradient_clip / (norm + 1e-6)) if config.gradient_clip else 1.0
    optimizer.update(model, gradients, step, learning_rate, scale)
    mx.eval(model.trainable_parameters(), optimizer.state)
    return Step(loss, norm, means.values(total))


def validate(
    model: nn.Module, objective: Objective[B], batches: Sequence[B]
) -> tuple[float, dict[str, float]]:
    """Return the mean loss over all batches, without dropout, and the means of the metrics."""
    model.eval()
    weight, total, means = 0.0, 0.0, _Means()
    for batch in batches:
        loss, metrics = objective.loss(model, batch)
        mx.eval(loss, metrics)
        total += float(loss)
        weight += objective.weight(batch)
        means.add(metrics)
    return total / weight, means.values(weight)


def global_norm(gradients: dict) -> float:
    """Return the L2 norm over all arrays of a tree."""
    arrays = list(named_arrays(gradients).values())
    if cpu_kernels.usable(*arrays):
        return cpu_kernels.global_norm(arrays)
    squares = [mx.square(array.astype(mx.float32)).sum() for array in arrays]
    return float(mx.sqrt(mx.stack(squares).sum()))


class _Means:
    """Running sums of metrics and, of those that are means of parts, of their divisors."""

    def __init__(self) -> None:
        self._totals: dict[str, float] = {}
        self._divisors: dict[str, float] = {}

    def add(self, metrics: Mapping[str, mx.array | Mean]) -> None:
        """Add the metrics of a batch."""
        for name, value in metrics.items():
            if isinstance(value, Mean):
                self._divisors[name] = self._divisors.get(name, 0.0) + float(value.weight)
            total = value.total if isinstance(value, Mean) else value
            self._totals[name] = self._totals.get(name, 0.0) + float(total)

    def values(self, weight: float) -> dict[str, float]:
        """Return the means; `weight` is the divisor of those without one of their own."""
        return {name: total / self._divisors.get(name, weight) for name, total in self._totals.items()}


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def _checked(
    model: nn.Module,
    objective: Objective[B],
    step: int,
    *,
    validation: Sequence[B],
    metric: TaskMetric | None,
) -> Checked:
    """Validate and measure what is due after a step.

    Raises:
        NotFinite: the validation loss is not finite.
    """
    loss, value, metrics = None, None, {}
    if validation:
        loss, means = validate(model, objective, validation)
        if not math.isfinite(loss):
            what = f"step {step}: the validation loss is {loss}"
            raise not_finite(model, objective, validation, what=what, train=False)
        metrics = {f"validation_{name}": mean for name, mean in means.items()}
    if metric is not None:
        figures = metric.measure()
        value = next(iter(figures.values()))
        metrics |= {f"task_{name}": figure for name, figure in figures.items()}
    return Checked(loss, value, metrics)


def _what_is_left(
    checkpoints: Checkpoints | None, fault: NotFinite, progress: TrainingProgress, config: TrainConfig
) -> str:
    """Say what to do after a loss that is not finite, and from which checkpoint the run can go on."""
    rate = f"lower train.learning_rate, now {config.learning_rate:g},"
    if checkpoints is None:
        return f"{rate} and run again"
    if fault.weights_at_fault:  # the checkpoint of the step before has the same weights
        checkpoints.discard(progress.step - 1)
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
