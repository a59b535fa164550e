"""Initial weights with an induction circuit, so that a tiny model can look things up from the start.

An induction circuit (Olsson et al. 2022, https://arxiv.org/abs/2209.11895) consists of two attention layers:
heads of the first write the previous tokens to the residual stream, heads of a later one find earlier
occurrences of the current token and copy the token that followed. From a random initialisation, a small model
forms one only after very many steps. Writing it into the initial weights is comparable to "mimetic
initialization" (Trockman and Kolter 2023, https://arxiv.org/abs/2305.09828): every weight stays trainable,
and the weights contain nothing of the data.
"""

import numpy as np

from smidgen.config import ArchitectureConfig

Weights = dict[str, np.ndarray]

EMBEDDING_DEVIATION = 0.06
CONSTANT = 0.5  # share of an embedding's norm along one direction that all tokens share
QUIET = 0.15  # factor of the random query and key weights in the circuit's layers
STRENGTH = 0.3  # scale of the circuit's query, key and value weights
WRITTEN = 0.35, 0.25  # scale of the output weights in the first and in the later layers
SHARPNESS = 1.5, 1.4  # weights of the query and key norms, likewise
FAST_PAIRS, SLOW_SHARE = 3, 10 / 16  # RoPE pairs that distinguish positions; share of nearly constant ones
FINDERS = 1, 2  # layers whose heads match and copy


def add_induction_circuit(weights: Weights, architecture: ArchitectureConfig, seed: int) -> None:
    """Overwrite random `weights` (by their names in a checkpoint) with the circuit, in place.

    Args:
        weights: float32 arrays of a newly initialised Qwen3 with at least three layers.
        architecture: their shapes.
        seed: seed of the random directions.
    """
    rng = np.random.default_rng(seed)
    width, head_dim = architecture.hidden_size, architecture.head_dim
    group = architecture.num_attention_heads // architecture.num_key_value_heads
    half = head_dim // 2
    turns = architecture.rope_theta ** (-np.arange(half) / half)  # radians per position of each RoPE pair

    # The projections have no bias, so a head can attend by position alone only through a direction that all
    # tokens share.
    constant = _orthonormal(rng, width, 1)[0]
    embedding = rng.normal(scale=EMBEDDING_DEVIATION, size=weights["model.embed_tokens.weight"].shape)
    embedding -= np.outer(embedding @ constant, constant)
    embedding += CONSTANT * EMBEDDING_DEVIATION * np.sqrt(width) * constant
    weights["model.embed_tokens.weight"][:] = embedding

    # Layer 0: query head h of the first group reads a random projection (sketch) of the token h + 1 positions
    # back and writes it to a subspace of its own.
    sketch = _orthonormal(rng, width, head_dim, besides=constant[None])
    places = _orthonormal(rng, width, head_dim * group, besides=constant[None])
    query, key, value, output = _layer(weights, 0, SHARPNESS[0])
    fast = (np.arange(half) < FAST_PAIRS).astype(float)
    key[:head_dim] += STRENGTH * np.outer(np.concatenate([fast, 0 * fast]), constant)
    value[:head_dim] = STRENGTH * sketch
    for head in range(group):
        rows = slice(head * head_dim, (head + 1) * head_dim)
        angle = (head + 1) * turns
        back = np.concatenate([fast * np.cos(angle), -fast * np.sin(angle)])
        query[rows] += STRENGTH * np.outer(back, constant)
        output[:, rows] = WRITTEN[0] * places[rows].T

    # Later layers: the query is the current token's sketch, the key that of the previous token. Only slow
    # RoPE pairs are used, which rotate little over a prompt. Values are copied along random directions.
    slow = np.argsort(turns)[: round(SLOW_SHARE * half)]
    channels = np.concatenate([slow, slow + half])
    for layer in FINDERS:
        query, key, value, output = _layer(weights, layer, SHARPNESS[1])
        for kv_head in range(architecture.num_key_value_heads):
            copied = _orthonormal(rng, width, head_dim, besides=constant[None])
            key[kv_head * head_dim + channels] += STRENGTH * places[: len(channels)]
            value[kv_head * head_dim : (kv_head + 1) * head_dim] = STRENGTH * copied
            for head in range(kv_head * group, (kv_head + 1) * group):
                query[head * head_dim + channels] += STRENGTH * sketch[: len(channels)]
                output[:, head * head_dim : (head + 1) * head_dim] = WRITTEN[1] * copied.T


def _layer(
    weights: Weights, layer: int, sharpness: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Scale down a layer's queries and keys, set their norms, and return its attention matrices (out, in)."""
    part = f"model.layers.{layer}.self_attn"
    for name in "qk":
        weights[f"{part}.{name}_proj.weight"] *= QUIET
        weights[f"{part}.{name}_norm.weight"][:] = sharpness
    query, key, value, output = (weights[f"{part}.{name}_proj.weight"] for name in "qkvo")
    return query, key, value, output


def _orthonormal(
    rng: np.random.Generator, width: int, number: int, besides: np.ndarray | None = None
) -> np.ndarray:
    """Return random orthonormal rows (number, width), orthogonal to the rows of `besides`."""
    taken = np.zeros((0, width)) if besides is None else besides
    basis, _ = np.linalg.qr(np.concatenate([taken, rng.normal(size=(number, width))]).T)
    return basis.T[len(taken) :]
