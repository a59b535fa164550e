r"""User-supplied JSON schemas and regular expressions for parsing answers.

Python's `re` lacks Unicode classes such as `\p{L}`, which JSON Schema and other tools have. Expressions that
`re` rejects are compiled with the package `regex` (https://pypi.org/project/regex/).
"""

import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import regex
from jsonschema import Draft202012Validator, FormatChecker
from jsonschema.exceptions import ValidationError, best_match
from jsonschema.protocols import Validator
from jsonschema.validators import extend, validator_for

Pattern = re.Pattern[str] | regex.Pattern[str]


def compile_pattern(pattern: str, flags: re.RegexFlag = re.NOFLAG) -> Pattern:
    """Compile a regular expression with `re`, or with `regex` if `re` rejects it.

    Raises:
        re.error: both reject it; the message is that of `regex`.
    """
    try:
        return re.compile(pattern, flags)
    except re.error:
        try:
            return regex.compile(pattern, int(flags))
        except regex.error as error:
            raise re.error(str(error)) from None


def check_schema(schema: Any, *, with_patterns: bool = True) -> type[Validator]:
    """Check a schema against its dialect (default: the newest) and return the validator of the dialect.

    Args:
        schema: the parsed JSON.
        with_patterns: whether its regular expressions must be valid for `compile_pattern`.

    Raises:
        jsonschema.exceptions.SchemaError: it is not a valid schema.
    """
    dialect = validator_for(schema, default=Draft202012Validator)
    checker = FormatChecker(formats=())
    checker.checkers = dialect.FORMAT_CHECKER.checkers | {"regex": (_is_pattern, ())}
    if not with_patterns:
        del checker.checkers["regex"]
    dialect.check_schema(schema, format_checker=checker)  # type: ignore[call-arg]
    return dialect


def validate(value: Any, schema: Any) -> None:
    """Validate a value against a schema that `check_schema` accepted.

    Raises:
        jsonschema.exceptions.ValidationError: the value does not match.
    """
    dialect = _extended(validator_for(schema, default=Draft202012Validator))
    if (error := best_match(dialect(schema).iter_errors(value))) is not None:
        raise error


@cache
def _extended(dialect: type[Validator]) -> type[Validator]:
    return extend(dialect, {name: check for name, check in KEYWORDS.items() if name in dialect.VALIDATORS})


def _is_pattern(value: object) -> bool:
    if not isinstance(value, str):
        return True
    try:
        compile_pattern(value)
    except re.error:
        return False
    return True


def _matches(pattern: str, text: str) -> bool:
    return compile_pattern(pattern).search(text) is not None


def _pattern(
    validator: Validator, pattern: str, instance: Any, schema: Mapping[str, Any]
) -> Iterator[ValidationError]:
    if validator.is_type(instance, "string") and not _matches(pattern, instance):
        yield ValidationError(f"{instance!r} does not match {pattern!r}")


def _pattern_properties(
    validator: Any, patterns: Mapping[str, Any], instance: Any, schema: Mapping[str, Any]
) -> Iterator[ValidationError]:
    if validator.is_type(instance, "object"):
        for pattern, part in patterns.items():
            for key in filter(lambda key: _matches(pattern, key), instance):
                yield from validator.descend(instance[key], part, path=key, schema_path=pattern)


def _additional_properties(
    validator: Any, part: Any, instance: Any, schema: Mapping[str, Any]
) -> Iterator[ValidationError]:
    if not validator.is_type(instance, "object"):
        return
    patterns, known = schema.get("patternProperties", {}), schema.get("properties", {})
    for key in instance:
        if key not in known and not any(_matches(pattern, key) for pattern in patterns):
            if part is False:
                yield ValidationError(f"Additional properties are not allowed ({key!r} was unexpected)")
            else:
                yield from validator.descend(instance[key], part, path=key)


KEYWORDS = {
    "pattern": _pattern,
    "patternProperties": _pattern_properties,
    "additionalProperties": _additional_properties,
}
"""JSON Schema keywords that jsonschema evaluates with `re`; here they use `compile_pattern`."""
