"""What a schema with numbers beyond floating point lets a model write, token by token."""

import json
import random
from decimal import Decimal

import jsonschema
import numpy as np
import pytest

from smidgen.data.types import Constraint
from smidgen.errors import ConfigError
from smidgen.inference.constraints import Guides, grammar_of

BIG = 2**53 + 1
HUGE = 12345678901234567890123


@pytest.fixture(scope="module")
def guides(loaded) -> Guides:
    return Guides(loaded.tokenizer)


@pytest.fixture(scope="module")
def walk(loaded, guides):
    """A function that writes what a constraint allows, choosing at random where it may."""
    tokenizer = loaded.tokenizer

    def write(content: object, seed: int) -> str:
        text = content if isinstance(content, str) else json.dumps(content)
        guide, ids, chance = guides.begin(Constraint("json_schema", text)), [], random.Random(seed)
        while not guide.is_complete and len(ids) < 400:
            if forced := guide.force(50):
                ids += forced
                continue
            allowed = set(np.flatnonzero(guide.allowed()).tolist())
            if allowed & tokenizer.eos_token_ids and chance.random() < 0.7:
                break
            ids.append(chance.choice(sorted(allowed - tokenizer.eos_token_ids)))
            guide.take(ids[-1])
        return tokenizer.decode(ids)

    return write


def closed(properties: dict, **more) -> dict:
    return {"type": "object", "properties": properties, "additionalProperties": False} | more


EXACT = [
    {"const": HUGE},
    {"const": -BIG},
    {"enum": [BIG, None, "text", HUGE]},
    {"const": {"a": [BIG, 0.1, True], "é": 'quote " and \\ and /'}},
    {"enum": [HUGE, 5, "x"], "maximum": 9},
    {"type": "integer", "minimum": BIG, "maximum": BIG},
    {"type": "integer", "exclusiveMinimum": BIG - 1, "exclusiveMaximum": BIG + 1},
    {"type": "integer", "minimum": -HUGE, "maximum": 3},
    {"type": "integer", "minimum": BIG},
    {"type": "integer", "maximum": -BIG, "title": "a debt", "default": BIG},
    closed({"a": {"const": HUGE}}),
    closed({"a": {"const": HUGE}}, required=["a"]),
    closed({"a": {"const": HUGE}, "b": {"type": "boolean"}, "c": {"enum": [1, 2]}}, required=["b"]),
    closed({"a": {"type": "boolean"}, "b": {"const": BIG}, "c": {"type": "null"}}),
    closed({"a": {"const": HUGE}, "b": {"$ref": "#/$defs/yes"}}, **{"$defs": {"yes": {"type": "boolean"}}}),
    {"type": "array", "items": {"const": BIG}, "minItems": 2, "maxItems": 3},
    {"type": "array", "items": {"enum": [HUGE, BIG]}, "maxItems": 2},
    {"type": "array", "items": {"const": BIG}, "maxItems": 0},
    {"anyOf": [{"const": HUGE}, {"type": "boolean"}, {"type": "array", "items": {"const": BIG}}]},
]


@pytest.mark.parametrize("content", EXACT, ids=range(len(EXACT)))
def test_what_is_written_is_what_the_schema_says(walk, content):
    for seed in range(12):
        text = walk(content, seed)
        value = json.loads(text)
        jsonschema.validate(value, content)
        assert json.dumps(value, ensure_ascii=False) == text


def test_all_that_a_schema_allows_can_be_written(walk):
    optional = closed({"a": {"const": HUGE}, "b": {"const": BIG}, "c": {"const": 1}}, required=["b"])
    written = {walk(optional, seed) for seed in range(60)}
    a, b, c = f'"a": {HUGE}', f'"b": {BIG}', '"c": 1'
    assert written == {"{" + ", ".join(keys) + "}" for keys in ([b], [a, b], [b, c], [a, b, c])}
    either = closed({"a": {"const": HUGE}, "b": {"const": BIG}})
    assert {walk(either, seed) for seed in range(60)} == {"{}", f"{{{a}}}", f"{{{b}}}", f"{{{a}, {b}}}"}


@pytest.mark.parametrize("text", ["123456789.123456789123", "1E-400", "-0.1234567890123456789012"])
def test_decimals_are_written_digit_for_digit(walk, text):
    written = walk(f'{{"const": {text}}}', 0)
    assert Decimal(written) == Decimal(text)


@pytest.mark.parametrize(
    "content",
    [
        {"const": 2**53 - 1},
        {"enum": [0.1, 1e22, 1.0]},
        {"type": "integer", "minimum": -5, "maximum": 5},
        {"type": "boolean", "default": BIG, "examples": [BIG], "$comment": "1e400"},
    ],
)
def test_other_schemas_are_left_to_llguidance(content):
    grammar = json.loads(grammar_of(Constraint("json_schema", json.dumps(content))))
    kept = grammar["grammars"][0]["json_schema"]
    assert {key: value for key, value in kept.items() if key != "x-guidance"} == content


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ({"minimum": HUGE}, f"has the number {HUGE}, which would be rounded.*use a string of digits"),
        ({"type": "number", "minimum": BIG}, "would be rounded"),
        (
            '{"type": "number", "maximum": 0.12345678901234567890123}',
            "0.12345678901234567890123, which would",
        ),
        ({"type": "integer", "minimum": BIG, "multipleOf": 5}, "would be rounded"),
        ({"type": "string", "minLength": 10**20}, "would be rounded"),
        ({"properties": {"a": {"const": BIG}}, "type": "object"}, "would be rounded"),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"const": BIG}}}, "would be rounded"),
        (closed({"a": {"const": BIG}, "b": {"$ref": "#/properties/a"}}), "the reference '#/properties/a'"),
        (
            closed({"a": {"const": BIG}, "b": {"$ref": "#/$defs/c"}}, **{"$defs": {"c": {"const": HUGE}}}),
            f"has the number {HUGE} in its definitions, which would be rounded; inline that definition where",
        ),
        (
            closed({"a": {"const": BIG}}, required=["b"]),
            "requires 'b', which is not one of its properties; add the",
        ),
        ({"enum": [BIG], "type": "string"}, "lists values, but its other keywords allow none of them"),
        (
            {"type": "integer", "minimum": BIG, "maximum": 1},
            f"an integer from {BIG} to 1; fix its bounds",
        ),
        (
            {
                "$schema": "http://json-schema.org/draft-04/schema#",
                "type": "integer",
                "minimum": BIG,
                "exclusiveMinimum": True,
            },
            "draft-4 exclusive bounds and a number that would be rounded; write exclusiveMinimum",
        ),
        ('{"const": 1e400}', "the schema cannot be read .*not JSON compliant"),
        ('{"const": NaN}', "the schema cannot be read .*not JSON compliant"),
        ('{"const": "\\ud83d"}', "the schema cannot be read .*surrogates not allowed"),
    ],
)
def test_what_would_be_rounded_is_refused(content, fault):
    text = content if isinstance(content, str) else json.dumps(content)
    with pytest.raises(ConfigError, match=fault):
        grammar_of(Constraint("json_schema", text))
