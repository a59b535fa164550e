"""Logits of MobileLLM-R1 against transformers' `Llama4ForCausalLM`, past every border that a config draws."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from smidgen.backend import mx
from smidgen.models.load import load

pytestmark = [
    pytest.mark.oracle,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::smidgen.models.licence.LicenceNotice"),
]
SHAPE = {
    "vocab_size": 320, "hidden_size": 48, "intermediate_size": 99, "intermediate_size_mlp": 64,
    "num_hidden_layers": 4, "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 8,
    "max_position_embeddings": 512, "moe_layers": [], "initializer_range": 0.3,
    "floor_scale": 8, "attn_scale": 0.7, "attention_chunk_size": 16,
}  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}  # fmt: skip


@pytest.mark.parametrize(
    "extra",
    [
        {"no_rope_layers": [1, 1, 1, 1], "tie_word_embeddings": True, "attention_chunk_size": 512},
        {"no_rope_layers": [1, 1, 1, 1], "tie_word_embeddings": True},
        {"no_rope_layers": [0, 1, 0, 1]},
        {},
        {"no_rope_layer_interval": 2, "use_qk_norm": False, "attention_bias": True},
        {"attn_temperature_tuning": False, "rope_parameters": {"rope_type": "default", "rope_theta": 8e6}},
        {"no_rope_layers": [0, 0, 1, 1], "layer_types": ["chunked_attention", "full_attention"] * 2},
        {"no_rope_layers": [1, 1, 1, 0], "rope_parameters": LLAMA3},
    ],
    ids=["published", "chunked", "without positions", "interval", "bias", "theta", "types", "scaled"],
)
def test_logits_are_those_of_transformers(tiny_tokenizer_dir: Path, tmp_path: Path, tokens: mx.array, extra):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.Llama4TextConfig(**SHAPE | extra)
    reference = transformers.Llama4ForCausalLM(config).eval()
    with torch.no_grad():
        for name, value in reference.named_parameters():
            if name.endswith("norm.weight"):
                value.uniform_(0.5, 1.5)
    shutil.copytree(tiny_tokenizer_dir, tmp_path / "model")
    reference.save_pretrained(tmp_path / "model")
    ids = torch.tensor(np.array(tokens)).long()
    with torch.no_grad():
        wanted = reference(input_ids=ids, use_cache=False).logits.numpy()
    found = np.array(load(str(tmp_path / "model")).model(tokens))
    assert np.abs(wanted).max() > 1
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)
