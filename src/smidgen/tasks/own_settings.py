"""The table that describes a task of the user's own, and the file that may hold it."""

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import model_validator

from smidgen.config import Section, read_toml
from smidgen.errors import ConfigError

OWN = "own"
"""The name of the task in a recipe."""


class OwnSettings(Section):
    """A task described by its columns, its message and how its answer is read."""

    message: str
    """Jinja template of the user message, over the columns of a row: `"Classify: {{ text }}"`."""
    system: str | None = None
    """Jinja template of a system message."""
    gold: str
    """The column with the right answer."""
    labels: tuple[str, ...] | Literal["rows"] | None = None
    """The answers there are, or `rows` for all that the column `gold` holds; case and spaces do not count."""
    regex: str | None = None
    """Regular expression whose last match is the answer: its group `answer`, its first, or all of it."""
    json_schema: dict[str, Any] | None = None
    """JSON schema of the whole answer, an object whose property `answer` is compared."""
    target: str | None = None
    """Jinja template of the text to learn, over the columns and `gold`; needed with `regex`."""
    metric: Literal["accuracy", "macro_f1", "exact", "numeric"] = "accuracy"
    """`accuracy` compares without regard to case and spaces, `exact` to the letter, `numeric` as numbers;
    `macro_f1` is the mean F1 of the labels, with the accuracy beside it."""
    stop: tuple[str, ...] = ()
    """Texts that end an answer and are cut off."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        readers = [name for name in ("labels", "regex", "json_schema") if getattr(self, name) is not None]
        if len(readers) > 1:
            raise ValueError(f"'{readers[0]}' and '{readers[1]}' each say how answers are read; give one")
        if self.metric == "macro_f1" and self.labels is None:
            raise ValueError("metric = 'macro_f1' needs 'labels', as labels = 'rows'")
        if self.labels == ():
            raise ValueError("'labels' is empty; list the answers there are, or set it to 'rows'")
        return self


def read_own_settings(path: Path) -> dict[str, Any]:
    """The settings in a TOML file: a recipe whose task is `own`, or its table `[settings]` alone.

    Raises:
        ConfigError: the file is missing or is not TOML, or is a recipe for another task.
    """
    table = read_toml(path, "description of a task; see docs/quickstart.md")
    if "settings" in table and table.get("task", OWN) == OWN:
        return table["settings"]
    if "task" in table:
        raise ConfigError(f'{path} is a recipe for {table["task"]}; expected one with task = "own"')
    return table
