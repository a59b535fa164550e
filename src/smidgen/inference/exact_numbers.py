"""JSON schemas with numbers that llguidance would round, as grammars that do not.

llguidance computes in floating point, so whole numbers beyond 2⁵³ and decimals of more than 17 digits are
enforced as some other number. Here the parts of a schema that lead to such a number become rules of a
grammar: a `const` or an `enum` is spelt out, and the bounds of an integer become a regular expression of its
digits. All other parts stay with llguidance. What cannot be written so is refused.
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
"""Up to here every whole number, and the next one, is a number of 64 bits."""
LOWER, UPPER = ("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")
NUMERIC = frozenset(
    "maxContains maxItems maxLength maxProperties minContains minItems minLength minProperties".split()
) | {*LOWER, *UPPER, "multipleOf"}
DEFINITIONS = ("$defs", "definitions")
OBJECT = frozenset(("type", "properties", "required", "additionalProperties"))
ARRAY = frozenset(("type", "items", "minItems", "maxItems"))


def schema_grammar(text: str) -> str:
    """Return a schema as llguidance takes it, for JSON as `json.dumps` writes it."""
    return LLMatcher.grammar_from_json_schema(
        text, overrides={"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
    )


def read_exactly(text: str) -> Any:
    """Return the value of a JSON text; numbers with a point or an exponent are `Decimal`s.

    Raises:
        ValueError: it is not JSON.
    """
    return json.loads(text, parse_float=Decimal)


def rounded(part: Mapping[str, Any]) -> int | Decimal | None:
    """Return the first number in the keywords of one schema, not of those in it, that would be rounded."""
    values = [part[key] for key in NUMERIC & part.keys()]
    values += [part["const"]] if "const" in part else []
    values += part["enum"] if isinstance(part.get("enum"), list) else []
    return next((number for number in _numbers(values) if _is_rounded(number)), None)


def schemas_in(schema: Any) -> Iterator[dict[str, Any]]:
    """Yield a schema and every schema in it that is an object."""
    waiting = [Resource.from_contents(schema, default_specification=DRAFT202012)]
    while waiting:
        resource = waiting.pop()
        waiting.extend(resource.subresources())
        if isinstance(resource.contents, dict):
            yield resource.contents


class ExactGrammar:
    """Makes the grammar of one schema in Lark's syntax."""

    def __init__(self, schema: Mapping[str, Any], dialect: type[Validator], annotations: frozenset[str]):
        """Take a schema as `read_exactly` returns it; `annotations` are keywords that assert nothing."""
        self._schema = schema
        self._dialect = dialect
        self._annotations = annotations
        self._rules: list[str] = []

    def text(self) -> str:
        """Return the whole grammar.

        Raises:
            ConfigError: a number can neither be enforced by llguidance nor be written out.
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
            'const and enum, and as a bound of "type": "integer" without other keywords; within objects '
            "whose additionalProperties are false, the items of arrays, and anyOf. Rewrite the schema so, or "
            "ask for a string of digits"
        )

    def _left_to_llguidance(self, part: Any) -> str:
        """A part as a schema within the grammar, which brings the definitions along that it may name."""
        if part is not self._schema and isinstance(part, dict):
            for ref in _references(part):
                if not ref.startswith(tuple(f"#/{name}/" for name in DEFINITIONS)):
                    raise ConfigError(
                        f"the schema has the reference '{ref}' and a number that would be rounded; "
                        "refer to what stands in $defs"
                    )
            part = {name: self._schema[name] for name in DEFINITIONS if name in self._schema} | part
            if (number := next(_all_rounded(part), None)) is not None and any(_references(part)):
                raise ConfigError(
                    f"the schema has the number {number} in its definitions, which would be rounded; "
                    "write the definition where it is used"
                )
            part = part if any(_references(part)) else {k: v for k, v in part.items() if k not in DEFINITIONS}
        if not isinstance(part, dict):
            part = {} if part else {"not": {}}
        grammar = schema_grammar(json.dumps(_plain(part)))
        return f"%json {json.dumps(json.loads(grammar)['grammars'][0]['json_schema'])}"

    def _values(self, part: Mapping[str, Any]) -> str:
        """The values that a part lists, those left out that its other keywords rule out."""
        listed = [part["const"]] if "const" in part else part["enum"]
        validator = self._dialect(_plain(part))
        kept = [value for value in listed if validator.is_valid(_plain(value))]
        if not kept:
            raise ConfigError("the schema lists values of which its other keywords allow none; mend it")
        return " | ".join(json.dumps(_dumps(value)) for value in kept)

    def _digits(self, part: Mapping[str, Any]) -> str:
        bounds = {key: part[key] for key in (*LOWER, *UPPER) if key in part}
        if any(isinstance(bound, bool) for bound in bounds.values()):
            raise ConfigError(
                "the schema has exclusive bounds as in draft 4 beside a number that would be rounded; "
                "write exclusiveMinimum and exclusiveMaximum as numbers"
            )
        lows = [math.ceil(bounds["minimum"])] if "minimum" in bounds else []
        lows += [math.floor(bounds["exclusiveMinimum"]) + 1] if "exclusiveMinimum" in bounds else []
        highs = [math.floor(bounds["maximum"])] if "maximum" in bounds else []
        highs += [math.ceil(bounds["exclusiveMaximum"]) - 1] if "exclusiveMaximum" in bounds else []
        low, high = max(lows, default=None), min(highs, default=None)
        if low is not None and high is not None and low > high:
            raise ConfigError(f"the schema asks for a whole number from {low} to {high}; mend its bounds")
        return integers_between(low, high)

    def _object(self, part: Mapping[str, Any]) -> str:
        """An object's keys in their order; a comma stands before each but the first."""
        properties, required = part.get("properties", {}), set(part.get("required", ()))
        if missing := sorted(required - properties.keys()):
            raise ConfigError(
                f"the schema requires '{missing[0]}', which is not one of its properties; "
                "add it or leave it out"
            )
        tail = ""  # what may follow once something stands before
        head = '""'  # what may follow where nothing does
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
        """A rule for what is used more than once, so that the grammar grows only with the schema."""
        if not body.strip() or body.isidentifier():
            return body
        name = f"part{len(self._rules)}"
        self._rules.append(f"{name}: {body}")
        return name


def _is_rounded(number: int | Decimal) -> bool:
    return abs(number) > LARGEST if isinstance(number, int) else Decimal(repr(float(number))) != number


def _numbers(values: Iterable[Any]) -> Iterator[int | Decimal]:
    """Every number in values of JSON."""
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
    """The value with ordinary floating-point numbers."""
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
    """The JSON text of a value, in the layout of `json.dumps`."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_dumps(key)}: {_dumps(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_dumps(item) for item in value) + "]"
    return str(value) if isinstance(value, Decimal) else json.dumps(value, ensure_ascii=False)
