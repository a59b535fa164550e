"""Exact grammars for JSON schemas with numbers that llguidance would round.

llguidance computes in floating point, so it enforces integers beyond 2⁵³ and decimals of more than 17 digits
as some other number. Here the parts of a schema that contain such a number become rules of a grammar: a
`const` or an `enum` is spelt out, and the bounds of an integer become a regular expression of its digits.
llguidance handles all other parts. Schemas that cannot be expressed this way are refused.
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any

from jsonschema.protocols import Validator
from llguidance import LLMatcher
from referencing import Resource
from referencing.jsonschema import DRAFT202012

from smidgen.errors import ConfigError
from smidgen.inference.digits import integers_between

LARGEST = 2**53 - 1
"""The largest integer that, together with its successor, is exact in float64."""
LOWER, UPPER = ("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")
NUMERIC = frozenset(
    "maxContains maxItems maxLength maxProperties minContains minItems minLength minProperties".split()
) | {*LOWER, *UPPER, "multipleOf"}
DEFINITIONS = ("$defs", "definitions")
OBJECT = frozenset(("type", "properties", "required", "additionalProperties"))
ARRAY = frozenset(("type", "items", "minItems", "maxItems"))


def schema_grammar(text: str) -> str:
    """Return llguidance's grammar of a schema, for JSON in the layout of `json.dumps`."""
    return LLMatcher.grammar_from_json_schema(
        text, overrides={"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
    )


def read_exactly(text: str) -> Any:
    """Parse a JSON text; numbers with a point or an exponent become `Decimal`.

    Raises:
        ValueError: the text is not JSON.
    """
    return json.loads(text, parse_float=Decimal)


def rounded(part: Mapping[str, Any]) -> int | Decimal | None:
    """Return the first number in a schema's own keywords, not its subschemas', that would be rounded."""
    values = [part[key] for key in NUMERIC & part.keys()]
    values += [part["const"]] if "const" in part else []
    values += part["enum"] if isinstance(part.get("enum"), list) else []
    return next((number for number in _numbers(values) if _is_rounded(number)), None)


def schemas_in(schema: Any) -> Iterator[dict[str, Any]]:
    """Yield a schema and all its subschemas, except boolean ones."""
    waiting = [Resource.from_contents(schema, default_specification=DRAFT202012)]
    while waiting:
        resource = waiting.pop()
        waiting.extend(resource.subresources())
        if isinstance(resource.contents, dict):
            yield resource.contents


class ExactGrammar:
    """Builds the grammar of one schema in Lark syntax."""

    def __init__(self, schema: Mapping[str, Any], dialect: type[Validator], annotations: frozenset[str]):
        """Take a schema as `read_exactly` returns it; `annotations` are the keywords without assertions."""
        self._schema = schema
        self._dialect = dialect
        self._annotations = annotations
        self._rules: list[str] = []

    def text(self) -> str:
        """Return the full grammar.

        Raises:
            ConfigError: a number can be enforced neither by llguidance nor by a rule.
        """
        start = self._rule(self._schema)
        return "\n".join([f"start: {start}", *self._rules])

    def _rule(self, part: Any) -> str:
        """Add the rule of a part of the schema and return its name."""
        body = self._body(part)
        name = f"part{len(self._rules)}"
        self._rules.append(f"{name}: {body}")
        return name

    def _body(self, part: Any) -> str:
        number = next(_all_rounded(part), None)
        if number is None:
            return self._left_to_llguidance(part)
        keywords = part.keys() - self._annotations
        if {"const", "enum"} & keywords and "$ref" not in keywords:
            return self._values(part)
        if part.get("type") == "integer" and keywords <= {"type", *LOWER, *UPPER}:
            return f"/{self._digits(part)}/"
        if part.get("type") == "object" and keywords <= OBJECT and part.get("additionalProperties") is False:
            return self._object(part)
        if part.get("type") == "array" and keywords <= ARRAY and "items" in keywords:
            return self._array(part)
        if keywords == {"anyOf"}:
            return " | ".join(self._rule(option) for option in part["anyOf"])
        raise ConfigError(
            f"the schema has the number {number}, which would be rounded. Such a number can be enforced in "
            'const and enum, and as a bound of "type": "integer" without other keywords; inside objects '
            "with additionalProperties false, array items, and anyOf. Rewrite the schema that way, or use a "
            "string of digits"
        )

    def _left_to_llguidance(self, part: Any) -> str:
        """Embed a part as a JSON schema in the grammar, together with the definitions that it references."""
        if part is not self._schema and isinstance(part, dict):
            for ref in _references(part):
                if not ref.startswith(tuple(f"#/{name}/" for name in DEFINITIONS)):
                    raise ConfigError(
                        f"the schema has the reference '{ref}' and a number that would be rounded; "
                        "expected references into $defs only"
                    )
            part = {name: self._schema[name] for name in DEFINITIONS if name in self._schema} | part
            if (number := next(_all_rounded(part), None)) is not None and any(_references(part)):
                raise ConfigError(
                    f"the schema has the number {number} in its definitions, which would be rounded; "
                    "inline that definition where it is used"
                )
            part = part if any(_references(part)) else {k: v for k, v in part.items() if k not in DEFINITIONS}
        if not isinstance(part, dict):
            part = {} if part else {"not": {}}
        grammar = schema_grammar(json.dumps(_plain(part)))
        return f"%json {json.dumps(json.loads(grammar)['grammars'][0]['json_schema'])}"

    def _values(self, part: Mapping[str, Any]) -> str:
        """Return a rule of the values of `const` or `enum` that satisfy the part's other keywords."""
        listed = [part["const"]] if "const" in part else part["enum"]
        validator = self._dialect(_plain(part))
        kept = [value for value in listed if validator.is_valid(_plain(value))]
        if not kept:
            raise ConfigError("the schema lists values, but its other keywords allow none of them; fix it")
        return " | ".join(json.dumps(_dumps(value)) for value in kept)

    def _digits(self, part: Mapping[str, Any]) -> str:
        bounds = {key: part[key] for key in (*LOWER, *UPPER) if key in part}
        if any(isinstance(bound, bool) for bound in bounds.values()):
            raise ConfigError(
                "the schema has draft-4 exclusive bounds and a number that would be rounded; "
                "write exclusiveMinimum and exclusiveMaximum as numbers"
            )
        lows = [math.ceil(bounds["minimum"])] if "minimum" in bounds else []
        lows += [math.floor(bounds["exclusiveMinimum"]) + 1] if "exclusiveMinimum" in bounds else []
        highs = [math.floor(bounds["maximum"])] if "maximum" in bounds else []
        highs += [math.ceil(bounds["exclusiveMaximum"]) - 1] if "exclusiveMaximum" in bounds else []
        low, high = max(lows, default=None), min(highs, default=None)
        if low is not None and high is not None and low > high:
            raise ConfigError(f"the schema asks for an integer from {low} to {high}; fix its bounds")
        return integers_between(low, high)

    def _object(self, part: Mapping[str, Any]) -> str:
        """Return a rule of an object with its keys in order, separated by commas."""
        properties, required = part.get("properties", {}), set(part.get("required", ()))
        if missing := sorted(required - properties.keys()):
            raise ConfigError(
                f"the schema requires '{missing[0]}', which is not one of its properties; "
                "add the property or do not require it"
            )
        tail = ""  # rest of the object after at least one key
        head = '""'  # rest of the object before any key
        for name, value in reversed(properties.items()):
            item = f"{json.dumps(json.dumps(name, ensure_ascii=False) + ': ')} {self._rule(value)}"
            if name in required:
                head, tail = f"{item} {tail}", f'", " {item} {tail}'
            else:
                rest = self._named(tail)
                head, tail = f"({item} {rest} | {head})", f'(", " {item})? {rest}'
            head, tail = self._named(head), self._named(tail)
        return f'"{{" {head} "}}"'

    def _array(self, part: Mapping[str, Any]) -> str:
        least, most = part.get("minItems", 0), part.get("maxItems")
        if most == 0:
            return '"[]"'
        item = self._rule(part["items"])
        more = f"{{{max(least - 1, 0)},{'' if most is None else most - 1}}}"
        some = f'{item} (", " {item}){more}'
        return f'"[" {some} "]"' if least else f'"[" ({some})? "]"'

    def _named(self, body: str) -> str:
        """Return a named rule for a body that is used twice, so that the grammar grows linearly."""
        if not body.strip() or body.isidentifier():
            return body
        name = f"part{len(self._rules)}"
        self._rules.append(f"{name}: {body}")
        return name


def _is_rounded(number: int | Decimal) -> bool:
    return abs(number) > LARGEST if isinstance(number, int) else Decimal(repr(float(number))) != number


def _numbers(values: Iterable[Any]) -> Iterator[int | Decimal]:
    """Yield every number in some JSON values, nested ones included."""
    for value in values:
        if isinstance(value, Decimal) or type(value) is int:
            yield value
        elif isinstance(value, dict):
            yield from _numbers(value.values())
        elif isinstance(value, list):
            yield from _numbers(value)


def _all_rounded(schema: Any) -> Iterator[int | Decimal]:
    return (number for part in schemas_in(schema) if (number := rounded(part)) is not None)


def _references(schema: Any) -> Iterator[str]:
    return (part["$ref"] for part in schemas_in(schema) if isinstance(part.get("$ref"), str))


def _plain(value: Any) -> Any:
    """Return a value with floats instead of `Decimal`."""
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return (
        [_plain(item) for item in value]
        if isinstance(value, Sequence) and not isinstance(value, str)
        else value
    )


def _dumps(value: Any) -> str:
    """Return the JSON text of a value with exact numbers, in the layout of `json.dumps`."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_dumps(key)}: {_dumps(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_dumps(item) for item in value) + "]"
    return str(value) if isinstance(value, Decimal) else json.dumps(value, ensure_ascii=False)
