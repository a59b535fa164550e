"""Rows of several sources are drawn by their shares, each source in full before it begins again."""

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smidgen.errors import DataError
from smidgen.training.batches import WINDOW, TrainRow
from smidgen.training.mixed_batches import MixedBatches
from smidgen.training.mixing import Mix

SHARES = {"a": 0.2, "b": 0.8}


def numbered(counts: dict[str, int], length: Callable[[int], int] = lambda number: 3) -> list[TrainRow]:
    """Rows of sources whose first token is their number among all."""
    names = [name for name, count in counts.items() for _ in range(count)]
    return [
        TrainRow(
            np.array([number] + [7] * (length(number) - 1), np.int32),
            np.ones(length(number), bool),
            source=name,
        )
        for number, name in enumerate(names)
    ]


def mixed(rows: list[TrainRow], **settings: float) -> MixedBatches:
    return MixedBatches(rows, list, SHARES, **({"batch_size": 4} | settings))  # type: ignore[arg-type]


def drawn(batches: MixedBatches) -> list[list[int]]:
    """The numbers of the rows of every step that is left; a batch is a list of rows."""
    steps = []
    while round(batches.epoch() * batches._steps_per_epoch) < batches.num_steps:
        steps.append([int(row.token_ids[0]) for rows in batches.next_step() for row in rows])
    return steps


@given(st.integers(1, 30), st.integers(1, 30), st.floats(0.1, 5.0), st.integers(0, 5))
def test_a_source_is_drawn_in_full_before_it_begins_again(few: int, many: int, epochs: float, seed: int):
    batches = mixed(numbered({"a": few, "b": many}), epochs=epochs, seed=seed)
    counts = Counter(number for step in drawn(batches) for number in step)
    for numbers in (range(few), range(few, few + many)):
        times = [counts[number] for number in numbers]
        assert max(times) - min(times) <= 1
    figures = batches.figures()
    rows = Mix((1,), ((0.2, 0.8),), seed)
    sources = [rows.source_of(row) for row in range(4 * batches.num_steps)]
    assert figures["epoch/a"] == sources.count(0) / few
    assert figures["tokens/b"] == 2 * sources.count(1)


@pytest.mark.slow
@given(st.integers(0, WINDOW + 9), st.integers(1, 40), st.integers(0, 3))
def test_a_restored_position_goes_on_the_same(done: int, few: int, seed: int):
    rows = numbered({"a": few, "b": 60}, length=lambda number: 3 + number % 7)
    whole, second, first = (mixed(rows, epochs=3.0, seed=seed) for _ in range(3))
    steps = drawn(whole)
    for _ in range(done):
        first.next_step()
    second.restore(first.state())
    assert second.figures() == first.figures()
    assert drawn(second) == steps[done:]
    assert second.figures() == whole.figures()


def test_accumulation_sees_the_rows_of_the_big_batch():
    rows = numbered({"a": 9, "b": 31}, length=lambda number: 3 + number % 5)
    big, small = mixed(rows, batch_size=8), mixed(rows, batch_size=2, gradient_accumulation=4)
    assert drawn(big) == drawn(small)


def test_the_order_depends_on_the_seed_and_differs_by_window():
    rows = numbered({"a": 32, "b": 32})
    orders = [drawn(mixed(rows, epochs=4.0, seed=seed)) for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]
    assert orders[0][:WINDOW] != orders[0][WINDOW:]


def test_rows_of_similar_length_share_a_step():
    rows = numbered({"a": 128, "b": 128}, length=lambda number: 3 + 11 * number % 300)
    steps = drawn(mixed(rows, batch_size=8))
    spread = [max(lengths) - min(lengths) for step in steps if (lengths := [len(rows[n]) for n in step])]
    assert np.mean(spread) < 30


def test_a_source_without_rows_is_refused():
    with pytest.raises(
        DataError, match=r"the source 'b' has no training rows; check its file and its splits"
    ):
        mixed(numbered({"a": 4}))
