"""Judge templates by name: the built-in `FORMS`, or a TOML file with a custom one."""

from collections.abc import Mapping
from pathlib import Path

from smidgen.errors import ConfigError, did_you_mean
from smidgen.tasks.judge.forms import JudgeTemplate
from smidgen.tasks.judge.grade import Grade
from smidgen.tasks.judge.own_template import read_form
from smidgen.tasks.judge.published_templates import BesideReference, Literals, TwoScores
from smidgen.tasks.judge.rubric import Rubric

FORMS: Mapping[str, type[JudgeTemplate]] = {
    form.name: form for form in (Rubric, TwoScores, BesideReference, Literals, Grade)
}


def find_form(name: str, *, rubric: str | None = None) -> JudgeTemplate:
    """Return a judge template by name or from a TOML file.

    Args:
        name: name of a built-in template, or a path that ends in .toml.
        rubric: rubric of the template `grade`: a question and the meaning of each grade.

    Raises:
        ConfigError: there is no such template, the file is invalid, or the template takes no rubric.
    """
    if rubric is not None:
        if name != Grade.name:
            raise ConfigError(f"only the template {Grade.name} takes a rubric, not {name}; leave it out")
        if not rubric.strip():
            raise ConfigError("the rubric is empty; expected a question and the meaning of each grade")
        return Grade(rubric.strip())
    if name.endswith(".toml"):
        return read_form(Path(name))
    if name not in FORMS:
        raise ConfigError(
            f"there is no template '{name}'.{did_you_mean(name, FORMS)} Known: {', '.join(FORMS)}, or a "
            ".toml file"
        )
    return FORMS[name]()
