"""Threads that share pieces of work, and products of views."""

import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smidgen.backend import blas_library
from smidgen.cpu_kernels import team as team_module
from smidgen.cpu_kernels.team import Team, product, products, scratch


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("pieces", [0, 1, 50])
def test_every_piece_is_done_once(size: int, pieces: int):
    done: list[int] = []
    Team(size).run(done.append, pieces)
    assert sorted(done) == list(range(pieces))


def test_a_failure_reaches_the_caller_and_blas_gets_its_threads_back():
    library = blas_library()
    assert library is not None
    threads = 2
    library.openblas_set_num_threads(threads)

    def fail(piece: int) -> None:
        assert library.openblas_get_num_threads() == 1
        raise ValueError(f"piece {piece}")

    for pieces in (1, 6):
        with pytest.raises(ValueError, match="piece"):
            Team(threads).run(fail, pieces)
        assert library.openblas_get_num_threads() == threads


sizes = st.integers(1, 9)


@given(sizes, sizes, sizes, st.booleans(), st.booleans(), st.integers(0, 3))
def test_product_reads_either_layout(m: int, k: int, n: int, turn_a: bool, turn_b: bool, margin: int):
    random = np.random.default_rng(m * 100 + k * 10 + n)

    def matrix(rows: int, columns: int, turned: bool) -> np.ndarray:
        shape = (columns, rows + margin) if turned else (rows, columns + margin)
        whole = random.standard_normal(shape, dtype=np.float32)
        return whole[:, :rows].T if turned else whole[:, :columns]

    a, b = matrix(m, k, turn_a), matrix(k, n, turn_b)
    whole = random.standard_normal((m, n + margin), dtype=np.float32)
    expected = whole.copy()
    expected[:, :n] = 2 * a @ b + 0.5 * whole[:, :n]
    product(a, b, whole[:, :n], alpha=2.0, beta=0.5)
    assert np.allclose(whole, expected, atol=1e-5)


@given(sizes, sizes, sizes, st.integers(1, 5), st.booleans(), st.booleans(), st.booleans())
def test_products_are_those_of_every_matrix(
    m: int, k: int, n: int, count: int, turn_a: bool, turn_b: bool, batched: bool
):
    random = np.random.default_rng(m * 100 + k * 10 + n)

    def matrices(rows: int, columns: int, turned: bool) -> np.ndarray:
        # Side by side, as the texts of a feature-major array.
        first, second = (columns, rows) if turned else (rows, columns)
        whole = random.standard_normal((first, count * second + 3), dtype=np.float32)
        split = whole[:, : count * second].reshape(first, count, second)
        return split.transpose(1, 2, 0) if turned else split.transpose(1, 0, 2)

    a, b, out = matrices(m, k, turn_a), matrices(k, n, turn_b), matrices(m, n, False)
    expected = 2 * a @ b + 0.5 * out
    with pytest.MonkeyPatch.context() as patch:
        if not batched:  # an OpenBLAS of the system may be too old
            patch.setattr(team_module, "_sgemm_of_many", lambda: None)
        products(a, b, out, alpha=2.0, beta=0.5)
    assert np.allclose(out, expected, atol=1e-4)


def test_scratch_is_reused_within_a_thread_and_never_shared():
    first = scratch("a test", 4, 5)
    assert np.shares_memory(first, scratch("a test", 2, 3))
    assert scratch("a test", 30).shape == (30,)
    others: list[np.ndarray] = []
    thread = threading.Thread(target=lambda: others.append(scratch("a test", 4, 5)))
    thread.start()
    thread.join()
    assert not np.shares_memory(others[0], scratch("a test", 4, 5))
