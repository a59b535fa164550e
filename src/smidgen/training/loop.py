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
from smidgen.training.batches import BatchSource, StepBatch
from smidgen.training.checkpoint import Checkpoints, TrainingProgress, restored
from smidgen.training.objectives import Losses, Objective
from smidgen.training.optimizer import AdamW, learning_rate_at
from smidgen.training.process_group import ALONE, ProcessEnded, ProcessGroup

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
    group: ProcessGroup = ALONE,
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
        group: the processes that share the batches; only process 0 has a `run_dir`.

    Raises:
        ConfigError: nothing is trainable, or `run_dir` contains another run.
        WorkError: the loss or the gradient is not finite.
        ProcessEnded: another process has ended; the steps before are saved.
    """
    _check(model)
    optimizer = AdamW(model, config)
    checkpoints = Checkpoints(run_dir, config, batches.num_steps) if run_dir else None
    progress, position = restored(checkpoints, model, optimizer, group)
    if position is not None:
        batches.restore(position)
    while progress.step < batches.num_steps and not progress.stopped:
        started, before = time.perf_counter(), batches.state()
        step, rate = progress.step + 1, learning_rate_at(progress.step + 1, batches.num_steps, config)
        step_batches = batches.next_step()
        try:
            done = optimizer_step(
                model, objective, optimizer, step_batches, config, step=step, learning_rate=rate, group=group
            )
        except ProcessEnded as error:
            if checkpoints and config.checkpoint_every:
                checkpoints.save(progress, model, optimizer, before)
            raise ProcessEnded(f"step {step}: {error}") from None
        seconds = time.perf_counter() - started
        progress.step, last = step, step == batches.num_steps
        validation_loss, metrics, is_best = None, done.metrics, False
        if validation and (last or _due(step, config.validate_every)):
            validation_loss, means = validate(model, objective, validation, group)
            metrics = metrics | {f"validation_{name}": value for name, value in means.items()}
            is_best = _note_validation(progress, validation_loss, config.patience)
        if run_dir and save and (is_best or (last and not validation)):
            save(run_dir / "best")
        result = StepResult(
            step=step,
            epoch=batches.epoch(),
            loss=done.loss,
            trained_tokens=sum(batch.trained_tokens for batch in step_batches),
            tokens=sum(batch.tokens for batch in step_batches),
            learning_rate=rate,
            grad_norm=done.grad_norm,
            seconds=seconds,
            validation_loss=validation_loss,
            metrics=metrics,
        )
        if run_dir and checkpoints:
            append_jsonl(run_dir / "metrics.jsonl", result.to_json())
            ends = last or progress.stopped
            if _due(step, config.checkpoint_every) or (config.checkpoint_every and ends):
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
        WorkError: the loss or the gradient is not finite; the weights are unchanged.
        ProcessEnded: another process has ended; the weights are unchanged.
    """
    total = sum(objective.weight(batch) for batch in batches)

    def shares(batch: B) -> Losses:
        loss, metrics = objective.loss(model, batch)
        return Losses(loss / total, {name: value / total for name, value in metrics.items()})

    value_and_grad = nn.value_and_grad(model, shares)
    model.train()
    # A resumed run gets the same dropout masks, and each process its own.
    mx.random.seed((config.seed * 1_000_003 + step) * group.size + group.rank)
    loss, metrics, gradients = 0.0, {}, {}
    mine, factor = group.own(batches)
    for batch in mine:
        (part, measured), gradient = value_and_grad(batch)
        gradients = tree_map(mx.add, gradients, gradient) if gradients else gradient
        mx.eval(part, measured, gradients)
        loss += part.item()
        _add(metrics, measured)
    model.eval()
    if group.size > 1:
        loss, metrics, gradients = _over_all(group, factor, loss, metrics, gradients)
    norm = global_norm(gradients)
    if not (math.isfinite(loss) and math.isfinite(norm)):
        raise WorkError(
            f"step {step}: the loss is {loss} and the gradient norm {norm}; expected finite numbers. Lower "
            f"train.learning_rate, now {config.learning_rate}"
        )
    scale = min(1.0, config.gradient_clip / (norm + 1e-6)) if config.gradient_clip else 1.0
    optimizer.update(model, gradients, step, learning_rate, scale)
    mx.eval(model.trainable_parameters(), optimizer.state)
    return Step(loss, norm, metrics)


def validate(
    model: nn.Module, objective: Objective[B], batches: Sequence[B], group: ProcessGroup = ALONE
) -> tuple[float, dict[str, float]]:
    """Return the mean loss over all batches, without dropout, and the means of the metrics."""
    model.eval()
    total, sums = 0.0, {}
    mine, factor = group.own(batches)
    for batch in mine:
        loss, metrics = objective.loss(model, batch)
        mx.eval(loss, metrics)
        total += float(loss)
        _add(sums, metrics)
    if group.size > 1:
        total, sums, _ = _over_all(group, factor, total, sums, {})
    weight = sum(objective.weight(batch) for batch in batches)
    return total / weight, {name: value / weight for name, value in sums.items()}


def global_norm(gradients: dict) -> float:
    """Return the L2 norm over all arrays of a tree."""
    arrays = list(named_arrays(gradients).values())
    if cpu_kernels.usable(*arrays):
        return cpu_kernels.global_norm(arrays)
    squares = [mx.square(array.astype(mx.float32)).sum() for array in arrays]
    return float(mx.sqrt(mx.stack(squares).sum()))


def _over_all(
    group: ProcessGroup, factor: float, loss: float, metrics: Mapping[str, float], gradients: dict
) -> tuple[float, dict[str, float], dict]:
    """Add the sums of all processes; `factor` is 0 for one that was idle."""
    scalars = {"loss": loss} | {f"metric.{name}": value for name, value in metrics.items()}
    arrays = {name: mx.array(value * factor, mx.float32) for name, value in scalars.items()}
    named = {f"gradient.{name}": value * factor for name, value in named_arrays(gradients).items()}
    summed = group.sum(arrays | named)
    tree = tree_unflatten([(name.removeprefix("gradient."), summed[name]) for name in named])
    return (
        float(summed["loss"]),
        {name: float(summed[f"metric.{name}"]) for name in metrics},
        tree if named else {},
    )


def _add(sums: dict[str, float], metrics: Mapping[str, mx.array]) -> None:
    """Add a batch's metrics to the running sums."""
    for name, value in metrics.items():
        sums[name] = sums.get(name, 0.0) + float(value)


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def _note_validation(progress: TrainingProgress, loss: float, patience: int) -> bool:
    """Record a validation loss in `progress`; return whether it is the best so far."""
    if progress.best_loss is None or loss < progress.best_loss:
        progress.best_loss, progress.validations_without_best = loss, 0
        return True
    progress.validations_without_best += 1
    progress.stopped = patience > 0 and progress.validations_without_best >= patience
    return False


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
