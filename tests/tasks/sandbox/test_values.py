"""What passes between a program and its tests: copies of plain values, and nothing that acts."""

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smidgen.tasks.sandbox.values import LONGEST_MESSAGE, MessageError, decode, encode, receive, send

HASHABLE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3),
    max_leaves=4,
)
VALUES = st.recursive(
    HASHABLE
    | st.complex_numbers(allow_nan=False)
    | st.just(range(3, -8, -2))
    | st.sampled_from([int, dict, object]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(HASHABLE, inner, max_size=3) | st.sets(HASHABLE)
    ),
    max_leaves=8,
)


def refused(value: object) -> object:
    raise AssertionError(value)


@settings(max_examples=60)
@given(VALUES)
def test_a_plain_value_arrives_equal_and_of_its_type(value):
    reading, writing = os.pipe()
    try:
        send(writing, encode(value, refused))
        arrived = decode(receive(reading), refused)
    finally:
        os.close(reading)
        os.close(writing)
    assert repr_of(arrived) == repr_of(value)


def repr_of(value: object) -> object:
    """A value with the types of its parts, which == does not tell apart: 1, 1.0 and True."""
    if isinstance(value, dict):
        return dict, [(repr_of(key), repr_of(item)) for key, item in value.items()]
    if isinstance(value, set | frozenset):
        return type(value), sorted(map(str, map(repr_of, value)))
    if isinstance(value, list | tuple):
        return type(value), [repr_of(item) for item in value]
    return type(value), repr(value)


def test_what_extends_a_plain_type_becomes_plain():
    class Number(int):
        def __eq__(self, other: object) -> bool:
            return True

        __hash__ = int.__hash__

    class Text(str):
        __slots__ = ()

    found = decode(encode([Number(3), Text("a"), {Number(3): Text("b")}], refused), refused)
    assert repr_of(found) == repr_of([3, "a", {3: "b"}])


def test_anything_else_is_a_reference():
    kept: list[object] = []

    def refer(value: object) -> int:
        kept.append(value)
        return len(kept) - 1

    values = [len, object(), Exception("x")]
    assert decode(encode(values, refer), kept.__getitem__) == values == kept


@pytest.mark.parametrize(
    "data",
    [{}, {"int": "0x", "bytes": ""}, {"int": 5}, {"int": "z"}, {"type": "eval"}, {"bytes": "0"},
     {"range": [1, "a"]}, {"dict": [1]}, {"eval": "1"}, {"set": [[]]}, {"complex": ["a"]}, {"tuple": 1}],
)  # fmt: skip
def test_what_is_not_of_the_protocol_is_refused(data):
    with pytest.raises(MessageError, match="a value that is not of this protocol"):
        decode(data, refused)


def test_messages_have_a_longest_length():
    reading, writing = os.pipe()
    try:
        with pytest.raises(MessageError, match="a value that is too large"):
            send(writing, "x" * LONGEST_MESSAGE)
        os.write(writing, (LONGEST_MESSAGE + 1).to_bytes(4, "big"))
        with pytest.raises(MessageError, match="a value that is too large"):
            receive(reading)
        for text in (b"{", b"\xff", b"[" * 50_000):
            os.write(writing, len(text).to_bytes(4, "big") + text)
            with pytest.raises(MessageError, match="a message that is not JSON"):
                receive(reading)
        os.write(writing, (4).to_bytes(4, "big") + b"12")
        os.close(writing)
        with pytest.raises(EOFError):
            receive(reading)
    finally:
        os.close(reading)
