"""Jacobi trajectories: how a model's guesses at each block of its answer became the answer."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain, takewhile
from pathlib import Path
from typing import Any

from smidgen.errors import DataError
from smidgen.files import read_jsonl


@dataclass(frozen=True)
class Trajectory:
    """An answer in blocks, each with the states through which it was found.

    Attributes:
        id: the id of the sample.
        prompt: token ids of the prompt.
        blocks: for each block its states: first the right first token and random ones, last the fixed point,
            which is the model's greedy answer there. All states of a block have the same number of tokens.
        is_finished: whether the answer ends with an end token, not at the maximum number of tokens.
    """

    id: str
    prompt: Sequence[int]
    blocks: Sequence[Sequence[Sequence[int]]]
    is_finished: bool

    @property
    def answer(self) -> list[int]:
        """The fixed points of all blocks."""
        return list(chain.from_iterable(states[-1] for states in self.blocks))

    @property
    def iterations(self) -> int:
        """Number of passes that led from the first states to the fixed points; 1 for a block of one state."""
        return sum(max(1, len(states) - 1) for states in self.blocks)

    def to_json(self) -> dict[str, Any]:
        """Return the trajectory as a JSON object."""
        return asdict(self)

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> "Trajectory":
        """Read a trajectory.

        Raises:
            DataError: it is none, or its blocks are not states of one length.
        """
        try:
            found = cls(row["id"], row["prompt"], row["blocks"], row["is_finished"])
            lengths = [{len(state) for state in states} for states in found.blocks]
        except (KeyError, TypeError) as error:
            raise DataError(f"a line is no trajectory: {error}; collect the trajectories again") from None
        if not lengths or any(len(sizes) != 1 or 0 in sizes for sizes in lengths):
            raise DataError(
                f"the trajectory '{found.id}' has an empty block, or states of several lengths in one; "
                "collect the trajectories again"
            )
        return found


def read_trajectories(folder: Path) -> Iterator[Trajectory]:
    """Yield the trajectories of all shards of a folder, in order.

    Raises:
        DataError: a shard is damaged.
    """
    for path in sorted(folder.glob("shard-*.jsonl")):
        yield from read_shard(path)


def read_shard(path: Path) -> list[Trajectory]:
    """Read the trajectories of one shard.

    Raises:
        DataError: it is damaged.
    """
    return [Trajectory.from_json(row) for row in read_jsonl(path)]


def mismatch(state: Iterable[int], fixed: Iterable[int]) -> int:
    """Return the index of the first wrong token of a state; its length if there is none."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(state, fixed, strict=True)))
