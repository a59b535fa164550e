"""Tasks: what a specialist is asked, how its answer is read, and what that is worth."""

from collections.abc import Callable

from smidgen.errors import ConfigError, did_you_mean
from smidgen.tasks.answers import Answers
from smidgen.tasks.intent import Intent
from smidgen.tasks.judge import JudgeTask
from smidgen.tasks.task import Measure, Metric, Statistic, Task
from smidgen.tasks.templates import FORMS, Rubric, find_form

__all__ = [
    "FORMS",
    "TASKS",
    "Answers",
    "Intent",
    "JudgeTask",
    "Measure",
    "Metric",
    "Statistic",
    "Task",
    "find_form",
    "find_task",
]

TASKS: dict[str, Callable[[], Task]] = {"judge": JudgeTask, "intent": Intent, "answers": Answers}


def find_task(
    name: str, *, template: str | None = None, reference: bool = False, rubric: str | None = None
) -> Task:
    """The task of that name.

    Args:
        name: its key in `TASKS`.
        template: of a judge, by name or as a TOML file.
        reference: whether a judge is shown the right answer that rows hold.
        rubric: what a judge grades by, in the template `grade`.

    Raises:
        ConfigError: there is none, or the settings do not go with it.
    """
    if name not in TASKS:
        raise ConfigError(f"there is no task '{name}'.{did_you_mean(name, TASKS)} Known: {', '.join(TASKS)}")
    if name == JudgeTask.name:
        return JudgeTask(find_form(template or Rubric.name, rubric=rubric), reference=reference)
    settings = {"a template": template, "a rubric": rubric, "a reference": reference or None}
    if given := next((words for words, value in settings.items() if value is not None), None):
        raise ConfigError(f"{given} is for the task judge, not for {name}; leave it out")
    return TASKS[name]()
