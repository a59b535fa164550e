"""Jinja templates over the fields of a row, in a sandbox: a field that a row lacks is an error."""

import jinja2
from jinja2.meta import find_undeclared_variables
from jinja2.sandbox import ImmutableSandboxedEnvironment

from smidgen.errors import ConfigError

_JINJA = ImmutableSandboxedEnvironment(undefined=jinja2.StrictUndefined)


def row_template(key: str, text: str) -> jinja2.Template:
    """Compile a template; `key` is the setting that has it.

    Raises:
        ConfigError: the text is not a template.
    """
    try:
        return _JINJA.from_string(text)
    except jinja2.TemplateError as error:
        raise ConfigError(f"'{key}' is not a Jinja template: {error}") from None


def template_fields(text: str) -> set[str]:
    """Return the names of the fields that a template uses."""
    return find_undeclared_variables(_JINJA.parse(text))
