"""How a task of the user's own reads its answer from a text: by a regex, from a JSON object, as a number."""

import json
import re
from typing import Any

from jsonschema.exceptions import SchemaError, ValidationError

from smidgen.data.schemas import Pattern, check_schema, compile_pattern, validate
from smidgen.errors import ConfigError, ParseError

ANSWER = "answer"
"""The named group of a regex, or the property of a JSON object, that holds the answer."""
_NUMBER = re.compile(r"[+-]?\d[\d,]*(?:\.\d+)?(?:[eE][+-]?\d+)?")


def answer_pattern(text: str) -> Pattern:
    """The compiled setting `regex`; raises `ConfigError` where it is not a regular expression."""
    try:
        return compile_pattern(text, re.DOTALL)
    except re.error as error:
        raise ConfigError(f"'regex' cannot be read: {error}") from None


def answer_schema(table: dict[str, Any]) -> dict[str, Any]:
    """The setting `json_schema` as JSON; raises `ConfigError` where it is not a schema or has no `answer`."""
    schema = json.loads(json.dumps(table))  # tables of settings hold tuples, and a schema lists
    try:
        check_schema(schema)
    except (SchemaError, TypeError) as error:
        raise ConfigError(f"'json_schema' is not a JSON schema: {getattr(error, 'message', error)}") from None
    if ANSWER not in schema.get("properties", {}):
        raise ConfigError(f"'json_schema' has no property '{ANSWER}', the one that is compared; add it")
    return schema


def matched_answer(match: Any) -> str:
    """The group `answer`, the first group, or the whole match."""
    named = match.groupdict()
    group = ANSWER if ANSWER in named else 1 if match.re.groups else 0
    if match[group] is None:
        raise ParseError("the regex matches without an answer in it")
    return match[group].strip()


def answer_in_object(text: str, schema: dict[str, Any]) -> str:
    """The property `answer` of the JSON object that the whole text is."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        raise ParseError("the answer is not JSON") from None
    try:
        validate(found, schema)
    except ValidationError as error:
        raise ParseError(f"the JSON does not fit the schema: {error.message}") from None
    if not isinstance(found, dict) or ANSWER not in found:
        raise ParseError(f"the JSON has no '{ANSWER}'")
    value = found[ANSWER]
    return value.strip() if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def json_value(gold: str) -> Any:
    """A number where the text is one, else the text."""
    try:
        value = json.loads(gold)
    except ValueError:
        return gold
    return value if isinstance(value, int | float) and not isinstance(value, bool) else gold


def last_number(text: str) -> float | None:
    """The last number of a text, thousands separators left out."""
    found = _NUMBER.findall(text)
    return float(found[-1].replace(",", "")) if found else None
