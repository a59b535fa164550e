"""Answer parsers of custom tasks: by a regex, from a JSON object, or as a number."""

import json
import re
from typing import Any

from jsonschema.exceptions import SchemaError, ValidationError

from smidgen.data.schemas import Pattern, check_schema, compile_pattern, validate
from smidgen.errors import ConfigError, ParseError

ANSWER = "answer"
"""Name of the regex group or JSON property that contains the answer."""
_NUMBER = re.compile(r"[+-]?\d[\d,]*(?:\.\d+)?(?:[eE][+-]?\d+)?")


def answer_pattern(text: str) -> Pattern:
    """Compile the setting `regex`; raises `ConfigError` if it is not a regular expression."""
    try:
        return compile_pattern(text, re.DOTALL)
    except re.error as error:
        raise ConfigError(f"'regex' is not a valid regular expression: {error}") from None


def answer_schema(table: dict[str, Any]) -> dict[str, Any]:
    """Check the setting `json_schema`; raises `ConfigError` if it is not a schema or has no `answer`."""
    schema = json.loads(json.dumps(table))  # settings store lists as tuples; schemas need lists
    try:
        check_schema(schema)
    except (SchemaError, TypeError) as error:
        raise ConfigError(f"'json_schema' is not a JSON schema: {getattr(error, 'message', error)}") from None
    if ANSWER not in schema.get("properties", {}):
        raise ConfigError(f"'json_schema' has no property '{ANSWER}', which is compared; add it")
    return schema


def matched_answer(match: Any) -> str:
    """Return the group `answer`, else the first group, else the whole match."""
    named = match.groupdict()
    group = ANSWER if ANSWER in named else 1 if match.re.groups else 0
    if match[group] is None:
        raise ParseError("the regex matches, but its answer group does not")
    return match[group].strip()


def answer_in_object(text: str, schema: dict[str, Any]) -> str:
    """Return the property `answer` of a completion that is a JSON object."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        raise ParseError("the answer is not JSON") from None
    try:
        validate(found, schema)
    except ValidationError as error:
        raise ParseError(f"the JSON does not match the schema: {error.message}") from None
    if not isinstance(found, dict) or ANSWER not in found:
        raise ParseError(f"the JSON has no '{ANSWER}'")
    value = found[ANSWER]
    return value.strip() if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def json_value(gold: str) -> Any:
    """Return a number if the text is one, else the text."""
    try:
        value = json.loads(gold)
    except ValueError:
        return gold
    return value if isinstance(value, int | float) and not isinstance(value, bool) else gold


def last_number(text: str) -> float | None:
    """Return the last number in a text, ignoring thousands separators; None if there is none."""
    found = _NUMBER.findall(text)
    return float(found[-1].replace(",", "")) if found else None
