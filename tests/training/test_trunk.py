"""The states of frozen blocks are computed once for every row."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tests.tools.rows import join_rows

from smidgen.backend import mx, nn
from smidgen.config import LoraConfig, SftConfig
from smidgen.errors import WorkError
from smidgen.models.graph import body
from smidgen.models.lora import add_lora
from smidgen.training.batches import RowBatches, TrainRow, fixed_batches, pack, pad
from smidgen.training.hidden import BodyPass, frozen_trunk
from smidgen.training.loop import train
from smidgen.training.objectives.likelihood import Likelihood
from smidgen.training.row_cache import RowCache, row_key
from smidgen.training.trunk import StateDtype, Trunk, trunk_states

Rows = Callable[..., list[TrainRow]]
LORA = LoraConfig(rank=2, num_layers=1)


def counted(trunk: Trunk) -> list[int]:
    """Count the rows that a trunk computes from now on."""
    seen: list[int] = []
    run = trunk._run
    trunk._run = lambda batch: (seen.append(len(batch.spans)), run(batch))[1]
    return seen


def cached(model: nn.Module, rows: list[TrainRow], folder: Path, dtype: StateDtype = "float32") -> Trunk:
    trunk = frozen_trunk(model)
    assert trunk is not None
    trunk_states(trunk, model, rows, dtype).open(folder)
    return trunk


def losses(model: nn.Module, rows: list[TrainRow], trunk: Trunk | None, steps: int = 12) -> list[float]:
    config = SftConfig(lora=LORA, epochs=3, batch_size=4, learning_rate=0.01, validate_every=4)
    batches = RowBatches(rows[:16], batch_size=4, epochs=3, capacity=1 << 30)
    validation = fixed_batches(rows[16:], 4)
    results = train(model, Likelihood(BodyPass(trunk=trunk)), batches, config, validation=validation)
    return [value for result in results for value in (result.loss, result.validation_loss or 0.0)]


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("float16", 1e-3)])
def test_the_losses_of_a_training_are_the_same(
    make_tiny: Callable[[], nn.Module], make_rows: Rows, tmp_path: Path, dtype: StateDtype, tolerance: float
):
    rows = make_rows(20)
    found = []
    for folder in (None, tmp_path / "states"):
        model = make_tiny()
        add_lora(model, LORA, 0)
        trunk = cached(model, rows, folder, dtype) if folder else None
        seen = counted(trunk) if trunk else []
        found.append(losses(model, rows, trunk))
        if trunk:
            assert sum(seen) == len(rows), "every row once, in training and validation"
    np.testing.assert_allclose(found[1], found[0], rtol=tolerance)


def test_a_later_process_reads_what_an_earlier_one_wrote(tiny: nn.Module, make_rows: Rows, tmp_path: Path):
    rows = make_rows(6)
    add_lora(tiny, LORA, 0)
    first = cached(tiny, rows, tmp_path / "states")
    wanted = np.array(first.states(pad(rows[:4])))
    second = cached(tiny, rows, tmp_path / "states")
    seen = counted(second)
    np.testing.assert_array_equal(second.states(pad(rows[:4])), wanted)
    assert not seen
    second.states(pad(rows))
    assert seen == [6]


def test_packed_rows_are_found_by_their_tokens(tiny: nn.Module, make_rows: Rows, tmp_path: Path):
    rows = make_rows(5)
    add_lora(tiny, LORA, 0)
    trunk = cached(tiny, rows, tmp_path / "states")
    padded = pad(rows)
    states = np.array(trunk.states(padded)).reshape(-1, 32)
    seen = counted(trunk)
    packed = pack(rows, 1 << 30)
    found = np.array(trunk.states(packed)).reshape(-1, 32)
    assert not seen
    for start, size in packed.spans.tolist():
        tokens = packed.inputs.reshape(-1)[start : start + size]
        place = next(
            there
            for there, length in padded.spans.tolist()
            if np.array_equal(padded.inputs.reshape(-1)[there : there + length], tokens)
        )
        np.testing.assert_array_equal(found[start : start + size], states[place : place + size])


def test_texts_in_a_row_are_not_taken_for_one(make_rows: Rows, tmp_path: Path):
    one, other = make_rows(2)
    joined = join_rows([one, other])
    whole = TrainRow(joined.token_ids, joined.loss_mask)
    size = len(joined.token_ids) - 1
    cache = RowCache(tmp_path / "states", {row_key(joined): size}, np.dtype(("f4", (4,))), "")
    cache.write(row_key(joined), np.ones((size, 4), np.float32))
    assert cache.read(row_key(joined)) is not None and cache.read(row_key(whole)) is None


def test_a_damaged_row_is_computed_again(tiny: nn.Module, make_rows: Rows, tmp_path: Path):
    rows = make_rows(3)
    add_lora(tiny, LORA, 0)
    wanted = np.array(cached(tiny, rows, tmp_path / "states").states(pad(rows)))
    damaged = np.memmap(tmp_path / "states" / "items", np.uint8, "r+")
    damaged[7] ^= 1
    damaged.flush()
    trunk = cached(tiny, rows, tmp_path / "states")
    seen = counted(trunk)
    np.testing.assert_array_equal(trunk.states(pad(rows)), wanted)
    assert seen == [3]


def test_other_weights_have_other_states(tiny: nn.Module, make_rows: Rows, tmp_path: Path):
    rows = make_rows(3)
    add_lora(tiny, LORA, 0)
    cached(tiny, rows, tmp_path / "states").states(pad(rows))
    weight = body(tiny).layers[0].mlp.up_proj
    weight.weight = weight.weight * 1.5
    trunk = cached(tiny, rows, tmp_path / "states")
    seen = counted(trunk)
    trunk.states(pad(rows))
    assert seen == [3]


def test_a_number_too_large_is_refused(tmp_path: Path, make_rows: Rows):
    rows = make_rows(1)
    cache = RowCache(tmp_path / "states", {}, np.dtype(("f2", (2,))), "")
    trunk = Trunk(1, lambda batch: mx.full((*batch.inputs.shape, 2), 1e6))
    trunk.keep(cache)
    with pytest.raises(
        WorkError, match=r"a hidden state of 1e\+06 does not fit float16; set train.trunk_cache"
    ):
        trunk.states(pad(rows))


def test_a_full_disk_is_refused(
    tiny: nn.Module, make_rows: Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    add_lora(tiny, LORA, 0)
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 10}))
    with pytest.raises(WorkError, match=r"the states of the frozen blocks need 0\.0 GB on disk, and 0\.0 GB"):
        cached(tiny, make_rows(3), tmp_path / "states")
    assert not (tmp_path / "states").exists()
