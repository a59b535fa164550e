"""What `smidgen data check` and `show` read: files with or without a task, or a recipe."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from smidgen.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from smidgen.pipeline import RunContext
    from smidgen.tasks import Task

Names = Annotated[
    tuple[str, ...],
    Parameter(
        help="Files of rows; a task's name before them says what reads them, otherwise their columns do."
    ),
]
OtherRecipe = Annotated[
    Path | None,
    Parameter(name="--recipe", help="Recipe whose rows are read exactly as it would train on them."),
]
Template = Annotated[str | None, Parameter(help="Prompt of the judge, as in smidgen evaluate.")]
Form = Annotated[
    Path | None,
    Parameter(help="Recipe, or a TOML file with its [settings], that says how the task is asked."),
]


@dataclass(frozen=True)
class Source:
    """Either a recipe or files, and the task that reads them, if it is named."""

    context: "RunContext | None" = None
    paths: tuple[Path, ...] = ()
    task: "Task | None" = None


def read_source(
    names: tuple[str, ...], recipe: Path | None, *, template: str | None, form: Path | None
) -> Source:
    """Return what the arguments name.

    Raises:
        ConfigError: they name nothing, a file and a recipe, or settings without a task.
    """
    from smidgen.config import read_recipe
    from smidgen.pipeline import RunContext
    from smidgen.runs import Run
    from smidgen.tasks import TASKS, find_task
    from smidgen.tasks.own_settings import read_settings

    if recipe is not None:
        if names or template or form:
            given = f"'{names[0]}'" if names else "--template" if template else "--form"
            raise ConfigError(
                f"{given} does not go with --recipe, which says it itself; leave one of them out"
            )
        settings = read_recipe(recipe)
        return Source(RunContext(settings, Run(Path("runs") / settings.name)))
    named = bool(names) and names[0] in TASKS and not Path(names[0]).exists()
    files = tuple(map(Path, names[named:]))
    if not files:
        raise ConfigError("there are no rows to read; name one or more files, or a --recipe")
    if not named:
        if template or form:
            raise ConfigError(
                f"--{'template' if template else 'form'} is for a task; put its name before the files"
            )
        if not files[0].exists() and (hint := did_you_mean(names[0], TASKS)) and len(names) > 1:
            raise ConfigError(f"there is neither a file nor a task '{names[0]}'.{hint}")
        return Source(paths=files)
    table = read_settings(form, names[0]) if form else {}
    return Source(paths=files, task=find_task(names[0], table | ({"template": template} if template else {})))
