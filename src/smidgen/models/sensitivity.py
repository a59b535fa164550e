"""Which layers can spare bits: each is quantised alone, and what that does to the predictions is measured.

The effect of a layer at a width is the Kullback-Leibler divergence of the model's next-token distribution
from the unchanged model's, in nats, averaged over the tokens of calibration texts. Effects of several layers
are taken to add up, and the widths are the solution of the multiple-choice knapsack that this leaves
(https://doi.org/10.1007/978-3-540-24777-7_11). How well the sum foretells the whole is for the caller to
measure, with `Predictions.divergence`.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import gcd
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp

from smidgen.backend import device, mx, nn
from smidgen.config import DEFAULT_GROUP_SIZE, QuantizeConfig
from smidgen.errors import ConfigError
from smidgen.files import append_jsonl, read_jsonl
from smidgen.models import graph
from smidgen.models.quantize import QuantizationPlan, Setting, size_of

BATCH_TOKENS = 1024
"""Padded tokens of one forward pass."""
CHUNK_LOGITS = 1 << 22
"""Scores that are compared at once, which bounds the memory whatever the vocabulary."""
SOLVER_SECONDS = 60.0

Costs = dict[str, dict[int, int]]
"""Bytes, by layer and bits."""
Effects = dict[str, dict[int, float]]
"""Divergence in nats a token, by layer and bits."""


class Effect(NamedTuple):
    """What quantising one layer to `bits` does, in nats a token; `known` if it was measured before."""

    name: str
    bits: int
    divergence: float
    known: bool


class Predictions:
    """A model's predictions on some rows, to compare those of its quantised layers with.

    Only the model's last hidden states are kept; scores are computed again for each comparison.
    """

    def __init__(self, model: nn.Module, rows: Sequence[Sequence[int]], dtype: mx.Dtype):
        """Run the unchanged model.

        Args:
            model: unquantised, without adapter layers. It is changed and restored while measuring.
            rows: token ids; every token but a row's last predicts a next one, and so does that.
            dtype: that scales and biases are stored in.
        """
        self._model, self._dtype = model, dtype
        self._head = graph.head_weight(model)
        self._batches = list(_batches(rows))
        self._reference = [self._hidden(*batch) for batch in self._batches]
        mx.eval(self._reference)

    def divergence(self, plan: QuantizationPlan) -> float:
        """Return the divergence in nats a token when the layers of `plan` are stored as it says."""
        total, num_tokens = 0.0, 0
        with self._quantized(plan):
            for batch, reference in zip(self._batches, self._reference, strict=True):
                hidden = self._hidden(*batch)
                num_tokens += len(hidden)
                size = max(1, CHUNK_LOGITS // self._head.shape[0])
                for start in range(0, len(hidden), size):
                    part = slice(start, start + size)
                    changed = graph.logits(self._model, hidden[part])
                    total += _divergence(reference[part] @ self._head.T, changed)
        return total / num_tokens

    def _hidden(self, tokens: mx.array, places: mx.array) -> mx.array:
        """The last hidden states (T, D) of the real tokens of a batch (B, L)."""
        hidden = graph.body(self._model)(tokens)
        return hidden.reshape(-1, hidden.shape[-1])[places]

    @contextmanager
    def _quantized(self, plan: QuantizationPlan) -> Iterator[None]:
        """Give layers the weights that their quantised selves would have, and their own back."""
        layers = dict(self._model.named_modules())
        kept = {name: layers[name].weight for name, setting in plan.items() if setting is not None}
        try:
            for name, weight in kept.items():
                layers[name].weight = rounded(weight, plan[name], self._dtype)
            yield
        finally:
            for name, weight in kept.items():
                layers[name].weight = weight


def rounded(weight: mx.array, setting: Setting | None, dtype: mx.Dtype) -> mx.array:
    """Return what is left of a matrix (out, in) that is stored as `setting`, its scales in `dtype`."""
    assert setting is not None
    options: dict[str, Any] = setting._asdict()
    packed, *scales = mx.quantize(weight, **options)
    scales = [
        scale.astype(dtype).astype(weight.dtype) if mx.issubdtype(scale.dtype, mx.floating) else scale
        for scale in scales
    ]
    return mx.dequantize(packed, *scales, **options, dtype=weight.dtype)


def measure(
    predictions: Predictions,
    names: Sequence[str],
    candidates: Sequence[int],
    group_size: int,
    record: Path,
) -> Iterator[Effect]:
    """Quantise each layer alone to each width and yield what it does, fewest bits first.

    Args:
        predictions: of the unchanged model.
        names: of the layers.
        candidates: bits that they may get.
        group_size: weights that share a scale and a bias.
        record: a file of lines; what it holds is not measured again, and the rest is added to it.
    """
    known = {(row["name"], row["bits"]): row["divergence"] for row in read_jsonl(record)}
    for name in names:
        for bits in sorted(candidates):
            if (name, bits) in known:
                yield Effect(name, bits, known[name, bits], known=True)
                continue
            divergence = predictions.divergence({name: Setting(bits, group_size)})
            append_jsonl(record, {"name": name, "bits": bits, "divergence": divergence})
            yield Effect(name, bits, divergence, known=False)


def affordable(
    model: nn.Module, settings: QuantizeConfig, fixed: QuantizationPlan, dtype: mx.Dtype, names: Sequence[str]
) -> tuple[Costs, int]:
    """Return what each layer costs at each candidate width, and what all may cost to meet `target_bits`.

    Args:
        model: unquantised; only shapes are read.
        settings: with `target_bits`.
        fixed: how layers are stored whose widths are not to be chosen.
        dtype: of what stays floating.
        names: the layers whose widths are.

    Raises:
        ConfigError: even the narrowest widths take more than the target allows, or the widest less.
    """
    assert settings.target_bits is not None
    group_size = settings.group_size or DEFAULT_GROUP_SIZE
    candidates = sorted(set(settings.candidate_bits))
    layers = dict(model.named_modules())
    costs = {
        name: {
            bits: Setting(bits, group_size).num_bytes(layers[name].weight.shape, dtype) for bits in candidates
        }
        for name in names
    }
    narrowest = sum(widths[candidates[0]] for widths in costs.values())
    all_narrow = {**dict.fromkeys(names, Setting(candidates[0], group_size)), **fixed}
    least = size_of(model, dtype, all_narrow)
    budget = int(settings.target_bits * least.parameters / 8) - (least.num_bytes - narrowest)
    if narrowest > budget:
        raise ConfigError(
            f"'target_bits' is {settings.target_bits:g}, and the narrowest of 'candidate_bits' come to "
            f"{least.bits_per_weight:.3f} bits per weight, scales and what is not quantised included; raise "
            "'target_bits', or add a narrower candidate"
        )
    all_wide = {**dict.fromkeys(names, Setting(candidates[-1], group_size)), **fixed}
    most = size_of(model, dtype, all_wide).bits_per_weight
    if settings.target_bits > round(most, 3):
        raise ConfigError(
            f"'target_bits' is {settings.target_bits:g}, and even the widest of 'candidate_bits' come to "
            f"{most:.3f} bits per weight, so there is nothing to choose; give 'bits' {candidates[-1]}, or "
            "lower 'target_bits'"
        )
    return costs, budget


def choose(
    effects: Mapping[str, Mapping[int, float]], costs: Mapping[str, Mapping[int, int]], budget: int
) -> dict[str, int]:
    """Return the bits of each layer whose effects have the least sum within a budget of bytes.

    Args:
        effects: by layer and bits.
        costs: bytes, by layer and bits.
        budget: bytes that all layers may take together; enough for the narrowest of each.
    """
    options = [(name, bits) for name, widths in effects.items() for bits in widths]
    cost = np.array([costs[name][bits] for name, bits in options])
    unit = gcd(*cost.tolist())
    loss = np.array([effects[name][bits] for name, bits in options])
    index = {name: row for row, name in enumerate(effects)}
    one_each = np.zeros((len(index), len(options)))
    for column, (name, _) in enumerate(options):
        one_each[index[name], column] = 1
    found = milp(
        loss * (1000 / max(loss.max(), 1e-12)),  # the solver's tolerances are absolute
        constraints=[
            LinearConstraint(one_each, 1, 1),
            LinearConstraint(cost[None] // unit, -np.inf, budget // unit),
        ],
        integrality=np.ones(len(options)),
        bounds=Bounds(0, 1),
        options={"time_limit": SOLVER_SECONDS},
    )
    assert found.x is not None, found.message
    return {name: bits for (name, bits), taken in zip(options, found.x > 0.5, strict=True) if taken}


def _batches(rows: Sequence[Sequence[int]]) -> Iterator[tuple[mx.array, mx.array]]:
    """Rows of like length, padded on the right (B, L), and the places (T,) of their real tokens."""
    waiting = sorted(rows, key=len, reverse=True)
    while waiting:
        length = len(waiting[0])
        size = max(1, BATCH_TOKENS // length)
        batch, waiting = waiting[:size], waiting[size:]
        tokens = np.zeros((len(batch), length), np.int32)
        is_real = np.arange(length) < np.array([len(row) for row in batch])[:, None]
        tokens[is_real] = np.concatenate([np.asarray(row, np.int32) for row in batch])
        yield mx.array(tokens), mx.array(np.flatnonzero(is_real))


def _divergence(reference: mx.array, changed: mx.array) -> float:
    """The sum over tokens of Σ p · ln(p / q), of scores (T, V) each."""
    # MLX computes exponentials one by one on the CPU
    xp: Any = np if device().kind == "cpu" else mx
    p_scores, q_scores = (xp.array(scores.astype(mx.float32)) for scores in (reference, changed))
    p_scores = p_scores - p_scores.max(axis=-1, keepdims=True)
    q_scores = q_scores - q_scores.max(axis=-1, keepdims=True)
    weights = xp.exp(p_scores)
    totals = weights.sum(axis=-1)
    differences = (weights * (p_scores - q_scores)).sum(axis=-1) / totals
    return (differences + xp.log(xp.exp(q_scores).sum(axis=-1) / totals)).sum().item()
