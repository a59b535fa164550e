"""Ranges of whole numbers as regular expressions, against comparing numbers."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smidgen.inference.digits import integers_between

ANY = st.integers() | st.integers(-120, 120)
BOUND = st.none() | ANY


@given(BOUND, BOUND, ANY)
def test_a_number_matches_if_it_is_in_range(low, high, number):
    if low is not None and high is not None and low > high:
        low, high = high, low
    pattern = integers_between(low, high)
    for tried in {
        number,
        low,
        high,
        *(near + step for near in (low, high) if near is not None for step in (-1, 1)),
    }:
        if tried is not None:
            is_in = (low is None or tried >= low) and (high is None or tried <= high)
            assert (re.fullmatch(pattern, str(tried)) is not None) == is_in, (low, high, tried)


@pytest.mark.parametrize(
    ("low", "high"), [(-5, 120), (0, 0), (99, 1001), (-1001, -99), (1, 9), (10**20, 10**20 + 5)]
)
def test_every_number_of_a_range_matches_and_no_other_text(low, high):
    pattern = integers_between(low, high)
    matching = [n for n in range(low - 200, high + 200) if re.fullmatch(pattern, str(n))]
    assert matching == list(range(low, high + 1))
    for text in ("", "-", "-0", "00", f"0{high}", f"+{high}", f"{high}.0", "1e1"):
        assert not re.fullmatch(pattern, text)


def test_a_range_grows_with_its_digits_only():
    assert len(integers_between(-(10**40) + 7, 10**40 - 7)) < 10_000
