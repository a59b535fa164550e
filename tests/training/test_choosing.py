import math
from pathlib import Path

import numpy as np
import pytest

from smidgen.backend import mx, nn
from smidgen.config import SftConfig
from smidgen.data.types import StepResult
from smidgen.errors import ConfigError
from smidgen.files import read_jsonl
from smidgen.models.graph import named_arrays
from smidgen.training.batches import RowBatches, fixed_batches
from smidgen.training.checkpoint import TrainingProgress
from smidgen.training.choosing import Checked, TaskMetric, note
from smidgen.training.loop import Output, train
from smidgen.training.objectives.likelihood import Likelihood

CONFIG = SftConfig(batch_size=2, learning_rate=1e-2, checkpoint_every=4, validate_every=3, seed=4)


def feed(values: list[float | None], patience: int = 0, *, by_metric: bool) -> tuple[list[int], int | None]:
    """Indices of the new bests among some values, and the index at which patience ended."""
    progress, bests = TrainingProgress(), []
    for index, value in enumerate(values):
        found = Checked(metric=value) if by_metric else Checked(loss=value)
        if note(progress, found, patience, by_metric=by_metric):
            bests.append(index)
        if progress.stopped:
            return bests, index
    return bests, None


def test_a_loss_should_fall_and_a_metric_rise():
    assert feed([3.0, 2.0, 2.5, 1.0], by_metric=False) == ([0, 1, 3], None)
    assert feed([0.3, 0.2, 0.3, 0.5], by_metric=True) == ([0, 3], None), "the first of equal ones is kept"


def test_of_equal_metrics_that_with_the_lower_loss_is_kept():
    progress = TrainingProgress()
    found = [(0.5, 3.0), (0.5, 2.0), (0.5, None), (0.4, 1.0), (0.5, 2.5), (0.6, 9.0)]
    kept = [note(progress, Checked(loss, metric), 0, by_metric=True) for metric, loss in found]
    assert kept == [True, True, False, False, False, True]


def test_patience_counts_what_decides_and_only_when_it_is_measured():
    assert feed([0.5, None, 0.4, None, 0.5], patience=2, by_metric=True) == ([0], 4)
    assert feed([1.0, 2.0, 0.5, 0.6, 0.7, 0.8], patience=3, by_metric=False) == ([0, 2], 5)


def test_an_undefined_metric_is_never_the_best():
    assert feed([math.nan, 0.1, math.nan], by_metric=True) == ([1], None)


def go(
    model: nn.Module, make_rows, run_dir: Path, *, decides: bool = True, measured: bool = True, **options
) -> tuple[list[StepResult], list[float]]:
    """A run with a metric that is a number of the weights; its results, and that number of each `best`."""

    def figure() -> float:
        return float(mx.abs(model.model.norm.weight - 1).sum()) % 0.01  # up and down

    kept: list[float] = []
    results = train(
        model,
        Likelihood(),
        RowBatches(make_rows(16), batch_size=2, epochs=2, seed=4),
        options.pop("config", CONFIG),
        output=Output(run_dir, lambda path: kept.append(figure())),
        validation=fixed_batches(make_rows(4, seed=2), 4),
        metric=TaskMetric(lambda: {"accuracy": figure(), "other": 1.0}, 2, decides) if measured else None,
        **options,
    )
    return list(results), kept


def test_the_metric_decides_which_step_is_kept(make_tiny, make_rows, tmp_path: Path):
    results, kept = go(make_tiny(), make_rows, tmp_path)
    measured = [result.metric for result in results if result.metric is not None]
    assert [result.step for result in results if result.metric is not None] == list(range(2, 17, 2))
    assert kept[-1] == max(measured) and kept == sorted(kept) and measured != sorted(measured)
    rows = read_jsonl(tmp_path / "metrics.jsonl")
    assert rows[1]["metric"] == rows[1]["metrics"]["task_accuracy"] == results[1].metric
    assert rows[1]["metrics"]["task_other"] == 1.0 and "metric" not in rows[0]
    by_loss, kept_by_loss = go(make_tiny(), make_rows, tmp_path / "loss", decides=False)
    losses = [result.validation_loss for result in by_loss if result.validation_loss is not None]
    assert len(kept_by_loss) == len({min(losses[: i + 1]) for i in range(len(losses))})


def test_measuring_leaves_the_training_alone(make_tiny, make_rows, tmp_path: Path):
    with_it, without = (
        go(make_tiny(), make_rows, tmp_path / str(measured), measured=measured)[0]
        for measured in (True, False)
    )
    for one, other in zip(with_it, without, strict=True):
        assert (one.loss, one.grad_norm, one.validation_loss) == (
            other.loss,
            other.grad_norm,
            other.validation_loss,
        )


def test_a_pause_changes_nothing(make_tiny, make_rows, tmp_path: Path):
    """Paused between checkpoints, validations and measurements, then resumed: bit for bit the same."""
    whole_model, model = make_tiny(), make_tiny()
    whole, kept = go(whole_model, make_rows, tmp_path / "whole")
    first, kept_first = go(model, make_rows, tmp_path / "paused", stop_after=7)
    assert [result.step for result in first] == list(range(1, 8))
    again, _ = go(make_tiny(), make_rows, tmp_path / "paused", stop_after=7)
    assert again == []
    model = make_tiny()
    rest, kept_rest = go(model, make_rows, tmp_path / "paused")
    timeless = [
        [{**row, "seconds": None} for row in read_jsonl(tmp_path / name / "metrics.jsonl")]
        for name in ("whole", "paused")
    ]
    assert timeless[0] == timeless[1] and len(first) + len(rest) == len(whole)
    assert kept == kept_first + kept_rest
    for name, value in named_arrays(whole_model.parameters()).items():
        np.testing.assert_array_equal(np.array(named_arrays(model.parameters())[name]), np.array(value))


def test_a_choice_by_metric_needs_one():
    with pytest.raises(ValueError, match=r'choose = "metric" needs measurements; set metric_every, such as'):
        SftConfig(choose="metric")
    assert SftConfig(choose="metric", metric_every=5).choose == "metric"


def test_a_rate_may_change_at_a_checkpoint_and_is_recorded(make_tiny, make_rows, tmp_path: Path):
    from smidgen.training.checkpoint import Checkpoints

    def checkpoints(config: SftConfig) -> Checkpoints:
        return Checkpoints(tmp_path, config, 16)

    lower = CONFIG.model_copy(update={"learning_rate": 1e-4})
    with pytest.raises(ConfigError, match=r"there is no checkpoint in .* to go on from; leave out --from"):
        checkpoints(lower).accept_changes()
    first, _ = go(make_tiny(), make_rows, tmp_path, stop_after=6)
    with pytest.raises(ConfigError, match=r"learning_rate was 0.01 and is now 0.0001"):
        go(make_tiny(), make_rows, tmp_path, config=lower)
    with pytest.raises(ConfigError, match=r"batch_size was 2 and is now 4"):
        checkpoints(lower.model_copy(update={"batch_size": 4})).accept_changes()
    assert checkpoints(CONFIG).accept_changes() == ""
    for _ in range(2):  # as by a run that was killed before its next checkpoint
        said = checkpoints(lower).accept_changes()
        assert said == "after step 6, learning_rate is 0.0001, before it was 0.01"
    rest, _ = go(make_tiny(), make_rows, tmp_path, config=lower)
    assert [result.step for result in rest] == list(range(7, 17))
    assert max(result.learning_rate for result in rest) <= 1e-4 < first[-1].learning_rate
    changes = read_jsonl(tmp_path / "changes.jsonl")
    assert changes == [{"step": 6, "changes": {"learning_rate": [0.01, 0.0001]}}]
