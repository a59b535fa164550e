import numpy as np
import pytest

from smidgen.errors import ModelError
from smidgen.export.gguf.names import check_architecture, gguf_name, pair_rows, rotated_head, unpair_rows


def test_tensors_have_the_names_that_llama_cpp_looks_for():
    assert gguf_name("model.layers.11.self_attn.k_proj.bias") == "blk.11.attn_k.bias"
    assert gguf_name("lm_head.weight") == "output.weight"
    assert rotated_head("model.layers.0.self_attn.q_proj.weight", "llama", 64) == 64
    assert rotated_head("model.layers.0.self_attn.v_proj.weight", "llama", 64) is None
    assert rotated_head("model.layers.0.self_attn.q_proj.weight", "qwen3", 64) is None


def test_halves_become_pairs_within_each_head_and_back():
    rows = np.arange(12 * 3).reshape(12, 3)
    assert pair_rows(rows, 6)[:, 0].tolist() == [3 * i for i in (0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11)]
    assert (unpair_rows(pair_rows(rows, 6), 6) == rows).all()
    assert pair_rows(rows[:, 0], 4).shape == (12,)


YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "llama4_text"}, "llama4 model cannot have zero experts"),
        ({"model_type": "mamba"}, "model_type 'mamba'; GGUF files can be written of llama, qwen2, qwen3"),
        (
            {"model_type": "llama", "rope_traditional": True},
            "rope_traditional, which llama.cpp has no setting",
        ),
        ({"model_type": "qwen3", "rope_scaling": {"rope_type": "llama3"}}, "llama.cpp has for llama only"),
        (
            {"model_type": "llama", "rope_scaling": YARN | {"beta_fast": 16, "beta_slow": 2}},
            "yarn scaling with beta_fast 16 and beta_slow 2, but llama.cpp computes with beta_fast 32",
        ),
        (
            {"model_type": "qwen3", "rope_parameters": YARN | {"beta_fast": 32.0, "beta_slow": 2}},
            "yarn scaling with beta_slow 2, but",
        ),
    ],
)
def test_what_llama_cpp_cannot_load_is_refused_by_name(config: dict, message: str):
    with pytest.raises(ModelError, match=message):
        check_architecture(config, "a model")


def test_betas_that_llama_cpp_computes_with_are_let_pass():
    for betas in ({}, {"beta_fast": 32.0, "beta_slow": 1}):
        check_architecture({"model_type": "qwen3", "rope_parameters": YARN | betas}, "a model")
