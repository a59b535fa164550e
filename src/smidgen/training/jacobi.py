"""Batches of Jacobi trajectories: a prompt, and every block of its answer as guessed and as it is.

Everything runs in one pass (https://arxiv.org/abs/2512.14681): prompt, guesses of block 0, block 0, guesses
of block 1, block 1, … The guesses of a block have the positions of the block. A mask keeps the guesses from
the right tokens of their own block, and the right tokens from all guesses. Several states of a block may be
trained together, each before the next and none visible to another, so that a prompt is run once for all.
"""

import math
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np

from smidgen.data.trajectories import Trajectory, mismatch
from smidgen.training.answers_batch import AnswersBatch
from smidgen.training.batches import (
    LENGTH_STEP,
    TARGET_STEP,
    ShuffledBatches,
    TrainBatch,
    TrainRow,
)

Context = Literal["clean", "noisy", "window"]


@dataclass(frozen=True)
class Noise:
    """How noisy the guesses of successive blocks are, and what they follow.

    Attributes:
        window: w; the wrong shares of successive blocks are 0, 1/w, … (w - 1)/w, again and again.
        context: what the guesses of a block attend to before it: right tokens, guesses, or the guesses of the
            blocks since the last share of 0 after the right tokens of those before.
        seed: of the share that the first block of a row starts with.
    """

    window: int
    context: Context
    seed: int = 0

    def phase(self, row: "BlockRow", epoch: int) -> int:
        """Return which share the first block of a row has in an epoch, in units of 1/w.

        It differs from row to row, because short answers have few blocks.
        """
        key = self.seed, epoch, zlib.crc32(row.id.encode())
        return int(np.random.default_rng(key).integers(self.window))


@dataclass(frozen=True)
class BlockRow:
    """The trajectory of one answer.

    Attributes:
        id: the id of its sample.
        prompt: (P,) int32.
        blocks: the states of each block, (states, tokens) int32; the last one is right.
        num_guesses: G, the number of states of each block that are trained together.
    """

    id: str
    prompt: np.ndarray
    blocks: tuple[np.ndarray, ...]
    num_guesses: int = 1

    @classmethod
    def of(cls, trajectory: Trajectory, num_guesses: int = 1) -> "BlockRow":
        """Return the row of a trajectory."""
        blocks = (np.array(states, np.int32) for states in trajectory.blocks)
        return cls(trajectory.id, np.array(trajectory.prompt, np.int32), tuple(blocks), num_guesses)

    @property
    def answer(self) -> np.ndarray:
        """The right tokens of all blocks, (A,) int32."""
        return np.concatenate([states[-1] for states in self.blocks])

    def __len__(self) -> int:
        """Return P + (1 + G) · A, the tokens that go through the model."""
        return len(self.prompt) + (1 + self.num_guesses) * sum(states.shape[1] for states in self.blocks)

    @property
    def text(self) -> TrainRow:
        """The prompt and the answer, as supervised fine-tuning would train on them."""
        answer = self.answer
        mask = np.arange(len(self.prompt) + len(answer)) >= len(self.prompt)
        return TrainRow(np.concatenate([self.prompt, answer]), mask, id=self.id)

    @cached_property
    def noise(self) -> tuple[np.ndarray, ...]:
        """The wrong share of each state of each block and the right token before it.

        All from the first wrong token on counts as wrong.
        """
        return tuple(
            np.array([(len(state) - mismatch(state, states[-1])) / (1 + len(state)) for state in states])
            for states in self.blocks
        )

    def guesses(self, noise: Noise, phase: int) -> list[np.ndarray]:
        """Return for each block the state whose wrong share is nearest to the one that is due."""
        due = [(phase + j) % noise.window / noise.window for j in range(len(self.blocks))]
        return [
            states[np.abs(shares - share).argmin()]
            for states, shares, share in zip(self.blocks, self.noise, due, strict=True)
        ]


@dataclass(frozen=True)
class Layout:
    """The tokens of one row as they go through the model.

    Attributes:
        inputs: (L,) int32, L = P + (1 + G) · A.
        positions: (L,) int32 for the rotary embedding.
        visible: (L, L) bool, which tokens up to itself each attends to.
        right: (A,) int32, the inputs after which the tokens of the answer come.
        targets: (A,) int32, these tokens.
        noisy: (N,) int32, the wrong guesses, after which the model should choose as after the right tokens.
        teachers: (N,) int32, index into `right` of the right token that each of them stands for.
    """

    inputs: np.ndarray
    positions: np.ndarray
    visible: np.ndarray
    right: np.ndarray
    targets: np.ndarray
    noisy: np.ndarray
    teachers: np.ndarray


def lay_out(row: BlockRow, noise: Noise, epoch: int) -> Layout:
    """Return the tokens of a row, their positions and mask, and where losses are."""
    phase, answer, start = noise.phase(row, epoch), row.answer, len(row.prompt)
    phases = [phase + g * noise.window // row.num_guesses for g in range(row.num_guesses)]
    sizes = np.array([states.shape[1] for states in row.blocks])
    begins = np.cumsum(sizes) - sizes  # in the answer
    block = np.repeat(np.arange(len(sizes)), sizes)  # of each token of the answer
    places = np.arange(len(answer))
    right = start + places + row.num_guesses * np.cumsum(sizes)[block]
    inputs, positions = np.empty(len(row), np.int32), np.arange(len(row), dtype=np.int32)
    inputs[:start], inputs[right], positions[right] = row.prompt, answer, start + places
    visible = np.tri(len(row), dtype=bool)
    noisy, teachers = list[np.ndarray](), list[np.ndarray]()
    for g, due in enumerate(phases):
        guesses, own = row.guesses(noise, due), right - (row.num_guesses - g) * sizes[block]
        inputs[own], positions[own] = np.concatenate(guesses), start + places
        _hide(visible, right, own, _groups(len(sizes), noise, due)[block])
        # Guesses are wrong from the first mismatch on; after the last token of the answer nothing is known.
        wrong = [
            begin + mismatch(guess, states[-1])
            for begin, guess, states in zip(begins, guesses, row.blocks, strict=True)
        ]
        is_noisy = (places >= np.array(wrong)[block]) & (places < len(answer) - 1)
        noisy.append(own[is_noisy])
        teachers.append(1 + np.flatnonzero(is_noisy))
    return Layout(
        inputs,
        positions,
        visible,
        np.concatenate([[start - 1], right[:-1]]).astype(np.int32),
        answer,
        np.concatenate(noisy).astype(np.int32),
        np.concatenate(teachers).astype(np.int32),
    )


def _groups(count: int, noise: Noise, phase: int) -> np.ndarray:
    """Return the group of each block: its guesses follow the guesses of its group after the right tokens."""
    if noise.context == "clean":
        return np.arange(count)
    return (phase + np.arange(count)) // noise.window if noise.context == "window" else np.zeros(count, int)


def _hide(visible: np.ndarray, right: np.ndarray, noisy: np.ndarray, group: np.ndarray) -> None:
    """Hide guesses from all others, and from them what they do not follow, in `visible` (L, L).

    Args:
        visible: which tokens each token attends to; causal before.
        right: places of the right tokens (A,).
        noisy: places of one state's guesses (A,).
        group: the group of each (A,): guesses follow those of their group after the right tokens of others.
    """
    ordered = np.arange(len(group))
    visible[:, noisy] = False
    visible[np.ix_(noisy, noisy)] = (group[:, None] == group) & (ordered[:, None] >= ordered)
    visible[np.ix_(noisy, right)] = group[:, None] > group


@dataclass(frozen=True)
class BlockBatch(AnswersBatch):
    """Trajectories for one forward pass.

    Attributes:
        answers: the padded rows; their positions are first those of all right tokens, then those of wrong
            guesses.
        num_right: how many are right tokens.
        teachers: (N,) int32, for each wrong guess the index of its right token among these positions.
        rows: the rows.
        noise: how their guesses were chosen.
        epoch: in which epoch.
    """

    answers: TrainBatch
    num_right: int
    teachers: np.ndarray
    rows: tuple[BlockRow, ...] = field(repr=False)
    noise: Noise
    epoch: int

    @property
    def num_guesses(self) -> int:
        """Number of states of each block."""
        return self.rows[0].num_guesses

    def singly(self) -> Iterator[tuple[str, "BlockBatch"]]:
        """Yield the name of every row and a batch of it alone."""
        for row in self.rows:
            yield f"'{row.id}'", block_batch([row], self.noise, self.epoch)


def block_batch(rows: Sequence[BlockRow], noise: Noise, epoch: int) -> BlockBatch:
    """Pad the layouts of some rows on the right to one length."""
    layouts = [lay_out(row, noise, epoch) for row in rows]
    length = LENGTH_STEP * math.ceil(max(map(len, rows)) / LENGTH_STEP)
    shape = len(rows), length
    inputs, positions = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    segments = np.full(shape, -1, np.int32)
    visible = np.tile(np.tri(length, dtype=bool), (len(rows), 1, 1))
    for i, layout in enumerate(layouts):
        size = len(layout.inputs)
        inputs[i, :size], positions[i, :size], segments[i, :size] = layout.inputs, layout.positions, 0
        visible[i, :size, :size] = layout.visible
    counts = [len(layout.targets) for layout in layouts]
    firsts = np.cumsum(counts) - counts
    teachers = np.concatenate([first + one.teachers for first, one in zip(firsts, layouts, strict=True)])
    chosen = np.concatenate(
        [i * length + places for part in ("right", "noisy") for i, places in enumerate(_parts(layouts, part))]
    )
    targets = np.concatenate(_parts(layouts, "targets"))
    targets = np.concatenate([targets, targets[teachers]])
    padding = (0, -len(chosen) % TARGET_STEP)
    text = TrainBatch(
        inputs,
        np.pad(chosen, padding).astype(np.int32),
        np.pad(targets, padding),
        trained_tokens=len(chosen),
        tokens=sum(map(len, rows)),
        segment_ids=segments,
        position_ids=positions,
        visible=visible,
    )
    return BlockBatch(text, sum(counts), teachers.astype(np.int32), tuple(rows), noise, epoch)


def _parts(layouts: Sequence[Layout], name: str) -> list[np.ndarray]:
    return [getattr(layout, name) for layout in layouts]


class TrajectoryBatches(ShuffledBatches[BlockRow, BlockBatch]):
    """Batches of a fixed set of trajectories, whose guesses differ from epoch to epoch."""

    def __init__(self, rows: Sequence[BlockRow], noise: Noise, **settings: Any) -> None:
        super().__init__(rows, lambda rows: block_batch(rows, noise, 0), **settings)
        self._noise = noise

    def _batch(self, rows: Sequence[BlockRow], epoch: int) -> BlockBatch:
        return block_batch(rows, self._noise, epoch)
