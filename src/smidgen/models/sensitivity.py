"""Sensitivity of layers to quantisation: the effect on predictions of quantising each layer alone.

The effect of a layer at a width is the Kullback-Leibler divergence of the model's next-token distribution
from the unquantised model's, in nats, averaged over the tokens of calibration texts. Effects of several
layers are assumed to be additive, and the widths solve the resulting multiple-choice knapsack problem
(https://doi.org/10.1007/978-3-540-24777-7_11). The caller can check how well the sum predicts the joint
effect with `Predictions.divergence`.
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
from smidgen.models.quantization import QuantizationPlan, Setting, size_of

BATCH_TOKENS = 1024
"""Padded tokens per forward pass."""
CHUNK_LOGITS = 1 << 22
"""Logits that are compared at a time, which bounds the memory for any vocabulary size."""
SOLVER_SECONDS = 60.0

Costs = dict[str, dict[int, int]]
"""Bytes, by layer and bits."""
Effects = dict[str, dict[int, float]]
"""Divergence in nats per token, by layer and bits."""


class Effect(NamedTuple):
    """The effect of quantising one layer to `bits`, in nats per token; `known` if it was measured before."""

    name: str
    bits: int
    divergence: float
    known: bool


class Predictions:
    """A model's reference predictions, to compare with its predictions after layers were quantised.

    Only the final hidden states are kept; logits are computed again for each comparison.
    """

    def __init__(self, model: nn.Module, rows: Sequence[Sequence[int]], dtype: mx.Dtype):
        """Run the unquantised model.

        Args:
            model: unquantised, without adapter layers. It is changed and restored while measuring.
            rows: token ids; the predictions after every token are compared.
            dtype: dtype of scales and biases.
        """
        self._model, self._dtype = model, dtype
        self._head = graph.head_weight(model)
        self._batches = list(_batches(rows))
        self._reference = [self._hidden(*batch) for batch in self._batches]
        mx.eval(self._reference)

    def divergence(self, plan: QuantizationPlan) -> float:
        """Return the divergence in nats per token with the layers of `plan` quantised."""
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
        """Return the final hidden states (T, D) of the non-padding tokens of a batch (B, L)."""
        hidden = graph.body(self._model)(tokens)
        return hidden.reshape(-1, hidden.shape[-1])[places]

    @contextmanager
    def _quantized(self, plan: QuantizationPlan) -> Iterator[None]:
        """Replace weights by their quantised values, and restore them at the end."""
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
    """Return a matrix (out, in) quantised with `setting`, its scales in `dtype`, and dequantised again."""
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
    """Quantise each layer alone to each width and yield its effect, fewest bits first.

    Args:
        predictions: of the unquantised model.
        names: names of the layers.
        candidates: candidate bits.
        group_size: weights that share a scale and a bias.
        record: a JSONL file; effects that it contains are not measured again, new ones are appended.
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
    """Return each layer's bytes at each candidate width, and the total bytes that meet `target_bits`.

    Args:
        model: unquantised; only shapes are read.
        settings: with `target_bits`.
        fixed: settings of the layers whose widths are not chosen.
        dtype: dtype of what stays floating-point.
        names: the layers whose widths are chosen.

    Raises:
        ConfigError: even the narrowest candidates exceed the target, or even the widest are below it.
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
            f"'target_bits' is {settings.target_bits:g}, but the narrowest of 'candidate_bits' take "
            f"{least.bits_per_weight:.3f} bits per weight, including scales and unquantised tensors; raise "
            "'target_bits', or add a narrower candidate"
        )
    all_wide = {**dict.fromkeys(names, Setting(candidates[-1], group_size)), **fixed}
    most = size_of(model, dtype, all_wide).bits_per_weight
    if settings.target_bits > round(most, 3):
        raise ConfigError(
            f"'target_bits' is {settings.target_bits:g}, but even the widest of 'candidate_bits' take only "
            f"{most:.3f} bits per weight, so there is nothing to choose; set 'bits' to {candidates[-1]}, or "
            "lower 'target_bits'"
        )
    return costs, budget


def choose(
    effects: Mapping[str, Mapping[int, float]], costs: Mapping[str, Mapping[int, int]], budget: int
) -> dict[str, int]:
    """Return the bits of each layer that minimise the sum of effects within a budget.

    Args:
        effects: divergence by layer and bits.
        costs: bytes by layer and bits.
        budget: total bytes; at least those of the narrowest widths.
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
        loss * (1000 / max(loss.max(), 1e-12)),  # scaled, because the solver's tolerances are absolute
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
    """Yield right-padded batches (B, L) of similarly long rows, and flat indices (T,) of the real tokens."""
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
    """Return the sum over tokens of Σ p · ln(p / q), for logits (T, V) of p and q."""
    # MLX's exponentials are scalar, and slow, on the CPU
    xp: Any = np if device().kind == "cpu" else mx
    p_scores, q_scores = (xp.array(scores.astype(mx.float32)) for scores in (reference, changed))
    p_scores = p_scores - p_scores.max(axis=-1, keepdims=True)
    q_scores = q_scores - q_scores.max(axis=-1, keepdims=True)
    weights = xp.exp(p_scores)
    totals = weights.sum(axis=-1)
    differences = (weights * (p_scores - q_scores)).sum(axis=-1) / totals
    return (differences + xp.log(xp.exp(q_scores).sum(axis=-1) / totals)).sum().item()
