"""Collection of Jacobi trajectories (https://arxiv.org/abs/2403.00835): many rows in one decoder.

A block starts with random tokens of the row, those of the first block behind the prompt, so that states are
what a decoder meets that also guesses in the prompt's pass. Each pass replaces every token by the model's
choice after the ones before it, until nothing changes; what is known to be right is not run again. Rows are
at different places of their blocks and share every pass.
"""

import hashlib
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np

from smidgen.data.trajectories import Trajectory
from smidgen.errors import ModelError
from smidgen.inference.decoder import Decoder
from smidgen.inference.lane import joining, room_for
from smidgen.inference.prefixes import common_prefix


@dataclass(frozen=True)
class Question:
    """A prompt whose answer's trajectory is collected.

    Attributes:
        id: the id of its sample.
        prompt: token ids, one or more.
        max_tokens: maximum tokens of the answer, one or more.
    """

    id: str
    prompt: list[int]
    max_tokens: int


def collect_trajectories(
    decoder: Decoder,
    questions: Sequence[Question],
    *,
    block_size: int,
    end_tokens: Collection[int],
    batch_size: int,
    seed: int,
) -> Iterator[tuple[int, Trajectory]]:
    """Answer questions greedily; yield the place of each and its trajectory as soon as it is complete.

    Args:
        decoder: has no rows, before and after.
        questions: the prompts.
        block_size: tokens of a block; the last one of an answer may have fewer.
        end_tokens: ids of the tokens that end an answer.
        batch_size: maximum number of rows in a pass.
        seed: of the random tokens, with the id of the sample and the number of the block.

    Raises:
        ModelError: the logits are NaN.
    """
    if not questions:
        return
    waiting, rows = deque(enumerate(questions)), list[_Row]()
    longest = max(len(one.prompt) + one.max_tokens for one in questions)
    room = room_for(decoder, longest, batch_size)
    prompts = [one.prompt for one in questions]
    (decoder.share if len(prompts) > 1 else decoder.reuse)(prompts)
    while waiting or rows:
        free = room - len(rows)
        if waiting and free:
            new = [
                _Row(*waiting.popleft(), block_size, frozenset(end_tokens), seed)
                for _ in range(joining(len(one.prompt) + block_size for _, one in islice(waiting, free)))
            ]
            blocks = [row.next_tokens for row in new]
            prompts = [row.question.prompt[:-1] + block for row, block in zip(new, blocks, strict=True)]
            logits = decoder.add(prompts, last=[len(block) for block in blocks])
            surplus = [0] * len(rows)
            rows += new
        else:
            new, blocks, surplus = rows, [row.next_tokens for row in rows], []
            logits = decoder.step(blocks)
        choices = iter(_choices(decoder, logits))
        surplus += [
            row.take(list(islice(choices, len(block)))) for row, block in zip(new, blocks, strict=True)
        ]
        decoder.rollback(surplus)
        for at in reversed(range(len(rows))):
            if rows[at].is_done:
                yield rows[at].place, rows[at].trajectory
                decoder.remove(at)
                rows[at] = rows[-1]
                rows.pop()
    decoder.clear()


def _choices(decoder: Decoder, logits: Any) -> list[int]:
    """Return the most probable tokens of logits (T, V)."""
    if bool(decoder.xp.isnan(logits[:, 0]).any()):
        raise ModelError(
            "the model computes logits that are NaN; its weights are damaged, so download or train them again"
        )
    return np.asarray(decoder.xp.argmax(logits, axis=-1)).tolist()


@dataclass
class _Row:
    """The trajectory of one question so far.

    Attributes:
        place: its place among the questions.
        states: those of the block under way, the random one first.
        known: number of first tokens of the newest state that are known to be right.
    """

    place: int
    question: Question
    block_size: int
    end_tokens: frozenset[int]
    seed: int
    answer: list[int] = field(default_factory=list)
    blocks: list[list[list[int]]] = field(default_factory=list)
    states: list[list[int]] = field(default_factory=list)
    known: int = 0

    def __post_init__(self) -> None:
        self._begin()

    @property
    def is_done(self) -> bool:
        """Whether the answer is complete."""
        return self._has_ended or len(self.answer) == self.question.max_tokens

    @property
    def trajectory(self) -> Trajectory:
        """The trajectory of a complete answer."""
        return Trajectory(self.question.id, self.question.prompt, self.blocks, self._has_ended)

    @property
    def next_tokens(self) -> list[int]:
        """The last right token and, but for the last, the guesses after it."""
        before = self.answer[-1] if self.answer else self.question.prompt[-1]
        return [before, *self.states[-1]][self.known : -1]

    @property
    def _has_ended(self) -> bool:
        return bool(self.answer) and self.answer[-1] in self.end_tokens

    def take(self, choices: list[int]) -> int:
        """Take the model's choice after each token of `next_tokens`; return how many of these to undo."""
        state = self.states[-1]
        right = len(common_prefix(state[self.known :], choices))
        state = state[: self.known] + choices
        self.known = min(len(state), self.known + right + 1)
        self.states.append(state)
        surplus = len(state) - self.known
        self._finish_block()
        return surplus

    def _begin(self) -> None:
        """Begin a block with random tokens; an end token is no guess, as in decoding."""
        size = min(self.block_size, self.question.max_tokens - len(self.answer))
        text = [*self.question.prompt, *self.answer]
        text = [token for token in text if token not in self.end_tokens] or text
        name = f"{self.seed}/{len(self.blocks)}/{self.question.id}"
        rng = np.random.default_rng(list(hashlib.blake2b(name.encode(), digest_size=16).digest()))
        self.states, self.known = [[text[at] for at in rng.integers(len(text), size=size)]], 0

    def _finish_block(self) -> None:
        """Append the block to the answer if all of it is right, or all up to an end token."""
        right = self.states[-1][: self.known]
        end = next((i + 1 for i, token in enumerate(right) if token in self.end_tokens), len(right))
        if end == len(self.states[-1]) or right[end - 1] in self.end_tokens:
            states = [state[:end] for state in self.states]
            self.blocks.append([state for i, state in enumerate(states) if i == 0 or state != states[i - 1]])
            self.answer += right[:end]
            if not self.is_done:
                self._begin()
