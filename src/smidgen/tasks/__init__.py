"""Tasks: what a specialist is asked, how its answer is read, and what that is worth."""

from collections.abc import Callable

from smidgen.errors import ConfigError, did_you_mean
from smidgen.tasks.answers import Answers
from smidgen.tasks.intent import Intent
from smidgen.tasks.judge import Judge
from smidgen.tasks.task import Measure, Metric, Statistic, Task

__all__ = ["TASKS", "Answers", "Intent", "Judge", "Measure", "Metric", "Statistic", "Task", "find_task"]

TASKS: dict[str, Callable[[], Task]] = {"judge": Judge, "intent": Intent, "answers": Answers}


def find_task(name: str) -> Task:
    """The task of that name.

    Raises:
        ConfigError: there is none.
    """
    if name not in TASKS:
        raise ConfigError(f"there is no task '{name}'.{did_you_mean(name, TASKS)} Known: {', '.join(TASKS)}")
    return TASKS[name]()
