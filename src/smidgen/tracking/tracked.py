"""What a tracker is told about a run, and what it can be asked to do."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol


class Logged(NamedTuple):
    """The figures of one training step, by name."""

    step: int
    values: Mapping[str, float]


@dataclass(frozen=True)
class TrackedRun:
    """A run as a tracker knows it.

    Attributes:
        name: name of the run.
        project: project or experiment that it belongs to.
        folder: the run folder.
        config: its settings, nested as in a recipe.
        kind: `train` or `evaluate`.
        id: the tracker's own name of the run, to continue it; None for a new one.
        step: last step that the tracker is known to have.
    """

    name: str
    project: str
    folder: Path
    config: Mapping[str, Any]
    kind: str = "train"
    id: str | None = None
    step: int = 0


class Tracker(Protocol):
    """An open run of a tracker.

    Attributes:
        id: the tracker's own name of the run.
        step: last step that it has.
    """

    id: str
    step: int

    def log(self, rows: Sequence[Logged]) -> None:
        """Log the figures of further steps, in order."""
        ...

    def summarise(self, values: Mapping[str, float]) -> None:
        """Set figures of the whole run."""
        ...

    def close(self) -> None:
        """Send what is left and end the run."""
        ...
