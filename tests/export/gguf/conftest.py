"""Random models of every family that GGUF files are written of; `smidgen.backend` is imported before MLX."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from smidgen.backend import mx
from smidgen.models.architectures import build_graph
from smidgen.models.graph import named_arrays

SHAPE = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "vocab_size": 320,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "max_position_embeddings": 512,
    "eos_token_id": 2,
}
FAMILIES = {
    "qwen3": {"head_dim": 32, "tie_word_embeddings": True},
    "qwen2": {"tie_word_embeddings": False},
    "mistral": {"head_dim": 32, "tie_word_embeddings": False, "sliding_window": None},
    "llama": {"tie_word_embeddings": False, "attention_bias": True, "mlp_bias": True},
}


@pytest.fixture
def make_model(tiny_tokenizer_dir: Path, tmp_path: Path) -> Callable[..., Path]:
    """A function that writes a model of a family with random weights, and keys of its config replaced."""

    def make(family: str = "qwen3", dtype: mx.Dtype = mx.float32, **changes: Any) -> Path:
        folder = tmp_path / f"{family}-model"
        shutil.copytree(tiny_tokenizer_dir, folder)
        config = {"model_type": family, **SHAPE, **FAMILIES[family], **changes}
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
        rng = np.random.default_rng(0)
        shapes = {n: v.shape for n, v in named_arrays(build_graph(config, "test").parameters()).items()}
        weights = {
            name: rng.uniform(0.5, 1.5, shape) if "norm" in name else rng.normal(0, 0.15, shape)
            for name, shape in shapes.items()
        }
        arrays = {name: mx.array(value.astype(np.float32)).astype(dtype) for name, value in weights.items()}
        mx.save_safetensors(str(folder / "model.safetensors"), arrays, metadata={"format": "pt"})
        return folder

    return make
