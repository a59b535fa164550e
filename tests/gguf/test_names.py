import numpy as np

from smidgen.gguf.names import gguf_name, pair_rows, rotated_head, unpair_rows


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
