"""A loss that is not finite: which rows of the step it comes from, and what is left of the run."""

import math
from collections.abc import Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

from smidgen.backend import mx, nn
from smidgen.errors import WorkError, first_few
from smidgen.models.graph import named_arrays
from smidgen.training.objectives import Objective


@runtime_checkable
class Divisible(Protocol):
    """A batch whose rows can be run one by one."""

    def singly(self) -> Iterator[tuple[str, Any]]:
        """Yield the name of every row and a batch of it alone."""
        ...


class NotFinite(WorkError):
    """A loss or a gradient is not finite.

    Attributes:
        weights_at_fault: whether the weights seem to give it on any row.
    """

    def __init__(self, sentence: str, *, weights_at_fault: bool) -> None:
        super().__init__(sentence)
        self.weights_at_fault = weights_at_fault


def not_finite(
    model: nn.Module, objective: Objective[Any], batches: Sequence[Any], *, what: str, train: bool
) -> NotFinite:
    """Return the error of a loss that is not finite, after running the rows of its batches one by one.

    Args:
        model: the model with the weights that gave it.
        objective: the loss.
        batches: the batches of the step, or of the validation.
        what: the step and the numbers, such as `step 3: the loss is nan`.
        train: whether gradients count too.
    """
    rows = [row for batch in batches if isinstance(batch, Divisible) for row in batch.singly()]
    names = [name for name, alone in rows if not _is_finite(model, objective, alone, train)]
    every_row = bool(rows) and len(names) == len(rows)
    if every_row and len(rows) > 1:
        origin = f"all {len(rows)} rows give that, so the weights are at fault"
    elif every_row:
        origin = f"it comes from the only row {names[0]} or from the weights"
    elif names:
        origin = f"it comes from the row{'s' if len(names) > 1 else ''} {first_few(names, ', ')}"
    else:
        origin = "no row gives that alone" if rows else ""
    sentence = "; ".join(filter(None, (f"{what}, expected finite numbers", origin)))
    return NotFinite(sentence, weights_at_fault=every_row or not _all_finite(model.trainable_parameters()))


def _is_finite(model: nn.Module, objective: Objective[Any], batch: Any, train: bool) -> bool:
    """Whether the loss of a batch is finite, and its gradient where it counts."""

    def mean(batch: Any) -> mx.array:
        return objective.loss(model, batch).loss / objective.weight(batch)

    if not train:
        return math.isfinite(float(mean(batch)))
    loss, gradients = nn.value_and_grad(model, mean)(batch)
    return math.isfinite(float(loss)) and _all_finite(gradients)


def _all_finite(tree: dict) -> bool:
    return all(bool(mx.isfinite(array).all()) for array in named_arrays(tree).values())
