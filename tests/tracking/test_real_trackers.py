"""The trackers with their real packages, writing to a local folder; W&B offline.

make trackers
"""

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from smidgen.cli.app import exit_code
from smidgen.files import read_jsonl
from smidgen.tracking.tracked import Logged, TrackedRun
from smidgen.tracking.tracker import TRACKERS, step_values

pytestmark = [
    pytest.mark.trackers,
    pytest.mark.filterwarnings("ignore"),  # those of other packages
]
for package in ("tensorboard", "wandb", "mlflow"):
    pytest.importorskip(package, reason=f"needs {package}: pip install 'smidgen[{package}]'")

RECIPE = """
name = "tracked"
[track]
to = ["tensorboard", "wandb", "mlflow"]
project = "tiny"
[model.architecture]
hidden_size = 32
num_hidden_layers = 1
num_attention_heads = 2
num_key_value_heads = 1
head_dim = 16
intermediate_size = 32
vocab_size = 400
[data]
validation_limit = 2
[train]
method = "pretrain"
total_tokens = 1_500
batch_size = 2
max_length = 64
validate_every = 5
checkpoint_every = 5
"""


@pytest.fixture(autouse=True)
def local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """No tracker reaches for a network."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setattr("smidgen.pipeline.corpus.TOKENIZER_DOCUMENTS", 200)


def seen(name: str, folder: Path, run_id: str, figure: str) -> list[tuple[int, float]]:
    """What a tracker has of a figure, read back from its files."""
    if name == "tensorboard":
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0})
        events.Reload()
        return [(point.step, point.value) for point in events.Scalars(figure)]
    if name == "mlflow":
        from mlflow import MlflowClient

        return [(point.step, point.value) for point in MlflowClient().get_metric_history(run_id, figure)]
    import wandb

    wandb.teardown()  # the process that writes the files
    return [
        (item["_step"], item[figure])
        for path in sorted(folder.glob("wandb/offline-run-*/*.wandb"))
        for item in wandb_history(path)
        if figure in item
    ]


def wandb_history(path: Path) -> list[dict[str, Any]]:
    """The rows of a run file of W&B, which is a log of LevelDB after a header of 7 bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, place, parts, rows = path.read_bytes(), 7, b"", []
    while place < len(data):
        room = 32768 - place % 32768
        if room < 7:  # too short for the head of a record
            place += room
            continue
        _, size, kind = struct.unpack_from("<IHB", data, place)
        parts += data[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # whole, or the last part
            record, parts = Record.FromString(parts), b""
            items = record.history.item
            rows.append(
                {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items}
            )
    return rows


def test_every_tracker_has_the_steps_of_the_run_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "tracked.toml").write_text(RECIPE)
    command = ["train", "tracked.toml", "--runs", "runs"]
    assert exit_code(command) == 0
    assert exit_code(command) == 0  # nothing to do, and nothing to send
    assert "warning" not in capsys.readouterr().err
    folder = tmp_path / "runs/tracked"
    rows, state = read_jsonl(folder / "metrics.jsonl"), json.loads((folder / "tracking.json").read_text())
    assert len(rows) == 12 and {name: known["step"] for name, known in state.items()} == dict.fromkeys(
        TRACKERS, 12
    )
    for name, known in state.items():
        for figure in ("train/loss", "train/learning_rate", "validation/loss"):
            expected = [(row["step"], step_values(row)[figure]) for row in rows if figure in step_values(row)]
            found = seen(name, folder, known["run"], figure)
            assert [step for step, _ in found] == [step for step, _ in expected], (name, figure)
            assert [value for _, value in found] == pytest.approx([value for _, value in expected], rel=1e-6)


@pytest.mark.parametrize("name", TRACKERS)
def test_a_run_goes_on_where_it_was(name: str, tmp_path: Path):
    def row(step: int) -> Logged:
        return Logged(step, {"train/loss": 1 / step})

    first = TRACKERS[name](TrackedRun("r", "tiny", tmp_path, {"a": {"b": 1}}))
    assert first.step == 0
    first.log([row(1), row(2)])
    first.close()
    again = TRACKERS[name](TrackedRun("r", "tiny", tmp_path, {}, id=first.id, step=2))
    assert (again.id, again.step) == (first.id, 2)
    again.log([row(3)])
    again.summarise({"after/accuracy": 0.5})
    again.close()
    assert [step for step, _ in seen(name, tmp_path, first.id, "train/loss")] == [1, 2, 3]
    if name != "wandb":
        assert seen(name, tmp_path, first.id, "after/accuracy") == [(3, 0.5)]
