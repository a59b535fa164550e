r"""The final answer of a solution: what counts as it, and when it is right."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from math_verify import parse, verify

from smidgen.errors import ParseError
from smidgen.tasks.math_answers import final_answer, is_equal, number_of, written

NUMBERS = st.decimals(-1_000_000, 1_000_000, places=2)


def read(text: str) -> Fraction | None:
    return number_of(final_answer(text))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("The answer is 42.", "42"),
        ("48/2 = 24 clips, and 48 + 24 = 72", "72"),
        ("#### 1,234", "1234"),
        ("It costs $1,234.50.", "1234.5"),
        ("-$5 or $-5", "-5"),
        ("from 10 - 3", "3"),
        ("so x=-3", "-3"),
        ("(10)-3", "3"),
        ("minus \N{MINUS SIGN}7", "-7"),
        ("about 50%", "50"),
        (".5 litres", "1/2"),
        ("3/4 of it", "3/4"),
        ("1 1/2 hours", "3/2"),
        (r"\(\frac{1}{3}\)", "1/3"),
        (r"$-\dfrac{1}{3}$", "-1/3"),
        ("2e3", "2000"),
        ("1e-2.", "1/100"),
        ("the list 1, 2, 3", "3"),
        ("12-hour days", "12"),
        (r"\boxed{1} and \boxed{2}, not 3", "2"),
        (r"\boxed{} 9", "9"),
        (r"\boxed{4", "4"),
        (r"\boxed{\$18}", "18"),
        (r"\boxed{1{,}234}", "1234"),
        (r"\boxed{42 \text{ apples}}", "42"),
        (r"\boxed{42 apples}", "42"),
        (r"\boxed{70\%}", "70"),
        (r"\boxed{90^\circ}", "90"),
        (r"\boxed{\frac{3}{4}}", "3/4"),
        ("<think>\nis it 5?\n</think>\n6", "6"),
    ],
)
def test_the_last_box_or_else_the_last_number(text: str, value: str) -> None:
    assert read(text) == Fraction(value)


@pytest.mark.parametrize("text", ["", "none at all", r"\boxed{}", "half of them"])
def test_without_a_number_there_is_no_answer(text: str) -> None:
    with pytest.raises(ParseError, match="there is neither a box nor a number"):
        final_answer(text)


def test_thinking_that_does_not_end_is_no_answer() -> None:
    with pytest.raises(ParseError, match="thinking"):
        final_answer("<think>it is 5")


@pytest.mark.parametrize(
    "text",
    ["x = 5", "3a", r"5\sqrt{2}", r"2\pi", "(3, 5)", "1, 5", "1/0", r"\frac{1}{0}", "7" * 101, "2 + 3"],
)
def test_what_is_more_than_a_number_is_an_expression(text: str) -> None:
    assert number_of(text) is None


@given(NUMBERS, st.sampled_from(["{}", "is {}.", "${}", "{} apples", r"\boxed{{{}}}", "a 1, then {}"]))
def test_a_number_is_read_back(number, frame: str) -> None:
    for form in (f"{number}", f"{number:,}"):
        assert read(frame.format(form)) == Fraction(number)
    assert number_of(written(Fraction(number))) == Fraction(number)


@given(st.fractions(-1000, 1000, max_denominator=1000))
def test_the_normal_form_is_the_same_number(number: Fraction) -> None:
    assert number_of(written(number)) == number


@given(NUMBERS, NUMBERS)
def test_plain_numbers_are_compared_as_math_verify_does(first, second) -> None:
    for gold, said in ((first, second), (first, first)):
        sides = (parse(f"${side}$", parsing_timeout=0) for side in (gold, said))
        assert is_equal(str(gold), str(said)) == verify(*sides, timeout_seconds=None)


@pytest.mark.parametrize(
    ("gold", "said", "equal"),
    [
        ("42", "42.0", True),
        ("1/3", "0.333333", True),
        ("1/3", "0.33", False),
        ("5", "x = 5", True),
        ("4", r"\sqrt{16}", True),
        ("6", r"2 \cdot 3", True),
        (r"5\sqrt{2}/2", r"\frac{5}{\sqrt{2}}", True),
        ("(3, 5)", "(3,5)", True),
        ("(3, 5)", "(5, 3)", False),
        ("3a/b", r"\frac{3a}{b}", True),
        ("y = 10x + 1", "y = 1 + 10x", True),
        ("7", "seven", False),
        ("7", r"\frac{", False),
        ("7", "x" * 400, False),
    ],
)
def test_expressions_are_compared_as_mathematics(gold: str, said: str, equal: bool) -> None:
    assert is_equal(gold, said) == equal
