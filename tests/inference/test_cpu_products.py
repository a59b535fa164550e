from itertools import pairwise

import numpy as np
import pytest

from smidgen.inference import cpu_products
from smidgen.inference.cpu_products import MOST_ROWS, PANEL, SMALL, Matrix, parts


@pytest.fixture(params=["of this processor", "transposed"])
def layout(request, monkeypatch) -> None:
    if request.param == "transposed":
        monkeypatch.setattr(cpu_products, "_batch", lambda: None)


@pytest.mark.usefixtures("layout")
@pytest.mark.parametrize("rows", [1, 3, MOST_ROWS, MOST_ROWS + 1, 3 * MOST_ROWS + 5])
@pytest.mark.parametrize("shape", [(5, 7), (PANEL, 48), (PANEL + 1, 32), (3 * PANEL, 700), (200, 1536)])
def test_products_equal_those_of_numpy(rows: int, shape: tuple[int, int]):
    random = np.random.default_rng(0)
    weight = random.standard_normal(shape, dtype=np.float32)
    x = random.standard_normal((rows, shape[1]), dtype=np.float32)
    matrix = Matrix(weight)
    assert matrix.shape == (shape[1], shape[0])
    assert matrix(x) == pytest.approx(x @ weight.T, abs=1e-3)


@pytest.mark.usefixtures("layout")
def test_inputs_and_outputs_may_be_parts_of_larger_arrays():
    random = np.random.default_rng(1)
    weight = random.standard_normal((100, 40), dtype=np.float32)
    whole = random.standard_normal((30, 90), dtype=np.float32)
    out = np.full((30, 120), 7, np.float32)
    matrix = Matrix(weight)
    matrix.multiply(whole[5:25, 10:50], out[5:25, 10:110])
    assert out[5:25, 10:110] == pytest.approx(whole[5:25, 10:50] @ weight.T, abs=1e-3)
    out[5:25, 10:110] = 7
    assert (out == 7).all()
    assert matrix(whole.T[10:50].T) == pytest.approx(whole[:, 10:50] @ weight.T, abs=1e-3)
    assert matrix(np.asfortranarray(whole[:, :40])) == pytest.approx(whole[:, :40] @ weight.T, abs=1e-3)


@pytest.mark.usefixtures("layout")
def test_the_weights_are_copied():
    weight = np.ones((70, 3), np.float32)
    matrix = Matrix(weight)
    weight[:] = 0
    assert (matrix(np.ones((1, 3), np.float32)) == 3).all()


def test_pieces_are_small_enough_for_the_kernels_that_need_no_packing():
    for rows in (1, 8, MOST_ROWS):
        depths = list(parts(1536, -(-1536 // (SMALL // (rows * PANEL)))))
        assert depths[0].start == 0 and depths[-1].stop == 1536
        assert all(one.stop == other.start for one, other in pairwise(depths))
        assert all(rows * PANEL * (depth.stop - depth.start) <= SMALL for depth in depths)
