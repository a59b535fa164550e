"""The templates that a judge may be asked and read in, by name: `FORMS`, or a user's own TOML file."""

from collections.abc import Mapping
from pathlib import Path

from smidgen.errors import ConfigError, did_you_mean
from smidgen.tasks.judge.forms import Form
from smidgen.tasks.judge.grade import Grade
from smidgen.tasks.judge.own_form import read_form
from smidgen.tasks.judge.rubric import Rubric
from smidgen.tasks.judge.templates import BesideReference, Literals, TwoScores

FORMS: Mapping[str, type[Rubric | TwoScores | BesideReference | Literals | Grade]] = {
    form.name: form for form in (Rubric, TwoScores, BesideReference, Literals, Grade)
}


def find_form(name: str, *, rubric: str | None = None) -> Form:
    """The template of that name, or of that TOML file.

    Args:
        name: of the template, or the path of a file that ends in .toml.
        rubric: what `grade` grades by: a question, and what each grade means.

    Raises:
        ConfigError: there is none, the file is not a template, or the template takes no rubric.
    """
    if rubric is not None:
        if name != Grade.name:
            raise ConfigError(f"a rubric is for the template {Grade.name}, not for {name}; leave it out")
        if not rubric.strip():
            raise ConfigError("the rubric is empty; expected a question, and what each grade means")
        return Grade(rubric.strip())
    if name.endswith(".toml"):
        return read_form(Path(name))
    if name not in FORMS:
        raise ConfigError(
            f"there is no template '{name}'.{did_you_mean(name, FORMS)} Known: {', '.join(FORMS)}, or a "
            ".toml file"
        )
    return FORMS[name]()
