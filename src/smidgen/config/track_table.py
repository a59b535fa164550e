"""`[track]`: experiment trackers that get the figures of a run as well."""

from typing import Literal

from pydantic import Field

from smidgen.config.base import Section

TrackerName = Literal["tensorboard", "wandb", "mlflow"]


class TrackConfig(Section):
    """Experiment trackers, beside `metrics.jsonl`, which is always written."""

    to: tuple[TrackerName, ...] = Field(min_length=1)
    """`tensorboard`, `wandb` or `mlflow`; each is an extra of the package: `pip install 'smidgen[wandb]'`."""
    project: str = Field(default="smidgen", min_length=1)
    """Project at Weights & Biases, experiment at MLflow; the run has the name of the recipe."""
