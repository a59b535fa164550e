"""What llama.cpp calls the tensors of a model, and in which order it wants the rows of queries and keys.

llama.cpp rotates neighbouring pairs of a head's features in the family llama, (0, 1), (2, 3), …, and halves,
(0, d/2), (1, d/2 + 1), …, in qwen2 and qwen3. Hugging Face's checkpoints are all made for halves, so for
llama the rows of the query and key projections change places within each head.
"""

import re
from typing import Any

import numpy as np

from smidgen.errors import ModelError
from smidgen.models.architectures import explicit_config

ARCHITECTURES = ("llama", "qwen2", "qwen3")
"""`model_type`s that llama.cpp loads, each under the same name."""
YARN_BETAS = {"beta_fast": 32, "beta_slow": 1}
"""What llama.cpp computes yarn scaling with: it reads other betas of few architectures, and none of these."""

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


def check_architecture(config: dict[str, Any], source: str) -> None:
    """Refuse what llama.cpp cannot load.

    Raises:
        ModelError: the architecture is none that llama.cpp has, or has at these settings.
    """
    kind = config.get("model_type")
    if kind == "llama4_text":
        raise ModelError(
            f"{source} is a dense llama4_text model, which llama.cpp refuses to load "
            "('llama4 model cannot have zero experts'); export it for MLX instead"
        )
    if kind not in ARCHITECTURES:
        raise ModelError(
            f"{source} has model_type {kind!r}; GGUF files can be written of {', '.join(ARCHITECTURES)}"
        )
    if config.get("rope_traditional"):
        raise ModelError(f"{source} has rope_traditional, which llama.cpp has no setting for")
    rope = explicit_config(config).get("rope_scaling") or {}
    if kind != "llama" and rope.get("rope_type") == "llama3":
        raise ModelError(
            f"{source} is a {kind} with rotary scaling of the kind llama3, which llama.cpp has for llama only"
        )
    odd = [f"{name} {rope[name]}" for name, used in YARN_BETAS.items() if rope.get(name, used) != used]
    if odd:
        raise ModelError(
            f"{source} has yarn scaling with {' and '.join(odd)}, but llama.cpp computes with "
            f"{' and '.join(f'{name} {used}' for name, used in YARN_BETAS.items())} whatever a file says; "
            "run or export it with MLX instead"
        )


def gguf_name(name: str) -> str:
    """Return llama.cpp's name of a tensor: `model.layers.3.mlp.up_proj.weight` is `blk.3.ffn_up.weight`."""
    module, _, part = name.rpartition(".")
    if matched := _IN_BLOCK.fullmatch(module):
        return f"blk.{matched[1]}.{_BLOCK[matched[2]]}.{part}"
    return f"{_TOP[module]}.{part}"


def rotated_head(name: str, model_type: str, head_dim: int) -> int | None:
    """Return how many rows make a head whose rows change places, or None where they stay."""
    rotated = model_type == "llama" and name.rpartition(".")[0].endswith(("q_proj", "k_proj"))
    return head_dim if rotated else None


def pair_rows(rows: np.ndarray, head_dim: int) -> np.ndarray:
    """Put rows (H · head_dim, …) whose heads are rotated as halves in the order of rotated pairs."""
    heads = rows.reshape(-1, 2, head_dim // 2, *rows.shape[1:])
    return heads.swapaxes(1, 2).reshape(rows.shape)


def unpair_rows(rows: np.ndarray, head_dim: int) -> np.ndarray:
    """Undo `pair_rows`."""
    heads = rows.reshape(-1, head_dim // 2, 2, *rows.shape[1:])
    return heads.swapaxes(1, 2).reshape(rows.shape)
