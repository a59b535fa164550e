"""Templates of HTML, in which every value is escaped and a missing name is an error; facts for lists."""

from functools import cache
from pathlib import Path
from typing import NamedTuple

import jinja2


class Fact(NamedTuple):
    """A term, its value, and a note in small print."""

    term: str
    value: str
    note: str = ""


@cache
def page_template(folder: Path, name: str) -> jinja2.Template:
    """Return the template `name` of a folder."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)
