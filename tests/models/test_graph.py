import numpy as np
import pytest
from mlx_lm.models.cache import make_prompt_cache

from smidgen.backend import mx
from smidgen.config import ArchitectureConfig
from smidgen.models.architectures import build_arguments, build_graph
from smidgen.models.graph import body, create, head_weight, logits, named_arrays
from smidgen.models.load import build, read_config
from smidgen.models.quantization import quantize

SMALL = ArchitectureConfig(
    hidden_size=64, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2, head_dim=16,
    intermediate_size=96, vocab_size=200,
)  # fmt: skip
TOKENS = mx.array(np.random.default_rng(0).integers(0, 200, (2, 40)), mx.int32)


def test_body_and_head_make_the_model():
    model, _ = create(SMALL, seed=0)
    whole = model(TOKENS)
    hidden = body(model)(TOKENS)
    assert hidden.shape == (2, 40, 64)
    np.testing.assert_allclose(logits(model, hidden), whole, atol=1e-5)
    np.testing.assert_allclose(hidden @ head_weight(model).T, whole, atol=1e-5)


def test_a_quantised_head_is_dequantised():
    model, config = create(SMALL, seed=0)
    quantize(model, config, bits=8, group_size=32)
    hidden = body(model)(TOKENS)
    np.testing.assert_allclose(hidden @ head_weight(model).T, logits(model, hidden), atol=1e-4)


def test_an_untied_head_is_its_own_layer(tiny_model_dir):
    config = {**read_config(tiny_model_dir), "tie_word_embeddings": False}
    model = build_graph(config, "x")
    assert head_weight(model) is model.lm_head.weight
    hidden = mx.ones((1, 32))
    np.testing.assert_array_equal(logits(model, hidden), model.lm_head(hidden))


def test_cached_and_uncached_logits_agree():
    model, _ = create(SMALL, seed=1)
    whole = model(TOKENS)
    cache = make_prompt_cache(model)
    parts = [model(TOKENS[:, :33], cache=cache)]
    parts += [model(TOKENS[:, i : i + 1], cache=cache) for i in range(33, 40)]
    np.testing.assert_allclose(mx.concatenate(parts, axis=1), whole, atol=2e-5)


def test_the_seed_decides_the_weights():
    first, second, other = (named_arrays(create(SMALL, seed)[0].parameters()) for seed in (3, 3, 4))
    name = "model.layers.0.mlp.up_proj.weight"
    np.testing.assert_array_equal(first[name], second[name])
    assert not np.array_equal(first[name], other[name])


def test_initial_scale_is_smaller_where_the_residual_stream_is_written():
    weights = named_arrays(create(SMALL, seed=0)[0].parameters())
    for name, value in weights.items():
        if value.ndim == 1:
            np.testing.assert_array_equal(value, 1.0)
        else:
            residual = name.endswith(("o_proj.weight", "down_proj.weight"))
            wanted = 0.02 / 6**0.5 if residual else 0.02
            assert np.std(np.array(value)) == pytest.approx(wanted, rel=0.05), name


def test_a_created_config_is_honoured_by_our_own_loader():
    _, config = create(SMALL, seed=0)
    arguments = build_arguments(config, "config.json")
    assert (arguments.hidden_size, arguments.num_hidden_layers) == (64, 3)
    assert arguments.tie_word_embeddings


@pytest.mark.parametrize(("interval", "rotary"), [(0, [1, 1, 1]), (2, [1, 0, 1])])
def test_a_mobilellm_is_created_with_its_own_keys(interval: int, rotary: list[int]):
    changes = {"model_type": "llama4_text", "no_rope_layer_interval": interval}
    model, config = create(SMALL.model_copy(update=changes), seed=0)
    assert [int(layer.self_attn.rope is not None) for layer in body(model).layers] == rotary
    assert (config["intermediate_size_mlp"], config["no_rope_layers"]) == (96, rotary)
    again = build_graph(config, "config.json")
    again.update(model.parameters())
    np.testing.assert_allclose(again(TOKENS), model(TOKENS), atol=1e-5)
    assert np.std(np.array(body(model).layers[0].feed_forward.down_proj.weight)) == pytest.approx(
        0.02 / 6**0.5, rel=0.05
    )


def test_a_loaded_model_is_in_evaluation_mode(tiny_model_dir):
    assert not build(tiny_model_dir, read_config(tiny_model_dir)).training
