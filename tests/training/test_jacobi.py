"""The layout of trajectories, entry by entry, and their batches."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smidgen.data.trajectories import Trajectory, mismatch
from smidgen.training.jacobi import BlockRow, Context, Noise, TrajectoryBatches, block_batch, lay_out
from smidgen.training.training_plan import plan_training

CONTEXTS: tuple[Context, ...] = ("clean", "noisy", "window")


def row_of(
    seed: int, sizes: tuple[int, ...] = (4, 4, 4, 3), prompt: int = 5, states: int = 4, guesses: int = 1
) -> BlockRow:
    """A trajectory whose states are right up to later and later places, as those of a decoder are."""
    rng = np.random.default_rng(seed)
    blocks = []
    for size in sizes:
        fixed = rng.integers(0, 97, size)
        known = np.sort(rng.integers(0, size + 1, states - 1))
        noisy = [np.where(np.arange(size) < k, fixed, rng.integers(0, 97, size)) for k in known]
        blocks.append([state.tolist() for state in (*noisy, fixed)])
    return BlockRow.of(Trajectory(f"r{seed}", rng.integers(0, 97, prompt).tolist(), blocks, True), guesses)


def plain_layout(row: BlockRow, noise: Noise, epoch: int) -> dict[str, Any]:
    """The layout by its definition, token by token."""
    phase = noise.phase(row, epoch)
    tokens: list[dict[str, Any]] = [
        {"id": int(token), "kind": "prompt", "position": i, "block": -1} for i, token in enumerate(row.prompt)
    ]
    begin, phases = (
        len(row.prompt),
        [phase + g * noise.window // row.num_guesses for g in range(row.num_guesses)],
    )
    for j, states in enumerate(row.blocks):
        shares = [(len(s) - mismatch(s, states[-1])) / (1 + len(s)) for s in states]
        shown = []
        for g, begun in enumerate(phases):
            due = (begun + j) % noise.window / noise.window
            shown.append(
                ("guess", g, states[min(range(len(states)), key=lambda i: (abs(shares[i] - due), i))])
            )
        for kind, g, state in (*shown, ("right", None, states[-1])):
            for offset, token in enumerate(state):
                tokens.append(
                    {"id": int(token), "kind": kind, "block": j, "position": begin + offset, "offset": offset}
                    | {"wrong": offset >= mismatch(state, states[-1]), "guess": g}
                )
        begin += len(states[-1])

    def sees(query: dict, key: dict) -> bool:
        if key["kind"] == "prompt":
            return query["kind"] != "prompt" or key["position"] <= query["position"]
        if query["kind"] == "prompt" or (query["kind"] == key["kind"] and query["guess"] != key["guess"]):
            return False
        if key["block"] == query["block"]:
            return key["kind"] == query["kind"] and key["offset"] <= query["offset"]
        if key["block"] > query["block"]:
            return False
        if query["kind"] == "right":
            return key["kind"] == "right"
        if noise.context == "clean":
            return key["kind"] == "right"
        if noise.context == "noisy":
            return key["kind"] == "guess"
        due = phases[query["guess"]] + query["block"]
        begun = max(0, query["block"] - due % noise.window)  # where the window began
        return key["kind"] == ("guess" if key["block"] >= begun else "right")

    return {"tokens": tokens, "visible": [[sees(q, k) for k in tokens] for q in tokens]}


@given(
    st.integers(0, 99),
    st.lists(st.integers(1, 5), min_size=1, max_size=5),
    st.integers(1, 4),
    st.sampled_from(CONTEXTS),
    st.integers(0, 3),
    st.integers(1, 3),
)
def test_the_layout_is_that_of_its_definition(seed, sizes, window, context, epoch, guesses):
    row, noise = row_of(seed, tuple(sizes), guesses=guesses), Noise(window, context, seed)
    found, expected = lay_out(row, noise, epoch), plain_layout(row, noise, epoch)
    tokens = expected["tokens"]
    assert len(row) == len(tokens)
    assert found.inputs.tolist() == [token["id"] for token in tokens]
    assert found.positions.tolist() == [token["position"] for token in tokens]
    for i, line in enumerate(expected["visible"]):
        for j, is_visible in enumerate(line):
            assert found.visible[i, j] == is_visible, (i, j)
    answer = [i for i, token in enumerate(tokens) if token["kind"] == "right"]
    assert found.right.tolist() == [len(row.prompt) - 1, *answer[:-1]]
    assert found.targets.tolist() == [tokens[i]["id"] for i in answer] == row.answer.tolist()
    last = tokens[-1]["position"]
    wrong = [i for i, t in enumerate(tokens) if t["kind"] == "guess" and t["wrong"] and t["position"] < last]
    noisy = sorted(wrong, key=lambda i: tokens[i]["guess"])
    assert found.noisy.tolist() == noisy
    for place, teacher in zip(noisy, found.teachers, strict=True):
        twin = tokens[found.right[teacher]]  # the right token in the place of the guess
        assert (twin["kind"], twin["position"]) == ("right", tokens[place]["position"])


def test_the_wrong_shares_take_turns_and_differ_by_row_and_epoch():
    noise = Noise(4, "clean")
    states = [[1] * k + [9] * (7 - k) for k in range(8)]  # wrong shares of 7/8 to 0
    row = BlockRow.of(Trajectory("a", [1], [states] * 6, True))
    shares = [(7 - mismatch(guess, [1] * 7)) / 8 for guess in row.guesses(noise, 2)]
    assert shares == [0.5, 0.75, 0.0, 0.25, 0.5, 0.75]
    phases = {noise.phase(row_of(seed), epoch) for seed in range(9) for epoch in range(3)}
    assert phases == {0, 1, 2, 3}
    assert noise.phase(row_of(1), 1) == noise.phase(row_of(1), 1)


def test_a_batch_is_its_layouts_padded():
    rows, noise = [row_of(i, (4, 3)[: 1 + i % 2], prompt=2 + i) for i in range(4)], Noise(3, "noisy")
    batch = block_batch(rows, noise, epoch=2)
    layouts = [lay_out(row, noise, 2) for row in rows]
    length = batch.inputs.shape[1]
    flat, text = batch.inputs.reshape(-1), batch.answers
    assert text.visible is not None and text.segment_ids is not None and text.positions is not None
    places = text.positions[: batch.trained_tokens]
    expected = [i * length + p for i, one in enumerate(layouts) for p in one.right]
    expected += [i * length + p for i, one in enumerate(layouts) for p in one.noisy]
    assert places.tolist() == expected and batch.num_right == sum(len(one.right) for one in layouts)
    targets = text.targets[: batch.trained_tokens]
    assert targets[: batch.num_right].tolist() == [t for one in layouts for t in one.targets]
    assert targets[batch.num_right :].tolist() == targets[batch.teachers].tolist()
    for i, one in enumerate(layouts):
        size = len(one.inputs)
        assert (flat[i * length :][:size] == one.inputs).all()
        assert (text.visible[i, :size, :size] == one.visible).all()
        assert (text.segment_ids[i] == np.where(np.arange(length) < size, 0, -1)).all()
    assert batch.tokens == sum(map(len, rows))
    assert [name for name, _ in batch.singly()] == ["'r0'", "'r1'", "'r2'", "'r3'"]


def test_epochs_have_other_guesses_and_the_same_rows():
    rows = [row_of(i) for i in range(6)]
    settings = {"batch_size": 2, "epochs": 2, "seed": 1}
    batches = TrajectoryBatches(rows, Noise(4, "clean"), **settings)
    steps = [batches.next_step() for _ in range(batches.num_steps)]
    first, second = steps[:3], steps[3:]
    seen = [{row.id for (batch,) in part for row in batch.rows} for part in (first, second)]
    assert seen == [{row.id for row in rows}] * 2
    by_row = [
        {name: alone.inputs.tolist() for (batch,) in part for name, alone in batch.singly()}
        for part in (first, second)
    ]
    assert by_row[0] != by_row[1]
    resumed = TrajectoryBatches(rows, Noise(4, "clean"), **settings)
    resumed.restore({"step": 4})
    assert (resumed.next_step()[0].inputs == steps[4][0].inputs).all()
    plan = plan_training(rows, batches)
    assert plan.tokens == 2 * sum(map(len, rows)) and plan.longest == max(map(len, rows))


def test_the_text_of_a_row_is_learnt_from_its_answer_on():
    row = row_of(0)
    text = row.text
    assert text.token_ids.tolist() == [*row.prompt, *row.answer] and text.trained_tokens == len(row.answer)


@pytest.mark.parametrize("window", [1, 16])
def test_short_answers_are_noisy_too(window):
    rows = [row_of(i, (4,)) for i in range(40)]
    noise = Noise(window, "clean")
    wrong = sum(len(lay_out(row, noise, 0).noisy) for row in rows)
    assert wrong == 0 if window == 1 else wrong > 20
