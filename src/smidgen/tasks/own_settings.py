"""The settings table of a custom task, and the file that may contain it."""

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import model_validator

from smidgen.config import Section, read_toml
from smidgen.errors import ConfigError

OWN = "own"
"""The name of the task in a recipe."""


class OwnSettings(Section):
    """A custom task: its columns, its prompt and how its answer is parsed."""

    message: str
    """Jinja template of the user message, over the columns of a row: `"Classify: {{ text }}"`."""
    system: str | None = None
    """Jinja template of a system message."""
    gold: str
    """Name of the column with the right answer."""
    labels: tuple[str, ...] | Literal["rows"] | None = None
    """The allowed answers, or `rows` for all values of the column `gold`; case and spaces are ignored."""
    regex: str | None = None
    """Regular expression whose last match gives the answer: group `answer`, else group 1, else all of it."""
    json_schema: dict[str, Any] | None = None
    """JSON schema of the completion, an object whose property `answer` is compared."""
    target: str | None = None
    """Jinja template of the target completion, over the columns and `gold`; needed with `regex`."""
    metric: Literal["accuracy", "macro_f1", "exact", "numeric"] = "accuracy"
    """`accuracy` ignores case and spaces, `exact` compares verbatim, `numeric` compares numbers; `macro_f1`
    is the mean F1 of the labels and also reports the accuracy."""
    stop: tuple[str, ...] = ()
    """Strings that end a completion and are removed from it."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        readers = [name for name in ("labels", "regex", "json_schema") if getattr(self, name) is not None]
        if len(readers) > 1:
            raise ValueError(f"'{readers[0]}' and '{readers[1]}' each set how answers are parsed; keep one")
        if self.metric == "macro_f1" and self.labels is None:
            raise ValueError("metric = 'macro_f1' needs 'labels', such as labels = 'rows'")
        if self.labels == ():
            raise ValueError("'labels' is empty; list the allowed answers, or set it to 'rows'")
        return self


def read_settings(path: Path, task: str = OWN) -> dict[str, Any]:
    """Read settings from a TOML file: a recipe for a task, or only its table `[settings]`.

    Raises:
        ConfigError: the file is missing, is not TOML, or is a recipe for another task.
    """
    table = read_toml(path, "task file; see docs/quickstart.md")
    if table.get("task", task) == task and table.keys() & {"task", "settings"}:
        return table.get("settings", {})
    if "task" in table:
        raise ConfigError(f'{path} is a recipe for the task {table["task"]}; expected task = "{task}"')
    return table
