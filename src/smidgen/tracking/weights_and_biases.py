"""Weights & Biases: one run, continued under the same id; `WANDB_MODE=offline` keeps it here."""

import secrets
from collections.abc import Mapping, Sequence
from importlib import import_module

from smidgen.tracking.tracked import Logged, TrackedRun


class WeightsAndBiases:
    """One run at Weights & Biases."""

    def __init__(self, run: TrackedRun) -> None:
        client = import_module("wandb")
        self.id = run.id or secrets.token_hex(4)
        self._run = client.init(
            project=run.project,
            name=run.name,
            id=self.id,
            job_type=run.kind,
            dir=str(run.folder),
            config=dict(run.config),
            resume="allow",
        )
        # Online, a resumed run knows its last step; offline, only the run folder does.
        self.step = max(run.step, self._run.starting_step - 1)

    def log(self, rows: Sequence[Logged]) -> None:
        """Log the figures of further steps."""
        for row in rows:
            self._run.log(dict(row.values), step=row.step)
            self.step = row.step

    def summarise(self, values: Mapping[str, float]) -> None:
        """Set figures of the run's summary."""
        self._run.summary.update(dict(values))

    def close(self) -> None:
        """Upload what is left and finish the run."""
        self._run.finish()
