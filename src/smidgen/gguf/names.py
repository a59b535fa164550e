"""What llama.cpp calls the tensors of a model, and in which order it wants the rows of queries and keys.

llama.cpp rotates neighbouring pairs of a head's features in the family llama, (0, 1), (2, 3), …, and halves,
(0, d/2), (1, d/2 + 1), …, in qwen2 and qwen3. Hugging Face's checkpoints are all made for halves, so for
llama the rows of the query and key projections change places within each head.
"""

import re

import numpy as np

FAMILIES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
"""`model_type`s that llama.cpp loads, and the architecture that it calls them; Mistral's is Llama's graph."""
ARCHITECTURES = tuple(dict.fromkeys(FAMILIES.values()))
"""Architectures of files that can be read."""
ROPE_DIVISORS = "rope_freqs.weight"
"""A tensor that the graph has no place for: what rotary frequencies are divided by."""

_TOP = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
_BLOCK = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_IN_BLOCK = re.compile(r"model\.layers\.(\d+)\.(.+)")
_FROM_TOP = {theirs: ours for ours, theirs in _TOP.items()}
_FROM_BLOCK = {theirs: ours for ours, theirs in _BLOCK.items()}
_IN_GGUF_BLOCK = re.compile(r"blk\.(\d+)\.(.+)")


def gguf_name(name: str) -> str:
    """Return llama.cpp's name of a tensor: `model.layers.3.mlp.up_proj.weight` is `blk.3.ffn_up.weight`."""
    module, _, part = name.rpartition(".")
    if matched := _IN_BLOCK.fullmatch(module):
        return f"blk.{matched[1]}.{_BLOCK[matched[2]]}.{part}"
    return f"{_TOP[module]}.{part}"


def graph_name(name: str) -> str | None:
    """Return the graph's name of a tensor of a file, the inverse of `gguf_name`; None if it has none."""
    module, _, part = name.rpartition(".")
    if matched := _IN_GGUF_BLOCK.fullmatch(module):
        inner = _FROM_BLOCK.get(matched[2])
        return f"model.layers.{matched[1]}.{inner}.{part}" if inner else None
    return f"{_FROM_TOP[module]}.{part}" if module in _FROM_TOP else None


def rotated_head(name: str, model_type: str, head_dim: int) -> int | None:
    """Return how many rows make a head whose rows change places, or None where they stay."""
    rotated = FAMILIES.get(model_type) == "llama" and name.rpartition(".")[0].endswith(("q_proj", "k_proj"))
    return head_dim if rotated else None


def pair_rows(rows: np.ndarray, head_dim: int) -> np.ndarray:
    """Put rows (H · head_dim, …) whose heads are rotated as halves in the order of rotated pairs."""
    heads = rows.reshape(-1, 2, head_dim // 2, *rows.shape[1:])
    return heads.swapaxes(1, 2).reshape(rows.shape)


def unpair_rows(rows: np.ndarray, head_dim: int) -> np.ndarray:
    """Undo `pair_rows`."""
    heads = rows.reshape(-1, head_dim // 2, 2, *rows.shape[1:])
    return heads.swapaxes(1, 2).reshape(rows.shape)
