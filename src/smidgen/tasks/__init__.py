"""Tasks: the prompts, parsers and metrics of specialists."""

from collections.abc import Mapping
from typing import Any

from smidgen.config import parse_table
from smidgen.errors import ConfigError, did_you_mean
from smidgen.tasks.answers import Answers
from smidgen.tasks.chat import Chat
from smidgen.tasks.choice import ChoiceTask
from smidgen.tasks.intent import Intent
from smidgen.tasks.judge import JudgeTask
from smidgen.tasks.math_task import MathTask
from smidgen.tasks.measures import Measure, Metric, Statistic
from smidgen.tasks.memory import Arbitrate, Classify, Memorize
from smidgen.tasks.own import OwnTask
from smidgen.tasks.preference_task import PreferenceTask
from smidgen.tasks.programming_task import CodeTask
from smidgen.tasks.task import Task
from smidgen.tasks.templates import FORMS, find_form

__all__ = [
    "FORMS",
    "TASKS",
    "Answers",
    "Arbitrate",
    "Chat",
    "ChoiceTask",
    "Classify",
    "CodeTask",
    "Intent",
    "JudgeTask",
    "MathTask",
    "Measure",
    "Memorize",
    "Metric",
    "OwnTask",
    "PreferenceTask",
    "Statistic",
    "Task",
    "find_form",
    "find_task",
    "task_class",
]

TASKS: dict[str, type[Task]] = {
    task.name: task
    for task in (
        JudgeTask,
        Intent,
        Answers,
        MathTask,
        CodeTask,
        ChoiceTask,
        OwnTask,
        PreferenceTask,
        Chat,
        Memorize,
        Arbitrate,
        Classify,
    )
}


def find_task(name: str, settings: Mapping[str, Any] | None = None, *, source: str = "") -> Task:
    """Create a task by name.

    Args:
        name: its key in `TASKS`.
        settings: the table `[settings]` of a recipe, or the equivalent options.
        source: names the settings in errors.

    Raises:
        ConfigError: there is no such task, or it does not have these settings.
    """
    if name not in TASKS:
        raise ConfigError(f"there is no task '{name}'.{did_you_mean(name, TASKS)} Known: {', '.join(TASKS)}")
    task, given = TASKS[name], dict(settings or {})
    table = task.settings_table
    if strange := [key for key in given if key not in table.model_fields]:
        owners = [other for other, known in TASKS.items() if strange[0] in known.settings_table.model_fields]
        hint = f", which is for {', '.join(owners)}" if owners else ""
        known = f" Known: {', '.join(table.model_fields)}" if table.model_fields else ""
        raise ConfigError(
            f"{f'{source}: ' if source else ''}the task {name} has no setting '{strange[0]}'{hint}; leave it "
            f"out.{did_you_mean(strange[0], table.model_fields)}{known}"
        )
    return task.from_settings(parse_table(table, given, source or f"the settings of {name}"))


def task_class(name: str) -> type[Task]:
    """Return the class of a task by name, or `Task` itself, whose wording is generic."""
    return TASKS.get(name, Task)
