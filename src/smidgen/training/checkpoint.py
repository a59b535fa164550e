"""Checkpoints, from which a killed run resumes as if it had not been interrupted.

A checkpoint contains the trainable weights, the optimiser state and, as JSON, the step, the position in the
data and the best validation loss so far. There is no random state to save: dropout is seeded by the step.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mlx.utils import tree_unflatten

from smidgen.backend import mx, nn
from smidgen.config import TrainConfig
from smidgen.errors import ConfigError
from smidgen.files import atomic_folder, read_json
from smidgen.models.graph import named_arrays
from smidgen.models.weights import read_safetensors
from smidgen.runs import Run, refuse_changes
from smidgen.training.optimizer import AdamW
from smidgen.training.process_group import ProcessGroup

KEEP = 2
FREE_TO_CHANGE = frozenset({"checkpoint_every", "max_engine_gap", "max_kl"})
"""Settings that may differ when a run resumes."""
CHANGEABLE = frozenset(
    {"learning_rate", "schedule", "warmup", "min_learning_rate_ratio", "weight_decay", "gradient_clip"}
)
"""Settings that may be changed on purpose at a checkpoint; the change is recorded."""
CHANGES = "changes.jsonl"
"""One line for each checkpoint that training went on from with other settings: step, old and new values."""


@dataclass
class TrainingProgress:
    """Progress of a run, without its arrays."""

    step: int = 0
    best_loss: float | None = None
    best_metric: float | None = None
    validations_without_best: int = 0
    stopped: bool = False

    @property
    def has_best(self) -> bool:
        """Whether a step has been kept as the best."""
        return self.best_loss is not None or self.best_metric is not None


class Checkpoints:
    """The newest checkpoints of a run folder, under `checkpoints/step-NNNNNNNN/`."""

    def __init__(self, run_dir: Path, config: TrainConfig, num_steps: int) -> None:
        self._run = Run(run_dir)
        self._dir = run_dir / "checkpoints"
        self._settings = {**config.model_dump(mode="json"), "steps": num_steps}

    def save(
        self, progress: TrainingProgress, model: nn.Module, optimizer: AdamW, position: dict[str, Any]
    ) -> None:
        """Write one checkpoint atomically and delete all but the newest `KEEP`."""
        state = {"progress": asdict(progress), "position": position, "settings": self._settings}
        with atomic_folder(self._place(progress.step), replace=True) as folder:
            mx.save_safetensors(
                str(folder / "weights.safetensors"), named_arrays(model.trainable_parameters())
            )
            mx.save_safetensors(str(folder / "optimizer.safetensors"), optimizer.state)
            (folder / "state.json").write_text(json.dumps(state, indent=2), encoding="utf-8")
        self._prune()

    @property
    def newest(self) -> Path | None:
        """Folder of the newest checkpoint; None if there is none."""
        return next(reversed(self._all()), None)

    def discard(self, step: int) -> None:
        """Delete the checkpoint of a step, if there is one, because its weights are of no use."""
        shutil.rmtree(self._place(step), ignore_errors=True)

    def accept_changes(self) -> str:
        """Let training go on from the newest checkpoint with other settings, and record them in `CHANGES`.

        Returns:
            The changes as a sentence; empty if there are none.

        Raises:
            ConfigError: there is no checkpoint, or other settings than `CHANGEABLE` differ.
        """
        if self.newest is None:
            raise ConfigError(
                f"there is no checkpoint in {self._dir} to go on from; leave out --from-checkpoint"
            )
        state = read_json(self.newest / "state.json")
        before, step = state["settings"], state["progress"]["step"]
        free = FREE_TO_CHANGE | CHANGEABLE
        refuse_changes(
            self._run.folder, before, {name: v for name, v in self._settings.items() if name not in free}
        )
        changed = {
            name: [before[name], self._settings[name]]
            for name in sorted(CHANGEABLE)
            if before[name] != self._settings[name]
        }
        self._run.keep_jsonl(CHANGES, lambda row: row["step"] < step)
        if not changed:
            return ""
        self._run.append_jsonl(CHANGES, {"step": step, "changes": changed})
        return changes_in_words(step, changed)

    def _accepted(self, step: int) -> dict[str, Any]:
        """Return the settings that were changed on purpose at a step."""
        rows = [row for row in self._run.read_jsonl(CHANGES) if row["step"] == step]
        return {name: now for row in rows for name, (_, now) in row["changes"].items()}

    def restore(self, model: nn.Module, optimizer: AdamW) -> tuple[TrainingProgress, dict[str, Any] | None]:
        """Load the newest checkpoint, if any; return its progress and its position in the data.

        The steps after it are removed from `metrics.jsonl`, since they run again.

        Raises:
            ConfigError: the checkpoint belongs to a run with other settings or another model.
            ModelError: a file of the checkpoint is damaged.
        """
        self._prune()  # an attempt that was killed may have left too many
        newest = self.newest
        if newest is None:
            self._run.keep_jsonl("metrics.jsonl", lambda row: False)
            return TrainingProgress(), None
        state = read_json(newest / "state.json")
        progress = TrainingProgress(**state["progress"])
        fixed = {name: value for name, value in self._settings.items() if name not in FREE_TO_CHANGE}
        refuse_changes(self._run.folder, state["settings"] | self._accepted(progress.step), fixed)
        weights = read_safetensors(newest / "weights.safetensors")
        self._check_shapes(newest, model, weights)
        model.update(tree_unflatten(list(weights.items())))
        optimizer.state = read_safetensors(newest / "optimizer.safetensors")
        mx.eval(model.parameters(), optimizer.state)
        self._run.keep_jsonl("metrics.jsonl", lambda row: row["step"] <= progress.step)
        return progress, state["position"]

    def _prune(self) -> None:
        """Delete all but the newest `KEEP`."""
        for old in self._all()[:-KEEP]:
            shutil.rmtree(old)

    def _place(self, step: int) -> Path:
        return self._dir / f"step-{step:08d}"

    def _all(self) -> list[Path]:
        return sorted(self._dir.glob("step-*"))

    def _check_shapes(self, folder: Path, model: nn.Module, weights: dict[str, mx.array]) -> None:
        expected = {name: value.shape for name, value in named_arrays(model.trainable_parameters()).items()}
        if expected != {name: value.shape for name, value in weights.items()}:
            raise ConfigError(
                f"{folder} has trainable weights of other names or shapes than the model to train; use "
                "another run folder"
            )


def changes_in_words(step: int, changes: Mapping[str, Sequence[Any]]) -> str:
    """Say from which step on which settings were others, for the report."""
    words = [f"{name} is {now!r}, before it was {before!r}" for name, (before, now) in changes.items()]
    return f"after step {step}, {'; '.join(words)}"


def restored(
    checkpoints: Checkpoints | None, model: nn.Module, optimizer: AdamW, group: ProcessGroup
) -> tuple[TrainingProgress, dict[str, Any] | None]:
    """Restore the newest checkpoint, if any, in every process; only process 0 reads it.

    The weights to train are those of process 0 also where there is no checkpoint.
    """
    found = checkpoints.restore(model, optimizer) if checkpoints else (TrainingProgress(), None)
    if group.size == 1:
        return found
    progress, position = group.told_by_leader([asdict(found[0]), found[1]])
    weights = group.from_leader(named_arrays(model.trainable_parameters()))
    model.update(tree_unflatten(list(weights.items())))
    optimizer.state = group.from_leader(optimizer.state)
    return TrainingProgress(**progress), position
