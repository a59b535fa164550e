from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.tools.rows import join_rows

from smidgen.errors import DataError
from smidgen.training.batches import (
    LENGTH_STEP,
    TARGET_STEP,
    RowBatches,
    TrainRow,
    fixed_batches,
    pack,
    pad,
)
from smidgen.training.training_plan import plan_training

Rows = Callable[..., list[TrainRow]]


def numbered(lengths: list[int]) -> list[TrainRow]:
    """Rows whose first token is their number."""
    return [
        TrainRow(np.array([number] + [7] * (length - 1), np.int32), np.ones(length, bool))
        for number, length in enumerate(lengths)
    ]


def drawn(batches: RowBatches) -> list[list[int]]:
    """The numbers of the rows of every step."""
    return [
        [int(row[0]) for batch in batches.next_step() for row in batch.inputs]
        for _ in range(batches.num_steps)
    ]


lengths = st.lists(st.integers(2, 90), min_size=1, max_size=60)


@given(lengths, st.integers(1, 9), st.integers(1, 4), st.integers(1, 3))
def test_every_row_is_seen_once_an_epoch(lengths: list[int], size: int, accumulation: int, epochs: int):
    batches = RowBatches(
        numbered(lengths), batch_size=size, gradient_accumulation=accumulation, epochs=epochs, seed=1
    )
    steps = drawn(batches)
    per_epoch = len(steps) // epochs
    for epoch in range(epochs):
        seen = [number for step in steps[epoch * per_epoch : (epoch + 1) * per_epoch] for number in step]
        assert sorted(seen) == list(range(len(lengths)))
    assert batches.epoch() == epochs


@given(lengths, st.integers(1, 8))
def test_accumulation_sees_the_rows_of_the_big_batch(lengths: list[int], factor: int):
    rows = numbered(lengths)
    big = RowBatches(rows, batch_size=8, seed=3)
    small = RowBatches(rows, batch_size=1, gradient_accumulation=8, seed=3)
    assert drawn(big) == drawn(small)


@given(lengths, st.integers(0, 20), st.floats(0.1, 3.0))
def test_a_restored_position_goes_on_the_same(lengths: list[int], done: int, epochs: float):
    first, second = (RowBatches(numbered(lengths), batch_size=4, epochs=epochs, seed=5) for _ in range(2))
    for _ in range(done):
        first.next_step()
    second.restore(first.state())
    for a, b in zip(first.next_step(), second.next_step(), strict=True):
        np.testing.assert_array_equal(a.inputs, b.inputs)


def test_order_depends_on_seed_and_epoch():
    rows = numbered([9] * 64)
    orders = [drawn(RowBatches(rows, batch_size=4, seed=seed, epochs=2)) for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]
    assert orders[0][:16] != orders[0][16:]


def test_a_fraction_of_an_epoch_is_a_fraction_of_its_steps():
    rows = numbered([9] * 40)
    assert RowBatches(rows, batch_size=4, epochs=0.5).num_steps == 5
    assert RowBatches(rows, batch_size=4, epochs=0.001).num_steps == 1
    assert RowBatches(rows, batch_size=4, epochs=2.5).num_steps == 25


def test_no_rows_are_refused():
    with pytest.raises(DataError, match=r"there are no training rows; check the file"):
        RowBatches([], batch_size=4)


@given(lengths)
def test_lengths_and_counts_come_from_a_small_set(lengths: list[int]):
    rows = numbered(lengths)
    rows = [TrainRow(row.token_ids, np.arange(len(row.token_ids)) % 2 == 1) for row in rows]
    batch = pad(rows)
    assert batch.inputs.shape[1] % LENGTH_STEP == 0
    assert batch.inputs.shape[1] - LENGTH_STEP < max(lengths) - 1 <= batch.inputs.shape[1]
    assert batch.positions is None or batch.positions.size % TARGET_STEP == 0
    assert batch.trained_tokens == sum(row.trained_tokens for row in rows)
    assert batch.tokens == sum(lengths) - len(lengths)


def test_a_position_stands_before_the_token_that_is_learnt():
    tokens = np.arange(10, 20, dtype=np.int32)
    mask = np.zeros(10, bool)
    mask[[0, 4, 9]] = True  # the first token is never predicted
    batch = pad([TrainRow(tokens[:3], np.zeros(3, bool)), TrainRow(tokens, mask)])
    assert batch.positions is not None
    positions, targets = batch.positions[: batch.trained_tokens], batch.targets[: batch.trained_tokens]
    np.testing.assert_array_equal(batch.inputs.reshape(-1)[positions], [13, 18])
    np.testing.assert_array_equal(targets, [14, 19])


def test_rows_without_padding_are_learnt_without_picking():
    rows = [TrainRow(np.arange(33, dtype=np.int32), np.ones(33, bool))] * 2
    batch = pad(rows)
    assert batch.positions is None
    np.testing.assert_array_equal(batch.targets, np.tile(np.arange(1, 33), 2))


def test_neighbours_in_length_share_a_batch(make_rows: Rows):
    rows = make_rows(512, longest=400)
    planned = plan_training(rows, RowBatches(rows, batch_size=8))
    shuffled = [pad(rows[i : i + 8]) for i in range(0, 512, 8)]
    unsorted = 1 - sum(batch.tokens for batch in shuffled) / sum(batch.inputs.size for batch in shuffled)
    assert planned.padding < 0.12 < 0.3 < unsorted


def test_a_plan_counts_every_step_and_leaves_the_batches_where_they_were(make_rows: Rows):
    rows = make_rows(21)
    batches = RowBatches(rows, batch_size=4, epochs=2)
    batches.next_step()
    planned = plan_training(rows, RowBatches(rows, batch_size=4, epochs=2))
    assert plan_training(rows, RowBatches(rows, batch_size=4)).rows == 21
    assert planned.steps == 12
    assert planned.longest == max(len(row.token_ids) for row in rows)
    assert planned.tokens == 2 * sum(len(row.token_ids) - 1 for row in rows)
    assert planned.trained_tokens == 2 * sum(row.trained_tokens for row in rows)
    position = batches.state()
    plan_training(rows, batches)
    assert batches.state() == position


@given(lengths, st.integers(1, 200))
def test_packed_rows_keep_their_tokens_and_positions(lengths: list[int], capacity: int):
    rows = [
        TrainRow(np.arange(number, number + length, dtype=np.int32), np.arange(length) % 2 == 1)
        for number, length in zip(range(0, 100 * len(lengths), 100), lengths, strict=True)
    ]
    batch = pack(rows, capacity)
    assert batch.tokens == sum(lengths) - len(lengths)
    assert batch.trained_tokens == sum(row.trained_tokens for row in rows)
    assert batch.inputs.shape[1] <= max(capacity, *lengths) + LENGTH_STEP
    assert batch.spans is not None
    found, flat = [], batch.inputs.reshape(-1)
    for start, size in batch.spans.tolist():
        found.append(flat[start : start + size].tolist())
        if batch.position_ids is not None and batch.segment_ids is not None:
            np.testing.assert_array_equal(
                batch.position_ids.reshape(-1)[start : start + size], np.arange(size)
            )
            assert len(set(batch.segment_ids.reshape(-1)[start : start + size].tolist())) == 1
    assert sorted(found) == sorted(row.token_ids[:-1].tolist() for row in rows)
    if batch.positions is not None:
        positions = batch.positions[: batch.trained_tokens]
        np.testing.assert_array_equal(batch.targets[: batch.trained_tokens], flat[positions] + 1)


def test_packing_leaves_little_padding(make_rows: Rows):
    rows = make_rows(256, longest=60)
    padded, packed = (RowBatches(rows, batch_size=16, capacity=capacity) for capacity in (None, 1 << 30))
    assert plan_training(rows, packed).padding < 0.06 < 0.2 < plan_training(rows, padded).padding


def test_a_validation_set_holds_every_row_once(make_rows: Rows):
    rows = make_rows(11)
    batches = fixed_batches(rows, batch_size=4)
    assert [len(batch.inputs) for batch in batches] == [4, 4, 3]
    assert sum(batch.trained_tokens for batch in batches) == sum(row.trained_tokens for row in rows)
    seen = Counter(int(row[0]) for batch in batches for row in batch.inputs)
    assert seen == Counter(int(row.token_ids[0]) for row in rows)


def test_joined_rows_keep_their_texts(make_rows: Rows):
    texts = make_rows(3)
    learnt = replace(texts[0], loss_mask=np.ones(len(texts[0].token_ids), bool))
    joined = join_rows([learnt, *texts[1:]])
    assert joined.trained_tokens == learnt.trained_tokens + sum(row.trained_tokens for row in texts[1:])
    batch = pad([joined, texts[0]])
    assert batch.segment_ids is not None and batch.position_ids is not None
    lengths = [len(row.token_ids) for row in texts]
    places = np.concatenate([np.arange(length) for length in lengths])[:-1]
    np.testing.assert_array_equal(batch.position_ids[0, : len(places)], places)
    np.testing.assert_array_equal(np.unique(batch.segment_ids[0]), [-1, 0, 1, 2])
    np.testing.assert_array_equal(batch.segment_ids[1, : lengths[0] - 1], 0)
    assert (batch.segment_ids[1, lengths[0] - 1 :] == -1).all()
