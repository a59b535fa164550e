import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.tools import processes

from smidgen.backend import mx, nn
from smidgen.config import ArchitectureConfig, SftConfig
from smidgen.data.types import StepResult
from smidgen.errors import ConfigError, ModelError
from smidgen.files import read_jsonl
from smidgen.models.graph import create, named_arrays
from smidgen.training.batches import RowBatches, TrainRow, fixed_batches
from smidgen.training.loop import Output, train
from smidgen.training.objectives.likelihood import Likelihood

SHAPE = ArchitectureConfig(
    hidden_size=32, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1, head_dim=16,
    intermediate_size=64, vocab_size=97,
)  # fmt: skip
CONFIG = SftConfig(
    batch_size=2, gradient_accumulation=2, learning_rate=1e-2, dropout=0.2, weight_decay=0.1, epochs=4,
    checkpoint_every=5, validate_every=3, seed=4,
)  # fmt: skip
NUM_STEPS = 24


def make_rows(count: int, seed: int) -> list[TrainRow]:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(4, 40, count)
    return [TrainRow(rng.integers(0, 97, n).astype(np.int32), np.arange(n) >= n // 2) for n in lengths]


def start(run_dir: Path) -> tuple[nn.Module, Iterator[StepResult]]:
    model = create(SHAPE, seed=0)[0]
    batches = RowBatches(make_rows(23, 1), batch_size=2, gradient_accumulation=2, epochs=4, seed=4)

    def save(path: Path) -> None:
        path.mkdir(exist_ok=True)
        model.save_weights(str(path / "w.safetensors"))

    validation = fixed_batches(make_rows(6, 2), 4)
    return model, train(
        model, Likelihood(), batches, CONFIG, output=Output(run_dir, save), validation=validation
    )


def start_slowly(run_dir: Path) -> None:
    for _ in start(run_dir)[1]:
        time.sleep(0.05)


def weights(model: nn.Module) -> dict[str, np.ndarray]:
    return {name: np.array(value) for name, value in named_arrays(model.parameters()).items()}


def test_killed_and_resumed_equals_uninterrupted_bit_for_bit(tmp_path: Path):
    child = processes.start(start_slowly, tmp_path / "killed")
    while len(read_jsonl(tmp_path / "killed" / "metrics.jsonl")) < 13:
        assert child.is_alive(), "the child ended by itself"
        time.sleep(0.01)
    child.kill()
    child.join()
    done = len(read_jsonl(tmp_path / "killed" / "metrics.jsonl"))
    assert 13 <= done < NUM_STEPS
    whole_model, whole = start(tmp_path / "whole")
    whole = list(whole)
    resumed_model, resumed = start(tmp_path / "killed")
    resumed = list(resumed)
    assert resumed[0].step == done // 5 * 5 + 1
    timeless = [
        [{**row, "seconds": None} for row in read_jsonl(tmp_path / name / "metrics.jsonl")]
        for name in ("whole", "killed")
    ]
    assert [row["step"] for row in timeless[0]] == list(range(1, NUM_STEPS + 1))
    assert timeless[0] == timeless[1]
    for name, value in weights(whole_model).items():
        np.testing.assert_array_equal(weights(resumed_model)[name], value, err_msg=name)
    best = [mx.load(str(tmp_path / name / "best" / "w.safetensors")) for name in ("whole", "killed")]
    for name, value in best[0].items():
        np.testing.assert_array_equal(best[1][name], value, err_msg=name)


def test_a_finished_run_keeps_two_checkpoints_and_does_nothing_more(tmp_path: Path):
    first, steps = start(tmp_path)
    list(steps)
    again, steps = start(tmp_path)
    assert list(steps) == []
    for name, value in weights(first).items():
        np.testing.assert_array_equal(weights(again)[name], value)
    assert len(read_jsonl(tmp_path / "metrics.jsonl")) == NUM_STEPS
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == [
        "step-00000020",
        "step-00000024",
    ]


def run(tmp_path: Path, rows: list[TrainRow], shape: ArchitectureConfig | None = None, **settings) -> list:
    config = SftConfig(**{"batch_size": 2, "checkpoint_every": 2, **settings})
    model = create(shape or SHAPE, seed=0)[0]
    return list(train(model, Likelihood(), RowBatches(rows, batch_size=2), config, output=Output(tmp_path)))


def test_metrics_of_a_run_without_a_checkpoint_start_anew(tmp_path: Path):
    rows = make_rows(6, 1)
    for _ in range(2):
        run(tmp_path, rows, checkpoint_every=0)
        assert [row["step"] for row in read_jsonl(tmp_path / "metrics.jsonl")] == [1, 2, 3]
    assert not (tmp_path / "checkpoints").exists()


def test_another_run_in_the_same_folder_is_refused(tmp_path: Path):
    rows = make_rows(6, 1)
    run(tmp_path, rows)
    with pytest.raises(
        ConfigError, match=r"contains a run with other settings: learning_rate was 0.0001 and is now"
    ):
        run(tmp_path, rows, learning_rate=0.1)
    with pytest.raises(ConfigError, match=r"steps was 3 and is now 2\. Restore them to resume it, or name"):
        run(tmp_path, rows[:4])
    wider = SHAPE.model_copy(update={"intermediate_size": 96})
    with pytest.raises(ConfigError, match=r"has trainable weights of other names or shapes than the model"):
        run(tmp_path, rows, shape=wider)
    assert run(tmp_path, rows, checkpoint_every=1) == []


def test_a_damaged_checkpoint_is_named(tmp_path: Path):
    rows = make_rows(6, 1)
    run(tmp_path, rows)
    file = tmp_path / "checkpoints" / "step-00000003" / "optimizer.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ModelError, match=r"step-00000003/optimizer\.safetensors is truncated or damaged"):
        run(tmp_path, rows)


def test_an_early_stop_is_remembered(tmp_path: Path):
    rows = make_rows(8, 1)
    config = SftConfig(
        batch_size=2, learning_rate=0.5, warmup=0, validate_every=1, patience=1, checkpoint_every=100
    )

    def go() -> list:
        model = create(SHAPE, seed=0)[0]
        batches = RowBatches(rows, batch_size=2, epochs=10)
        return list(
            train(
                model,
                Likelihood(),
                batches,
                config,
                output=Output(tmp_path),
                validation=fixed_batches(rows, 4),
            )
        )

    assert 1 < len(go()) < 40
    assert go() == []
