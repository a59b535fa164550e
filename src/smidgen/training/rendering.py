"""Training rows of samples: every sample is tried, and all faults are in one message."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from smidgen.errors import DataError, first_few

S = TypeVar("S")
R = TypeVar("R")


@dataclass(frozen=True)
class RenderedRows(Generic[R]):
    """Training rows, or pairs of rows, in the order of their samples.

    Attributes:
        rows: one per sample.
        cut_rows: number of samples that lost context to fit.
    """

    rows: list[R]
    cut_rows: int


def render_all(
    samples: Sequence[S], render: Callable[[S], tuple[R, int]], *, name: Callable[[S], str], noun: str
) -> RenderedRows[R]:
    """Render every sample.

    Args:
        samples: the samples.
        render: returns the row of a sample and how many tokens of its context were cut.
        name: returns the id of a sample, for messages.
        noun: what the samples are, in the plural.

    Raises:
        DataError: there are none, or some cannot be rendered.
    """
    if not samples:
        raise DataError(f"there are no training {noun}; check the file, its splits and the limits in [data]")
    rows, faults, cut_rows = [], [], 0
    for sample in samples:
        try:
            row, cut = render(sample)
        except DataError as error:
            faults.append(f"sample '{name(sample)}': {error}")
            continue
        rows.append(row)
        cut_rows += cut > 0
    if faults:
        raise DataError(f"{len(faults)} of {len(samples)} {noun} cannot be trained on: {first_few(faults)}")
    return RenderedRows(rows, cut_rows)
