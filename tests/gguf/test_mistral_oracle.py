"""A Mistral of transformers, put into a file as llama.cpp's converter does, is the same model when read."""

from pathlib import Path

import numpy as np
import pytest
from gguf import MODEL_ARCH, GGUFWriter, get_tensor_name_map
from tests.tools.gguf_files import add_key, sentencepiece

from smidgen.backend import mx
from smidgen.gguf import import_gguf
from smidgen.models.load import load

pytestmark = [
    pytest.mark.oracle,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
LAYERS, HEADS, KV_HEADS, HEAD, WIDTH, INNER = 2, 4, 2, 32, 64, 96


def paired(rows: np.ndarray, heads: int) -> np.ndarray:
    """The rows of queries or keys in the order that the converter puts them in for Llama and Mistral."""
    halves = rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:])
    return halves.swapaxes(1, 2).reshape(rows.shape)


def test_predictions_are_those_of_transformers(tmp_path: Path):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    words = sentencepiece()
    source = transformers.MistralForCausalLM(
        transformers.MistralConfig(
            vocab_size=len(words.tokens), hidden_size=WIDTH, intermediate_size=INNER,
            num_hidden_layers=LAYERS, num_attention_heads=HEADS, num_key_value_heads=KV_HEADS,
            head_dim=HEAD, sliding_window=None,
            rms_norm_eps=1e-5, rope_parameters={"rope_type": "default", "rope_theta": 1e6},
            max_position_embeddings=512, initializer_range=0.3,
        )
    ).eval()  # fmt: skip
    writer = GGUFWriter(tmp_path / "model.gguf", "llama")
    keys = {
        "llama.block_count": LAYERS, "llama.context_length": 512, "llama.embedding_length": WIDTH,
        "llama.feed_forward_length": INNER, "llama.attention.head_count": HEADS,
        "llama.attention.head_count_kv": KV_HEADS, "llama.attention.key_length": HEAD,
        "llama.attention.value_length": HEAD, "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.dimension_count": HEAD, "llama.rope.freq_base": 1e6,
        "llama.vocab_size": len(words.tokens),
        "tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": list(words.tokens),
        "tokenizer.ggml.token_type": [*map(int, words.types)], "tokenizer.ggml.scores": list(words.scores),
    }  # fmt: skip
    for key, value in keys.items():
        add_key(writer, key, value)
    names = get_tensor_name_map(MODEL_ARCH.LLAMA, LAYERS)
    for name, tensor in source.state_dict().items():
        numbers = tensor.numpy()
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            numbers = paired(numbers, HEADS if "q_proj" in name else KV_HEADS)
        theirs = names.get_name(name, try_suffixes=(".weight",))
        assert theirs is not None
        writer.add_tensor(theirs, np.ascontiguousarray(numbers))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    import_gguf(tmp_path / "model.gguf", tmp_path / "out")
    ids = np.random.default_rng(0).integers(3, len(words.tokens), (2, 60))
    wanted = source(input_ids=torch.tensor(ids)).logits.detach().numpy()
    found = load(str(tmp_path / "out")).model(mx.array(ids))
    np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-3)
