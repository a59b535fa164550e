"""Next-token logits of a model whose weights are read block by block, so that any model fits into memory."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from mlx.utils import tree_unflatten
from mlx_lm.models.base import create_attention_mask

from smidgen.backend import mx, nn
from smidgen.models.graph import body, named_arrays

Rows = Callable[[str, int, int | None], np.ndarray]
"""`(name, start, stop) -> rows`: reads rows of a tensor as float32."""

HEAD_ROWS = 4096
"""Number of rows of the head that are read at a time."""


def next_token_logits(graph: Any, rows: Rows, prompts: Sequence[Sequence[int]]) -> np.ndarray:
    """Return the logits (P, V) float32 after each of P prompts.

    Args:
        graph: the model; its own weights are ignored, and its blocks are filled from `rows`.
        rows: reads a tensor by its name in the graph.
        prompts: token ids.
    """
    body_ = body(graph)
    hidden = [
        mx.array(
            np.concatenate([rows("model.embed_tokens.weight", token, token + 1) for token in prompt])[None]
        )
        for prompt in prompts
    ]  # each (1, L, D)
    block = body_.layers[0]
    for index in range(len(body_.layers)):
        _fill(block, f"model.layers.{index}.", rows)
        hidden = [block(h, create_attention_mask(h, None), None) for h in hidden]
        mx.eval(hidden)
    _fill(body_.norm, "model.norm.", rows)
    last = np.concatenate([np.array(body_.norm(h[:, -1])) for h in hidden])
    name = "lm_head.weight" if "lm_head" in graph else "model.embed_tokens.weight"
    size = graph.args.vocab_size
    parts = [last @ rows(name, start, min(start + HEAD_ROWS, size)).T for start in range(0, size, HEAD_ROWS)]
    return np.concatenate(parts, axis=1)


def _fill(module: nn.Module, prefix: str, rows: Rows) -> None:
    """Load the weights under a prefix into a module."""
    names = named_arrays(module.parameters())
    module.update(tree_unflatten([(name, mx.array(rows(prefix + name, 0, None))) for name in names]))
