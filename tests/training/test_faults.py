"""A loss that is not finite, and a disk that is full: one sentence, and the checkpoint before it is whole."""

import errno
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from smidgen.backend import mx, nn
from smidgen.config import SftConfig
from smidgen.errors import WorkError
from smidgen.files import atomic_folder, read_jsonl
from smidgen.training import checkpoint
from smidgen.training.batches import RowBatches, TrainRow, fixed_batches, pad
from smidgen.training.loop import Output, train
from smidgen.training.objectives.likelihood import Likelihood

CONFIG = SftConfig(batch_size=4, learning_rate=1e-3, checkpoint_every=1, validate_every=1)
Rows = Callable[..., list[TrainRow]]


def named(rows: list[TrainRow]) -> list[TrainRow]:
    return [replace(row, id=f"row-{number}") for number, row in enumerate(rows)]


def spoilt(row: TrainRow) -> TrainRow:
    """A row whose loss is infinite."""
    return replace(row, weights=np.full(len(row.token_ids), np.inf, np.float32))


def test_a_row_that_spoils_the_step_is_named(tiny: nn.Module, make_rows: Rows):
    rows = named(make_rows(4))
    rows[2] = spoilt(rows[2])
    with pytest.raises(
        WorkError,
        match=r"step 1: the loss is nan .*; it comes from the row 'row-2'; lower train\.learning_rate, now "
        r"0\.001, and run again",
    ):
        next(train(tiny, Likelihood(), RowBatches(rows, batch_size=4), CONFIG))


def test_a_row_without_a_name_is_counted(tiny: nn.Module, make_rows: Rows):
    rows = make_rows(2, shortest=40)
    rows = [spoilt(rows[0]), spoilt(rows[1]), *make_rows(1)]
    batches = RowBatches(rows, batch_size=1, gradient_accumulation=3)
    with pytest.raises(WorkError, match=r"it comes from the rows 1 of its batch, 1 of its batch"):
        next(train(tiny, Likelihood(), batches, CONFIG))


def test_one_row_alone_cannot_be_told_from_the_weights(tiny: nn.Module, make_rows: Rows):
    (row,) = named(make_rows(1))
    with pytest.raises(WorkError, match=r"it comes from the only row 'row-0' or from the weights; lower"):
        next(train(tiny, Likelihood(), RowBatches([spoilt(row)], batch_size=1), CONFIG))


def test_spoilt_weights_are_told_from_a_spoilt_row(tiny: nn.Module, make_rows: Rows, tmp_path: Path):
    """The weights that fail are those of the newest checkpoint, so the one before it is the last good."""
    batches = RowBatches(named(make_rows(16)), batch_size=4)
    steps = train(tiny, Likelihood(), batches, CONFIG, output=Output(tmp_path))
    for _ in range(3):
        next(steps)
    tiny.model.norm.weight = mx.full((32,), float("nan"))
    with pytest.raises(
        WorkError,
        match=r"step 4: the loss is nan .*; all 4 rows give that, so the weights are at fault; the "
        r"checkpoint .*/step-00000002 is kept: lower train\.learning_rate, now 0\.001, and go on from it "
        r"with `smidgen train RECIPE --from-checkpoint`",
    ):
        next(steps)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000002"]
    assert [row["step"] for row in read_jsonl(tmp_path / "metrics.jsonl")] == [1, 2, 3]


def test_a_validation_that_is_not_finite_stops_too(tiny: nn.Module, make_rows: Rows, tmp_path: Path):
    validation = named(make_rows(3, seed=5))
    validation[0] = spoilt(validation[0])
    steps = train(
        tiny, Likelihood(), RowBatches(make_rows(4), batch_size=4), CONFIG, output=Output(tmp_path),
        validation=fixed_batches(validation, 4),
    )  # fmt: skip
    with pytest.raises(
        WorkError,
        match=r"step 1: the validation loss is nan.*the row 'row-0'; there was no checkpoint yet: lower",
    ):
        next(steps)


def test_rows_are_taken_out_of_a_batch_whole(tiny: nn.Module, make_rows: Rows):
    rows = named(make_rows(3))
    alone = dict(pad(rows).singly())
    assert list(alone) == ["'row-0'", "'row-1'", "'row-2'"]
    losses = [Likelihood().loss(tiny, batch).loss.item() for batch in alone.values()]
    assert sum(losses) == pytest.approx(Likelihood().loss(tiny, pad(rows)).loss.item(), rel=1e-4)


def full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def save_in(model: nn.Module) -> Callable[[Path], None]:
    def save(path: Path) -> None:
        with atomic_folder(path, replace=True) as folder:
            mx.save_safetensors(str(folder / "w.safetensors"), {"norm": model.model.norm.weight})

    return save


@pytest.mark.slow
@pytest.mark.parametrize("what", ["best", "metrics", "checkpoint"])
def test_a_full_disk_loses_nothing(make_tiny, make_rows: Rows, tmp_path: Path, monkeypatch, what: str):
    def start(run_dir: Path):
        model = make_tiny()
        return train(
            model, Likelihood(), RowBatches(make_rows(16), batch_size=4, epochs=2), CONFIG,
            output=Output(run_dir, save_in(model)), validation=fixed_batches(make_rows(4, seed=5), 4),
        )  # fmt: skip

    whole = list(start(tmp_path / "whole"))
    steps = start(tmp_path / "full")
    for _ in range(3):
        next(steps)
    place = {
        "best": (mx, "save_safetensors"),
        "metrics": (os, "write"),
        "checkpoint": (checkpoint.mx, "save_safetensors"),
    }[what]
    with monkeypatch.context() as disk:
        disk.setattr(*place, full)
        if what == "checkpoint":  # only the validation's best is written before it
            disk.setattr("smidgen.training.loop.note", lambda *_, **__: False)
        with pytest.raises(WorkError, match=r"could not be written: no space left on the disk; free some"):
            next(steps)
    kept = sorted(path.name for path in (tmp_path / "full" / "checkpoints").iterdir())
    assert kept == ["step-00000002", "step-00000003"] and not list((tmp_path / "full").rglob("*.partial"))
    rest = list(start(tmp_path / "full"))
    assert rest[0].step == 4
    assert [result.loss for result in rest] == [result.loss for result in whole[3:]]
