"""The base of every configuration table, reading one from TOML, and the wording of validation errors."""

import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, core_schema

from smidgen.errors import ConfigError, did_you_mean

Table = TypeVar("Table", bound="Section")
Rate = Annotated[float, Field(ge=0.0, le=1.0)]


class Section(BaseModel):
    """Base of every table: frozen, no unknown keys, documented fields."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    def changed(self) -> set[str]:
        """Names of the fields that differ from their defaults."""
        fields = type(self).model_fields.items()
        return {name for name, field in fields if getattr(self, name) != field.default}


@dataclass(frozen=True)
class OneOf:
    """Annotation of a field that holds one of several tables, selected by one of their own keys.

    Each table declares the key as a `Literal` of the one value that selects it.

    Attributes:
        key: the selecting key.
        default: its value if the table does not set it.
        elsewhere: further values, valid only in another kind of recipe.
    """

    key: str
    default: str
    elsewhere: tuple[str, ...] = ()

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Validate against the selected table only, so that errors of the other tables are not reported."""
        sections = sections_of(source)
        choices = {self.value(section): handler.generate_schema(section) for section in sections}
        return core_schema.tagged_union_schema(
            choices, self._selected, custom_error_type="one_of", custom_error_message="unknown choice"
        )

    def value(self, section: type[Section]) -> str:
        """The value of the key that selects a table."""
        return get_args(section.model_fields[self.key].annotation)[0]

    def _selected(self, table: Any) -> str:
        given = table.get(self.key) if isinstance(table, dict) else getattr(table, self.key, None)
        return self.default if given is None else str(given)


def sections_of(annotation: Any) -> list[type[Section]]:
    """Return the tables that a field may hold; none if it is a plain value."""
    alternatives = get_args(annotation) or (annotation,)
    return [a for a in alternatives if isinstance(a, type) and issubclass(a, Section)]


def selector(field: FieldInfo) -> OneOf | None:
    """Return the `OneOf` annotation of a field, or None."""
    return next((mark for mark in field.metadata if isinstance(mark, OneOf)), None)


def read_toml(path: Path, what: str) -> dict[str, Any]:
    """Read a TOML file; `what` names it in errors and, after "; ", says where to find an example.

    Raises:
        ConfigError: the file is missing or is not TOML.
    """
    name, _, hint = what.partition("; ")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise ConfigError(f"there is no {name} at {path}; {hint}") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path} is not a readable TOML file: {error}") from None


def parse_table(
    model: type[Table],
    table: dict[str, Any],
    source: str,
    *,
    readers: Callable[[Sequence[str]], str] = lambda path: "",
) -> Table:
    """Validate a TOML table.

    Args:
        model: the schema.
        table: the table as it was read.
        source: names the table in errors.
        readers: for the path of an unknown key, says which other settings accept it; empty for none.

    Raises:
        ConfigError: it contains an unknown key or an invalid value; every fault is listed.
    """
    try:
        return model.model_validate(_lists_to_tuples(table))
    except ValidationError as error:
        described = dict.fromkeys(_describe(fault, model, readers) for fault in error.errors())
        raise ConfigError(f"{source}: {'; '.join(described)}") from None


def table_at(
    model: type[Section], location: Sequence[int | str]
) -> tuple[type[Section], FieldInfo | None, list[str]]:
    """Resolve the location of a validation error, starting at `model`.

    Returns:
        The innermost table on the path, its field if the location ends in one, and the path as keys of a TOML
        file, without the marks that pydantic inserts for the alternatives of a union.
    """
    section, field, path = model, None, []
    for part in location:
        sections = sections_of(field.annotation) if field else []
        chosen = selector(field) if field else None
        if chosen and (named := [s for s in sections if chosen.value(s) == part]):
            section, field = named[0], None
        elif isinstance(part, int):
            path.append(str(part))
        elif sections or field is None:  # below a plain value, pydantic lists only alternatives of a union
            section = sections[0] if sections else section
            path.append(part)
            field = section.model_fields.get(part)
    return section, field, path


def _describe(fault: Any, model: type[Section], readers: Callable[[Sequence[str]], str]) -> str:
    """Describe one validation error: the key, the given value, what was expected."""
    section, field, path = table_at(model, fault["loc"])
    where = ".".join(path)
    if fault["type"] == "value_error":
        place = f"[{where}]: " if where else ""
        return f"{place}{fault['ctx']['error']}"
    if fault["type"] == "extra_forbidden":
        if hint := readers(path):
            return f"unknown key '{where}'. {hint}"
        known = list(section.model_fields)
        return f"unknown key '{where}'.{did_you_mean(path[-1], known)} Known: {', '.join(known)}"
    if fault["type"] == "missing":
        return _describe_missing(path, field)
    if fault["type"] == "one_of":
        assert field is not None
        return _describe_choice(where, field, fault["input"])
    if fault["type"] == "model_type":
        return f"'{where}' is {fault['input']!r}: input should be a table"
    return f"'{where}' is {fault['input']!r}: {fault['msg'][0].lower()}{fault['msg'][1:]}"


def _describe_choice(where: str, field: FieldInfo, table: Any) -> str:
    """Describe an invalid value of the key that selects a table."""
    chosen = selector(field)
    assert chosen is not None
    given = table[chosen.key]
    values = [*(chosen.value(section) for section in sections_of(field.annotation)), *chosen.elsewhere]
    hint = did_you_mean(str(given), values)
    return f"'{where}.{chosen.key}' is {given!r}.{hint} Known: {', '.join(values)}"


def _describe_missing(path: list[str], field: FieldInfo | None) -> str:
    """Describe what is missing: a key, or the innermost required table."""
    sections = sections_of(field.annotation) if field else []
    if not sections:
        return f"'{'.'.join(path)}' is missing"
    inner = {name: field for name, field in sections[0].model_fields.items() if field.is_required()}
    return "; ".join(_describe_missing([*path, name], field) for name, field in inner.items()) or (
        f"the table [{'.'.join(path)}] is missing"
    )


def _lists_to_tuples(value: Any) -> Any:
    """Convert the lists of a TOML value to tuples, the type that the models declare."""
    if isinstance(value, dict):
        return {key: _lists_to_tuples(item) for key, item in value.items()}
    return tuple(_lists_to_tuples(item) for item in value) if isinstance(value, list) else value
