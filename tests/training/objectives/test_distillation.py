"""Distillation through the loop: cut and packed batches, stored targets and resumed runs are the same."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from smidgen.backend import mx, nn
from smidgen.config import ArchitectureConfig, LoraConfig, SftConfig, TopTeacherConfig
from smidgen.cpu_kernels import TopTargets
from smidgen.models.graph import create, named_arrays
from smidgen.models.lora import add_lora
from smidgen.training import losses
from smidgen.training.batches import RowBatches, TrainRow, fixed_batches, pack, pad
from smidgen.training.loop import Output, train, validate
from smidgen.training.objectives.distillation import Distillation
from smidgen.training.objectives.likelihood import Likelihood
from smidgen.training.teacher import Teacher

Rows = Callable[..., list[TrainRow]]
LARGER = ArchitectureConfig(
    hidden_size=64, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2, head_dim=16,
    intermediate_size=64, vocab_size=103,
)  # fmt: skip
CONFIG = SftConfig(batch_size=4, epochs=3, learning_rate=1e-2, validate_every=4, checkpoint_every=3)


def teacher_of(**settings: object) -> Teacher:
    """A teacher whose embedding is padded by six tokens, and which is sure of something."""
    model = create(LARGER, seed=5)[0]
    model.model.embed_tokens.weight = 20 * model.model.embed_tokens.weight
    return Teacher(model, TopTeacherConfig(model="larger", **settings), words=97)


def steps(
    model: nn.Module, rows: list[TrainRow], teacher: Teacher, run_dir: Path | None = None, stop: int = 100
) -> list[tuple]:
    batches = RowBatches(rows[:16], batch_size=4, epochs=3, capacity=1 << 30)
    validation = fixed_batches(rows[16:] or rows, 4)
    found = []
    for result in train(
        model,
        Distillation(teacher),
        batches,
        CONFIG,
        output=run_dir and Output(run_dir),
        validation=validation,
    ):
        found.append((result.step, result.loss, result.validation_loss, dict(result.metrics)))
        if result.step == stop:
            break
    return found


def counted(teacher: Teacher) -> list[int]:
    seen: list[int] = []
    ask = teacher._top
    teacher._top = lambda batch, count: (seen.append(len(batch.rows)), ask(batch, count))[1]
    return seen


def test_a_student_comes_to_its_teacher(tiny: nn.Module, make_rows: Rows):
    found = steps(tiny, make_rows(20), teacher_of(hard_weight=0.0))
    assert found[-1][3]["divergence"] < 0.8 * found[0][3]["divergence"]
    assert found[0][1] == pytest.approx(found[0][3]["divergence"])
    assert {"hard_loss", "divergence", "validation_hard_loss", "validation_divergence"} == set(found[3][3])


def test_with_the_text_alone_it_is_the_likelihood(tiny: nn.Module, make_rows: Rows):
    batches = [pad(make_rows(6))]
    ours, metrics = validate(tiny, Distillation(teacher_of(hard_weight=1.0)), batches)
    wanted, _ = validate(tiny, Likelihood(), batches)
    assert ours == pytest.approx(wanted, rel=1e-6) and metrics["hard_loss"] == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("top_k", [None, 5])
def test_cut_and_packed_batches_and_weights_are_the_same(tiny: nn.Module, make_rows: Rows, top_k: int | None):
    rows = [replace(row, weights=np.linspace(0, 2, len(row), dtype=np.float32)) for row in make_rows(9)]
    objective = Distillation(teacher_of(top_k=top_k, temperature=1.5))
    whole, metrics = validate(tiny, objective, [pad(rows)])
    for batches in ([pad(rows[:4]), pad(rows[4:])], [pack(rows, 1 << 30)], [pack(rows, 60)]):
        found, parts = validate(tiny, objective, batches)
        assert found == pytest.approx(whole, rel=1e-4)
        assert parts == pytest.approx(metrics, rel=1e-4)


@pytest.mark.slow
def test_stored_targets_are_read_by_every_epoch_and_a_resumed_run_is_the_same(
    make_tiny: Callable[[], nn.Module], make_rows: Rows, tmp_path: Path
):
    rows = make_rows(20)
    asked = steps(make_tiny(), rows, teacher_of(top_k=8))
    teacher = teacher_of(top_k=8)
    teacher.pending(rows).open(tmp_path / "teacher")
    seen = counted(teacher)
    stored = steps(make_tiny(), rows, teacher, tmp_path / "whole")
    assert sum(seen) == len(rows), "every row once, in training and validation"
    for (_, loss, *_), (_, wanted, *_) in zip(stored, asked, strict=True):
        assert loss == pytest.approx(wanted, rel=1e-4)

    for stop in (5, 100):
        again = teacher_of(top_k=8)
        again.pending(rows).open(tmp_path / "again")
        resumed = steps(make_tiny(), rows, again, tmp_path / "cut", stop)
    assert resumed == stored[3:], "from the checkpoint of step 3, bit for bit"


def test_other_temperatures_weights_and_masks_have_other_targets(make_rows: Rows, tmp_path: Path):
    rows = make_rows(3)
    for settings, changed in (({}, rows), ({"temperature": 2.0}, rows), ({}, other_masks(rows))):
        teacher = teacher_of(top_k=4, **settings)
        teacher.pending(changed).open(tmp_path / "teacher")
        seen = counted(teacher)
        teacher.targets(pad(changed))
        assert seen == [3]


def other_masks(rows: list[TrainRow]) -> list[TrainRow]:
    return [replace(row, loss_mask=np.arange(len(row)) >= 1) for row in rows]


def test_an_adapter_learns_and_the_teacher_does_not(tiny: nn.Module, make_rows: Rows):
    tiny.model.embed_tokens.weight = 20 * tiny.model.embed_tokens.weight  # so that blocks move the logits
    add_lora(tiny, LoraConfig(rank=4), 0)
    teacher, rows = teacher_of(), make_rows(16)
    loss, _ = validate(tiny, Distillation(teacher), [pad(rows)])
    before = {name: np.array(value) for name, value in named_arrays(teacher.model.parameters()).items()}
    steps(tiny, rows, teacher)
    assert validate(tiny, Distillation(teacher), [pad(rows)])[0] < loss - 0.02
    for name, value in named_arrays(teacher.model.parameters()).items():
        np.testing.assert_array_equal(value, before[name])


def test_padded_positions_of_a_gpu_have_targets_too(
    tiny: nn.Module, make_rows: Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    rows = make_rows(4)
    batch = pad(rows)
    teacher = teacher_of(top_k=4)
    teacher.pending(rows).open(tmp_path / "teacher")
    here = Distillation(teacher).loss(tiny, batch)
    monkeypatch.setattr(losses, "device", lambda: type("Device", (), {"kind": "metal"}))
    monkeypatch.setattr(losses.cpu_kernels, "usable", lambda *arrays: False)
    targets = teacher.targets(batch)
    assert isinstance(targets, TopTargets) and len(targets.ids) == len(batch.targets) > batch.trained_tokens
    there, gradient = nn.value_and_grad(tiny, lambda batch: Distillation(teacher).loss(tiny, batch).loss)(
        batch
    )
    assert float(there) == pytest.approx(float(here.loss), rel=1e-4)
    assert all(mx.isfinite(value).all() for value in named_arrays(gradient).values())


def test_the_loss_of_each_source_is_told_beside_the_parts(tiny: nn.Module, make_rows: Rows):
    rows = [replace(row, source=name) for row, name in zip(make_rows(4), "aabb", strict=True)]
    objective = Distillation(teacher_of())
    found = objective.loss(tiny, pad(rows)).metrics
    for name in "ab":
        own = pad([row for row in rows if row.source == name])
        mean = objective.loss(tiny, own).loss.item() / objective.weight(own)
        source = found[f"loss/{name}"]
        assert float(source.total) / source.weight == pytest.approx(mean, rel=1e-4)
