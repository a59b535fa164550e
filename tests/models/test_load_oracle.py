"""Folders that transformers saves, loaded by us, and folders that we save, loaded by transformers."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from smidgen.backend import mx
from smidgen.config import ArchitectureConfig
from smidgen.models.graph import create
from smidgen.models.load import load
from smidgen.models.save import save_model

pytestmark = [
    pytest.mark.oracle,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
SHAPE = {
    "vocab_size": 320,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 512,
    "initializer_range": 0.3,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 5e5,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(
    ("kind", "extra"),
    [
        ("qwen3", {"head_dim": 16}),
        ("mistral", {"head_dim": 16, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}),
        ("qwen2", {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}),
        ("llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}),
        ("llama", {"rope_parameters": LLAMA3, "attention_bias": True, "mlp_bias": True, "head_dim": 16}),
    ],
)
def test_logits_are_those_of_transformers(
    tiny_tokenizer_dir: Path, tmp_path: Path, tokens: mx.array, kind: str, extra: dict, tied: bool
):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(kind, **SHAPE, **extra, tie_word_embeddings=tied)
    reference = transformers.AutoModelForCausalLM.from_config(config).eval()
    shutil.copytree(tiny_tokenizer_dir, tmp_path / "model")
    reference.save_pretrained(tmp_path / "model")
    wanted = reference(input_ids=torch.tensor(np.array(tokens)).long()).logits.detach().numpy()
    loaded = load(str(tmp_path / "model"))
    np.testing.assert_allclose(loaded.model(tokens), wanted, rtol=1e-3, atol=1e-3)
    save_model(tmp_path / "again", loaded.model, loaded.config, tmp_path / "model")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "again", dtype=torch.float32).eval()
    theirs = again(input_ids=torch.tensor(np.array(tokens)).long()).logits.detach().numpy()
    np.testing.assert_allclose(theirs, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({}, "Qwen3ForCausalLM"),
        ({"model_type": "llama4_text"}, "Llama4ForCausalLM"),
        ({"model_type": "llama4_text", "no_rope_layer_interval": 3}, "Llama4ForCausalLM"),
    ],
)
def test_transformers_loads_a_model_made_here(
    changes: dict, name: str, tiny_tokenizer_dir: Path, tmp_path: Path, tokens: mx.array
):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    shape = ArchitectureConfig(
        hidden_size=64, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2, head_dim=32,
        intermediate_size=96, vocab_size=320, **changes,
    )  # fmt: skip
    model, config = create(shape, seed=0)
    save_model(tmp_path / "model", model, {**config, "eos_token_id": 2}, tiny_tokenizer_dir)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)
    assert type(loaded).__name__ == name
    wanted = loaded(input_ids=torch.tensor(np.array(tokens)).long()).logits.detach().numpy()
    np.testing.assert_allclose(model(tokens), wanted, rtol=1e-3, atol=1e-4)
