import pytest

from smidgen.errors import ModelError
from smidgen.export.gguf.supported import check_architecture

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "llama4_text"}, "llama4 model cannot have zero experts"),
        ({"model_type": "mamba"}, "model_type 'mamba'; GGUF files can be written of llama, mistral, qwen2"),
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
