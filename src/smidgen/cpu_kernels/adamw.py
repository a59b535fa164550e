"""AdamW and the gradient norm in one pass over memory, instead of one pass per operation."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from smidgen.backend import mx
from smidgen.cpu_kernels.team import new, scratch, team, view

SPAN = 1 << 15
"""Parameters updated at a time: 128 KB each of values, gradients and moments."""


@dataclass(frozen=True)
class AdamWStep:
    """Parameters of one AdamW step.

    Attributes:
        number: number of the step, from 1.
        learning_rate: learning rate of this step.
        betas: decay rates of the two moments.
        eps: added to the denominator.
        scale: factor on every gradient (clipping).
    """

    number: int
    learning_rate: float
    betas: tuple[float, float]
    eps: float
    scale: float = 1.0


class Group(NamedTuple):
    """How a parameter is treated: the factor on the learning rate, and its decoupled weight decay."""

    rate: float = 1.0
    decay: float = 0.0


class Updated(NamedTuple):
    """One parameter after a step, with its moments."""

    value: mx.array
    first: mx.array
    second: mx.array


def global_norm(arrays: Sequence[mx.array]) -> float:
    """Return the L2 norm over all elements of some float32 arrays."""
    mx.eval(*arrays)
    flat = [view(array).reshape(-1) for array in arrays]
    spans = list(_spans(flat))
    parts = np.zeros(len(spans))

    def work(piece: int) -> None:
        index, span = spans[piece]
        part = flat[index][span]
        parts[piece] = np.vdot(part, part)

    team().run(work, len(spans))
    return math.sqrt(parts.sum())


def adamw(
    values: Sequence[mx.array],
    gradients: Sequence[mx.array],
    firsts: Sequence[mx.array],
    seconds: Sequence[mx.array],
    groups: Sequence[Group],
    step: AdamWStep,
) -> list[Updated]:
    """Update float32 parameters by one step of AdamW (https://arxiv.org/abs/1711.05101) with bias correction.

    Args:
        values: the parameters.
        gradients: gradients of the same shapes.
        firsts: first moments, running means of the gradients.
        seconds: second moments, running means of their squares.
        groups: how each parameter is treated.
        step: parameters of the step.

    Returns:
        New arrays; the arguments are not modified.
    """
    mx.eval(*values, *gradients, *firsts, *seconds)
    old = [[view(array).reshape(-1) for array in arrays] for arrays in (values, gradients, firsts, seconds)]
    parts = Updated._fields
    arrays = new({f"{i} {part}": value.shape for i, value in enumerate(values) for part in parts})
    updated = [Updated(*(arrays[f"{i} {part}"] for part in parts)) for i in range(len(values))]
    fresh = [[view(array).reshape(-1) for array in each] for each in updated]
    spans = list(_spans(old[0]))
    beta1, beta2 = step.betas
    first_correction = 1 / (1 - beta1**step.number)
    correction = 1 / math.sqrt(1 - beta2**step.number)

    def work(piece: int) -> None:
        index, span = spans[piece]
        rate = step.learning_rate * groups[index].rate
        value, gradient, first, second = (arrays[index][span] for arrays in old)
        new_value, new_first, new_second = (memory[span] for memory in fresh[index])
        scaled = np.multiply(gradient, (1 - beta1) * step.scale, out=scratch("scaled", value.size))
        np.multiply(first, beta1, out=new_first)
        new_first += scaled
        square = np.multiply(gradient, gradient, out=scaled)
        square *= (1 - beta2) * step.scale**2
        np.multiply(second, beta2, out=new_second)
        new_second += square
        deviation = np.sqrt(new_second, out=scaled)
        deviation *= correction
        deviation += step.eps
        np.divide(new_first, deviation, out=deviation)
        deviation *= rate * first_correction
        np.multiply(value, 1 - rate * groups[index].decay, out=new_value)
        new_value -= deviation

    team().run(work, len(spans))
    return updated


def _spans(flat: Sequence[np.ndarray]) -> Iterator[tuple[int, slice]]:
    """Yield the pieces of some flat arrays: index of the array, and slice."""
    for index, array in enumerate(flat):
        for start in range(0, array.size, SPAN):
            yield index, slice(start, min(start + SPAN, array.size))
