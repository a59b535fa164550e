"""`task`, `[settings]` and `[[tasks]]`: the tasks of a specialist."""

from typing import Any

from pydantic import Field

from smidgen.config.base import Section
from smidgen.config.data_table import DataConfig


class TaskConfig(Section):
    """One of several tasks that a specialist is trained and evaluated on."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")
    """Name of the task in the report and in the run folder."""
    task: str
    """The task, as in the key `task` of a recipe with one task."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """Settings of the task, as in `[settings]` of a recipe with one task."""
    data: DataConfig = DataConfig()
    """The rows of this task."""
