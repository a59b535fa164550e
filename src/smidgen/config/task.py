"""`task`, `[settings]` and `[[tasks]]`: what a specialist is to do."""

from typing import Any

from pydantic import Field

from smidgen.config.base import Section
from smidgen.config.data import DataConfig


class TaskConfig(Section):
    """One of several tasks that a specialist learns and is evaluated on."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")
    """Its name in the report and in the run folder."""
    task: str
    """What the model is to do, as the key `task` of a recipe with one task."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """Settings of the task, as `[settings]` of a recipe with one task."""
    data: DataConfig = DataConfig()
    """The rows of this task."""
