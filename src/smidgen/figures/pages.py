"""Templates of HTML: every value is escaped, and a name that is not given is an error."""

from functools import cache
from pathlib import Path

import jinja2


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
