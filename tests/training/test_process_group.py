"""Several processes do together what one does: in one process, on the sums that they would exchange."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.tools import processes

from smidgen.backend import mx, nn
from smidgen.config import SftConfig
from smidgen.errors import WorkError
from smidgen.files import read_jsonl
from smidgen.training import process_group
from smidgen.training.batches import RowBatches, TrainRow, fixed_batches
from smidgen.training.loop import Output, optimizer_step, train, validate
from smidgen.training.objectives.likelihood import Likelihood
from smidgen.training.optimizer import AdamW
from smidgen.training.process_group import ProcessEnded, ProcessGroup, divided, join_processes

CONFIG = SftConfig(batch_size=2, checkpoint_every=2)


class Numbered:
    """What a group knows of itself."""

    def __init__(self, rank: int, size: int) -> None:
        self._rank, self._size = rank, size

    def rank(self) -> int:
        return self._rank

    def size(self) -> int:
        return self._size


class Recorded(ProcessGroup):
    """A process whose sums are noted and go to nobody."""

    def __init__(self, rank: int, size: int) -> None:
        super().__init__(Numbered(rank, size))
        self.sent: dict[str, np.ndarray] = {}
        self.losses: list[float] = []

    def sum(self, arrays: Mapping[str, mx.array]) -> dict[str, mx.array]:
        self.sent = {name: np.array(array) for name, array in arrays.items()}
        return dict(arrays)

    def told_by_all(self, value: Any) -> list[Any]:
        self.losses.append(0.0 if value is None else value[0])
        return [value]


@given(st.integers(1, 64), st.integers(1, 16), st.integers(1, 9))
def test_a_step_has_the_same_rows_for_any_number_of_processes(size: int, passes: int, processes: int):
    rows, (smaller, more) = size * passes, divided(size, passes, processes)
    assert smaller * more == rows and smaller <= size
    assert -(-more // processes) * smaller == -(-rows // processes)  # the most that one has to do
    assert divided(size, passes, 1) == (size, passes)


@given(st.integers(1, 20), st.integers(1, 8))
def test_every_batch_counts_once(count: int, size: int):
    batches = list(range(100, 100 + count))
    shares = [ProcessGroup(Numbered(rank, size)).own(batches) for rank in range(size)]
    assert sorted(batch for mine, factor in shares if factor for batch in mine) == batches
    assert all(len(mine) == 1 for mine, factor in shares if not factor)


@pytest.mark.parametrize("size", [2, 3, 5])
def test_the_shares_add_up_to_the_whole(
    size: int, make_tiny: Callable[[], nn.Module], make_rows: Callable[..., list[TrainRow]]
):
    batches = fixed_batches(make_rows(7), 2)  # four batches: one of five processes is idle
    assert len(batches) == 4

    def shared(rank: int, size: int) -> Recorded:
        group, model = Recorded(rank, size), make_tiny()
        validate(model, Likelihood(), batches, group)
        optimizer = AdamW(model, CONFIG)
        optimizer_step(
            model, Likelihood(), optimizer, batches, CONFIG, step=1, learning_rate=1e-3, group=group
        )
        return group

    alone, model = make_tiny(), make_tiny()
    step = optimizer_step(
        alone, Likelihood(), AdamW(alone, CONFIG), batches, CONFIG, step=1, learning_rate=1e-3
    )
    shares = [shared(rank, size) for rank in range(size)]
    validation, loss = (sum(share.losses[i] for share in shares) for i in (0, 1))
    assert loss == pytest.approx(step.loss, rel=1e-6)
    total = {name: sum(share.sent[name] for share in shares) for name in shares[0].sent}
    norm = np.sqrt(sum((value**2).sum() for value in total.values()))
    assert norm == pytest.approx(step.grad_norm, rel=1e-5)
    weight = sum(Likelihood().weight(batch) for batch in batches)
    assert validation / weight == pytest.approx(validate(model, Likelihood(), batches)[0], rel=1e-6)


def test_arrays_are_summed_in_pieces_and_keep_their_shapes(monkeypatch: pytest.MonkeyPatch):
    sizes: list[int] = []

    def doubled(array: mx.array, group: object) -> mx.array:
        sizes.append(array.size)
        return 2 * array

    monkeypatch.setattr(mx.distributed, "all_sum", doubled)
    monkeypatch.setattr(process_group, "BYTES_AT_ONCE", 40)
    arrays = {f"a{n}": mx.full((n, 2), n, mx.bfloat16) for n in (1, 2, 3, 4)}
    found = ProcessGroup(Numbered(0, 2)).sum(arrays)
    assert sizes == [6, 6, 8]
    for n in (1, 2, 3, 4):
        assert found[f"a{n}"].dtype == mx.float32
        np.testing.assert_array_equal(np.array(found[f"a{n}"]), np.full((n, 2), 2.0 * n))
    told = ProcessGroup(Numbered(0, 2)).told_by_leader
    monkeypatch.setattr(mx.distributed, "all_sum", lambda array, group: array)
    assert told({"é": [1, None]}) == {"é": [1, None]}


class Dying(Recorded):
    """A process whose peer ends before its fourth sum."""

    sums = 0

    def sum(self, arrays: Mapping[str, mx.array]) -> dict[str, mx.array]:
        self.sums += 1
        if self.sums == 4:
            raise ProcessEnded("another process has ended")
        return dict(arrays)

    def told_by_leader(self, value: Any, seconds: float | None = None) -> Any:
        return value

    def from_leader(self, arrays: Mapping[str, mx.array]) -> dict[str, mx.array]:
        return dict(arrays)


def test_the_end_of_a_process_saves_the_steps_before(
    make_tiny: Callable[[], nn.Module], make_rows: Callable[..., list[TrainRow]], tmp_path: Path
):
    def start(**options: Any):
        batches = RowBatches(make_rows(12), batch_size=2)
        return train(make_tiny(), Likelihood(), batches, CONFIG, output=Output(tmp_path), **options)

    with pytest.raises(ProcessEnded, match="step 4: another process has ended"):
        list(start(group=Dying(0, 2)))
    assert [path.name for path in sorted((tmp_path / "checkpoints").iterdir())] == [
        "step-00000002",
        "step-00000003",
    ]
    assert [result.step for result in start()] == [4, 5, 6]
    assert [row["step"] for row in read_jsonl(tmp_path / "metrics.jsonl")] == [1, 2, 3, 4, 5, 6]


def test_a_lost_connection_is_the_end_of_a_process(monkeypatch: pytest.MonkeyPatch):
    def fails(array: mx.array, group: object) -> mx.array:
        raise RuntimeError("[ring] connection to a peer was lost")

    monkeypatch.setattr(mx.distributed, "all_sum", fails)
    with pytest.raises(ProcessEnded, match=r"another process of the training has ended \(\[ring\] conn"):
        ProcessGroup(Numbered(1, 2)).is_needed()


def test_a_request_to_stop_is_noticed_at_the_next_sum(monkeypatch: pytest.MonkeyPatch):
    before = signal.getsignal(signal.SIGTERM)
    try:
        group = ProcessGroup(Numbered(1, 2))
        group.outlive_the_launcher()
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(ProcessEnded, match="this process was told to stop"):
            group.sum({"a": mx.zeros(1)})
    finally:
        signal.signal(signal.SIGTERM, before)


def wait_for_nobody() -> None:
    mx.distributed.all_sum = lambda array, group: time.sleep(60)
    ProcessGroup(Numbered(0, 2)).told_by_leader(1, seconds=0.1)


def test_a_process_that_never_answers_is_taken_for_dead():
    process = processes.start(wait_for_nobody)
    process.join(30)
    assert process.exitcode == 1


def test_processes_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("MLX_RANK", raising=False)
    assert join_processes().size == 1

    def init() -> None:
        raise RuntimeError("[ring] Couldn't connect")

    monkeypatch.setenv("MLX_RANK", "1")
    monkeypatch.setattr(mx.distributed, "init", init)
    with pytest.raises(WorkError, match=r"could not be reached: \[ring\] Couldn't connect; check the hosts"):
        join_processes()


# Real processes over loopback.

RECIPE = """
name = "tiny"
task = "judge"
[model]
base = "{base}"
[data]
train_limit = 20
validation_limit = 4
test_limit = 2
[train]
epochs = {epochs}
batch_size = 6
max_length = 512
learning_rate = 1e-3
validate_every = 3
checkpoint_every = 4
"""


def launch(recipe: Path, runs: Path, count: int) -> list[subprocess.Popen[str]]:
    """Start `smidgen train` in processes that find each other over loopback, as `mlx.launch` does."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    hosts = [[f"127.0.0.1:{open_.getsockname()[1]}"] for open_ in sockets]
    for open_ in sockets:
        open_.close()
    file = runs.parent / f"{runs.name}-hosts.json"
    file.write_text(json.dumps(hosts))
    command = [sys.executable, "-m", "smidgen", "train", str(recipe), "--runs", str(runs)]
    return [
        subprocess.Popen(
            command,
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1"}
            | ({"MLX_HOSTFILE": str(file), "MLX_RANK": str(rank)} if count > 1 else {}),
            stderr=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]


def finished(started: list[subprocess.Popen[str]]) -> bool:
    said = [process.communicate(timeout=900) for process in started]
    assert [process.returncode for process in started] == [0] * len(started), said
    assert all(lines == ("", "") for lines in said[1:])  # only process 0 tells what happens
    return True


def recipe_of(folder: Path, base: Path, epochs: int) -> Path:
    path = folder / f"tiny-{epochs}.toml"
    path.write_text(RECIPE.format(base=base, epochs=epochs))
    return path


def losses(runs: Path, kind: str) -> list[float]:
    return [row[kind] for row in read_jsonl(runs / "tiny/metrics.jsonl") if row[kind] is not None]


@pytest.mark.long
@pytest.mark.parametrize("count", [2, 3])
def test_processes_give_the_losses_of_one(count: int, tiny_model_dir: Path, tmp_path: Path):
    recipe = recipe_of(tmp_path, tiny_model_dir, 2)
    for runs, number in (("one", 1), ("several", count)):
        assert finished(launch(recipe, tmp_path / runs, number))
    for kind in ("loss", "validation_loss", "grad_norm"):
        np.testing.assert_allclose(
            losses(tmp_path / "several", kind), losses(tmp_path / "one", kind), rtol=1e-5, err_msg=kind
        )


@pytest.mark.long
@pytest.mark.parametrize("victim", [0, 1])
def test_a_process_that_dies_ends_the_run_with_a_sentence_and_a_checkpoint(
    victim: int, tiny_model_dir: Path, tmp_path: Path
):
    recipe, runs = recipe_of(tmp_path, tiny_model_dir, 5), tmp_path / "runs"
    started = launch(recipe, runs, 2)
    while len(read_jsonl(runs / "tiny/metrics.jsonl")) < 10:
        assert all(process.poll() is None for process in started), started[0].communicate()
        time.sleep(0.01)
    started[victim].kill()
    said = started[1 - victim].communicate(timeout=60)[1]
    assert started[1 - victim].returncode == 1
    assert (
        f"error: process {2 - victim} of 2: " in said and "another process of the training has ended" in said
    )
    assert "run the same command again to resume" in said
    started[victim].communicate()
    done = len(read_jsonl(runs / "tiny/metrics.jsonl"))
    checkpoints = sorted(path.name for path in (runs / "tiny/checkpoints").iterdir())
    saved = int(checkpoints[-1].removeprefix("step-"))
    assert done - 4 <= saved <= done
    # process 0 saves the last step, unless the other one died while both were validating
    assert saved % 4 == 0 or (victim == 1 and saved == done)
    assert finished(launch(recipe, runs, 2))
    steps = [row["step"] for row in read_jsonl(runs / "tiny/metrics.jsonl")]
    assert steps == list(range(1, len(steps) + 1)) and len(steps) > done
    assert finished(launch(recipe, tmp_path / "whole", 2))
    assert losses(runs, "loss") == losses(tmp_path / "whole", "loss")
