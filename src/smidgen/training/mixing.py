"""Which source each row of a mix is from.

Rows are drawn independently, as in MobileLLM-R1 (https://arxiv.org/abs/2509.24945), with probabilities
proportional to the weights of the phase that the row is in. The draw depends on the seed and on the number of
the row alone, so a resumed training needs no random state.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from smidgen.config import PhaseConfig


@dataclass(frozen=True)
class Mix:
    """The sources of a training's rows, in phases.

    Attributes:
        ends: (P,) the number of rows up to the end of each phase.
        shares: (P, S) share of each source in each phase.
        seed: seed of the draws.
    """

    ends: tuple[int, ...]
    shares: tuple[tuple[float, ...], ...]
    seed: int = 0

    def source_of(self, row: int) -> int:
        """Return the index of the source that a row is from; rows count from 0."""
        shares = self.shares_of(row)
        return int(np.random.default_rng([self.seed, row]).choice(len(shares), p=shares))

    def shares_of(self, row: int) -> tuple[float, ...]:
        """Return the shares of the sources in the phase of a row; the last phase has no end."""
        phase = int(np.searchsorted(self.ends[:-1], row, side="right"))
        return self.shares[phase]

    @property
    def total_shares(self) -> tuple[float, ...]:
        """Share of each source in all phases together."""
        rows = np.diff(self.ends, prepend=0)
        return tuple((rows @ np.array(self.shares) / rows.sum()).tolist())


def mix_of(phases: Sequence[PhaseConfig], names: Sequence[str], *, max_length: int, seed: int = 0) -> Mix:
    """Return the mix of the sources with these names.

    Args:
        phases: the phases with the weights of their sources.
        names: names of the sources.
        max_length: tokens of a row.
        seed: seed of the draws.
    """
    weights = [[phase.weights.get(name, 0.0) for name in names] for phase in phases]
    return Mix(
        ends=phase_ends(phases, max_length=max_length),
        shares=tuple(tuple(weight / sum(row) for weight in row) for row in weights),
        seed=seed,
    )


def phase_ends(phases: Sequence[PhaseConfig], *, max_length: int) -> tuple[int, ...]:
    """Return the number of rows up to the end of each phase: that of the row that has its last token."""
    tokens = np.cumsum([phase.tokens for phase in phases])
    return tuple((-(-tokens // max_length)).tolist())
