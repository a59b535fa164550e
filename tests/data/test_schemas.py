"""Schemas and regular expressions with what Python's `re` lacks."""

import re

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema.exceptions import SchemaError, ValidationError

from smidgen.data.schemas import check_schema, compile_pattern, validate

LETTERS = r"^\p{L}+$"


def test_patterns_are_those_of_re_where_it_can_read_them():
    assert isinstance(compile_pattern(r"a(?P<b>\d)", re.DOTALL), re.Pattern)
    assert compile_pattern(r"a(?P<b>\d)", re.DOTALL).flags & re.DOTALL
    letters = compile_pattern(r"(?P<word>\p{Lu}.+)", re.DOTALL)
    assert letters.search("1 É\nx").groupdict() == {"word": "É\nx"}
    assert set(letters.groupindex) == {"word"}


@pytest.mark.parametrize("pattern", ["(", "[z-a]", r"\p{Nothing}", "a**b("])
def test_what_is_no_pattern_anywhere_is_refused(pattern):
    with pytest.raises(re.error):
        compile_pattern(pattern)
    with pytest.raises(SchemaError, match="is not a 'regex'"):
        check_schema({"pattern": pattern})
    with pytest.raises(SchemaError, match="is not a 'regex'"):
        check_schema({"properties": {"a": {"patternProperties": {pattern: {}}}}})
    check_schema({"pattern": pattern}, with_patterns=False)


@pytest.mark.parametrize(
    ("schema", "right", "wrong"),
    [
        ({"pattern": LETTERS}, ["é", 3], ["1", "a1"]),
        ({"patternProperties": {LETTERS: {"type": "null"}}}, [{"é": None, "1": 1}, "x"], [{"é": 1}]),
        ({"patternProperties": {LETTERS: {}}, "additionalProperties": False}, [{"é": 1}], [{"1": 1}]),
        (
            {
                "properties": {"1": {}},
                "patternProperties": {LETTERS: {}},
                "additionalProperties": {"type": "null"},
            },
            [{"é": 1, "1": 2, "2": None}, []],
            [{"2": 2}],
        ),
    ],
)
def test_values_are_held_against_unicode_classes(schema, right, wrong):
    check_schema(schema)
    for value in right:
        validate(value, schema)
    for value in wrong:
        with pytest.raises(ValidationError):
            validate(value, schema)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.text("ab1", max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("ab1", max_size=2), inner, max_size=3)
    ),
)
SCHEMAS = st.fixed_dictionaries(
    {},
    optional={
        "pattern": st.sampled_from(["a", "^b$", "1"]),
        "type": st.sampled_from(["object", "string", "array"]),
        "properties": st.dictionaries(
            st.text("ab1", max_size=1), st.sampled_from([{}, {"type": "null"}]), max_size=2
        ),
        "patternProperties": st.dictionaries(
            st.sampled_from(["a", "^b"]), st.just({"type": "integer"}), max_size=2
        ),
        "additionalProperties": st.sampled_from([False, True, {"type": "string"}]),
        "$schema": st.sampled_from(
            ["http://json-schema.org/draft-07/schema#", "https://json-schema.org/draft/2020-12/schema"]
        ),
    },
)


@given(VALUES, SCHEMAS)
def test_other_schemas_mean_what_they_mean_to_jsonschema(value, schema):
    try:
        jsonschema.validate(value, schema)
    except ValidationError:
        with pytest.raises(ValidationError):
            validate(value, schema)
    else:
        validate(value, schema)


def test_what_is_no_schema_is_refused():
    with pytest.raises(SchemaError, match="'text' is not valid"):
        check_schema({"type": "text"})
