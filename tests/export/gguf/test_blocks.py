import numpy as np
import pytest
from gguf import GGMLQuantizationType
from gguf.quants import quantize
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from smidgen.export.gguf.blocks import encode, is_finite

Q8_0 = GGMLQuantizationType.Q8_0
NUMBERS = st.floats(-1e4, 1e4, width=32) | st.integers(-254, 254).map(lambda n: n / 2)
ROWS = arrays(np.float32, st.tuples(st.integers(1, 3), st.sampled_from([32, 96])), elements=NUMBERS)


@given(ROWS)
def test_q8_0_is_the_reference_to_the_bit(rows: np.ndarray):
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        assert (encode(rows, Q8_0) == quantize(rows, Q8_0)).all()


def test_halves_are_rounded_away_from_zero():
    rows = np.array(
        [[127.0, 0.5, -0.5, 1.5, 2.5, -2.5, np.nextafter(np.float32(0.5), 0), *[0.0] * 25]], np.float32
    )
    assert encode(rows, Q8_0)[0, 2:9].view(np.int8).tolist() == [127, 1, -1, 2, 3, -3, 0]


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"])
@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_noticed_in_every_type(kind: str, odd: float):
    rows = np.ones((2, 64), np.float32)
    assert is_finite(encode(rows, GGMLQuantizationType[kind]), GGMLQuantizationType[kind])
    rows[1, 40] = odd
    with np.errstate(all="ignore"):
        assert not is_finite(encode(rows, GGMLQuantizationType[kind]), GGMLQuantizationType[kind])
