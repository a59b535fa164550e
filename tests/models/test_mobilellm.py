"""MobileLLM-R1 by what must hold of it; `test_mobilellm_oracle.py` holds it against transformers."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlx_lm.models.cache import make_prompt_cache
from safetensors.numpy import save_file
from tests.tools.real_shapes import SHAPES, tensors

from smidgen.backend import mx
from smidgen.config import LoraConfig
from smidgen.errors import ModelError
from smidgen.inference.forward import MlxForward
from smidgen.inference.kv_cache import Pass
from smidgen.models.architectures import build_arguments, build_graph
from smidgen.models.graph import head_weight, named_arrays
from smidgen.models.licence import LicenceNotice
from smidgen.models.load import build, load
from smidgen.models.lora import add_lora, fuse, load_adapter, save_adapter
from smidgen.models.mobilellm import chunk_mask, mlp_variant, temperatures
from smidgen.models.quantization import quantize
from smidgen.models.save import save_model

pytestmark = pytest.mark.filterwarnings("ignore::smidgen.models.licence.LicenceNotice")
CONFIG: dict[str, Any] = {
    "model_type": "llama4_text", "vocab_size": 320, "hidden_size": 64, "intermediate_size": 99,
    "intermediate_size_mlp": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "head_dim": 16, "max_position_embeddings": 512, "moe_layers": [], "rope_theta": 10_000.0,
    "rms_norm_eps": 1e-5, "tie_word_embeddings": True, "no_rope_layers": [1, 0], "floor_scale": 8,
    "attn_scale": 0.7, "attention_chunk_size": 16,
}  # fmt: skip


PINNED = [-0.5234239, -0.8777671, -1.0610212, 5.0775771]


def weights_of(config: dict[str, Any]) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        name: (rng.uniform(0.5, 1.5, shape) if len(shape) == 1 else rng.normal(0, 0.3, shape)).astype("f4")
        for name, shape in tensors(config)
    }


def make(**changes: Any) -> Any:
    config = CONFIG | changes
    model = build_graph(config, "config.json")
    model.load_weights([(name, mx.array(value)) for name, value in weights_of(config).items()])
    return model.eval()


def scores(model: Any, tokens: mx.array) -> np.ndarray:
    return np.array(model(tokens))


@pytest.fixture
def folder(tiny_tokenizer_dir: Path, tmp_path: Path) -> Callable[..., Path]:
    """A function that writes a model folder with other weights added or some keys of the config changed."""

    def write(extra: dict[str, np.ndarray] | None = None, **changes: Any) -> Path:
        path = tmp_path / "mobile"
        shutil.copytree(tiny_tokenizer_dir, path)
        config = CONFIG | changes
        (path / "config.json").write_text(json.dumps(config))
        save_file(weights_of(config) | (extra or {}), path / "model.safetensors", metadata={"format": "pt"})
        return path

    return write


@pytest.mark.parametrize(
    ("shape", "count"),
    [
        ("MobileLLM-R1-140M", 140_248_512),
        ("MobileLLM-R1-360M", 359_431_168),
        ("MobileLLM-R1-950M", 949_685_760),
    ],
)
def test_published_shapes_have_their_published_numbers_of_parameters(shape: str, count: int):
    arrays = named_arrays(build_graph(SHAPES[shape], shape).parameters())
    assert sum(value.size for value in arrays.values()) == count
    assert {name: value.shape for name, value in arrays.items()} == dict(tensors(SHAPES[shape]))


def test_logits_are_pinned(tokens: mx.array):
    """Recorded from transformers' Llama4ForCausalLM with these weights; position 39 is in the third chunk."""
    np.testing.assert_allclose(scores(make(), tokens)[0, -1, :4], PINNED, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("no_rope_layers", [[1, 1], [1, 0], [0, 0]])
def test_cached_logits_are_those_of_the_whole(tokens: mx.array, no_rope_layers: list[int]):
    model = make(no_rope_layers=no_rope_layers)
    whole, cache, parts = scores(model, tokens), make_prompt_cache(model), []
    for begin, end in ((0, 13), (13, 14), (14, 35), (35, 36), (36, 40)):
        parts.append(np.array(model(tokens[:, begin:end], cache)))
    np.testing.assert_allclose(np.concatenate(parts, 1), whole, rtol=1e-4, atol=1e-4)


def test_rows_of_a_batch_are_as_they_are_alone(tokens: mx.array):
    model = make()
    alone = np.concatenate([scores(model, row[None]) for row in tokens])
    np.testing.assert_allclose(scores(model, tokens), alone, rtol=1e-4, atol=1e-4)


def test_rows_of_different_lengths_in_slots(tokens: mx.array):
    model = make()
    forward = MlxForward(model)
    caches, rows = forward.new_caches(), [tokens[0].tolist()[:21], tokens[1].tolist()]
    for cache in caches:
        cache.reserve(2, 64)
    for held, counts in (((0, 0), (3, 17)), ((3, 17), (1, 1)), ((4, 18), (17, 22))):
        parts = [row[h : h + n] for row, h, n in zip(rows, held, counts, strict=True)]
        logits = np.array(forward.logits(forward.hidden(parts, Pass(0, held, counts), caches)))
    for row, end in zip(rows, (counts[0], sum(counts)), strict=True):
        np.testing.assert_allclose(
            logits[end - 1], scores(model, mx.array([row]))[0, -1], rtol=1e-4, atol=2e-4
        )


def test_a_layer_without_positions_cannot_tell_the_order(tokens: mx.array):
    row = tokens[:1, :12]
    mixed = mx.concatenate([row[:, 10::-1], row[:, 11:]], axis=1)
    for rotary in (0, 1):
        model = make(num_hidden_layers=1, no_rope_layers=[rotary])
        same = np.allclose(scores(model, row)[0, -1], scores(model, mixed)[0, -1], atol=1e-4)
        assert same == (rotary == 0)


def test_the_norm_of_queries_and_keys_is_of_layers_with_positions_only(tokens: mx.array):
    for rotary in (0, 1):
        models = [make(num_hidden_layers=1, no_rope_layers=[rotary], use_qk_norm=n) for n in (True, False)]
        same = np.array_equal(*(scores(model, tokens) for model in models))
        assert same == (rotary == 0)


def test_a_chunk_sees_nothing_of_the_chunk_before(tokens: mx.array):
    changed = mx.concatenate([(tokens[:, :16] + 1) % 300, tokens[:, 16:]], axis=1)
    model = make(no_rope_layers=[1, 1])
    before, after = scores(model, tokens), scores(model, changed)
    np.testing.assert_allclose(before[:, 16:], after[:, 16:], rtol=1e-4, atol=1e-4)
    model = make(no_rope_layers=[1, 1], attention_chunk_size=None)
    assert np.abs(scores(model, tokens)[:, 16:] - scores(model, changed)[:, 16:]).max() > 0.01


def test_chunks_of_queries_that_follow_others():
    mask = np.array(chunk_mask(mx.array([2, 5]), 2, 7, 3))[:, 0]
    seen = [[np.flatnonzero(query).tolist() for query in row] for row in mask]
    assert seen == [[[0, 1, 2], [3]], [[3, 4, 5], [6]]]


def test_temperatures_follow_their_formula():
    factors = np.array(temperatures(mx.array([[0], [30]]) + mx.arange(20), 0.7, 8))[:, 0, :, 0]
    for row, offset in zip(factors, (0, 30), strict=True):
        wanted = [1 + 0.7 * math.log(1 + math.floor((offset + p + 1) / 8)) for p in range(20)]
        assert row == pytest.approx(wanted)


def test_the_pattern_of_layers_without_positions():
    def rotary(**changes: Any) -> list[int]:
        config = {k: v for k, v in CONFIG.items() if k != "no_rope_layers"} | {"num_hidden_layers": 5}
        return build_arguments(config | changes, "x").no_rope_layers

    assert rotary() == rotary(no_rope_layers=None) == rotary(no_rope_layers=[]) == [1, 1, 1, 0, 1]
    assert rotary(no_rope_layer_interval=2) == [1, 0, 1, 0, 1]
    assert rotary(no_rope_layers=[0, 1, 1, 1, 1]) == [0, 1, 1, 1, 1]


def test_a_stray_head_is_dropped_where_the_embedding_is_the_head(folder, tokens: mx.array):
    path = folder({"lm_head.weight": weights_of(CONFIG)["model.embed_tokens.weight"]})
    np.testing.assert_array_equal(scores(load(str(path)).model, tokens), scores(make(), tokens))


def test_an_untied_head_is_used(tokens: mx.array):
    model = make(tie_word_embeddings=False)
    hidden = np.array(model.model(tokens))
    wanted = hidden @ weights_of(CONFIG | {"tie_word_embeddings": False})["lm_head.weight"].T
    np.testing.assert_allclose(scores(model, tokens), wanted, rtol=1e-4, atol=1e-4)


def test_a_quantised_tied_model_is_saved_and_loaded(folder, tmp_path: Path, tokens: mx.array):
    path = folder()
    loaded = load(str(path))
    config = quantize(loaded.model, loaded.config, bits=4, group_size=32)
    wanted = scores(loaded.model, tokens)
    hidden = np.array(loaded.model.model(tokens))
    np.testing.assert_allclose(wanted, hidden @ np.array(head_weight(loaded.model)).T, rtol=1e-3, atol=1e-3)
    save_model(tmp_path / "small", loaded.model, config, path)
    small = load(str(tmp_path / "small"))
    assert "embed_tokens.scales" in " ".join(named_arrays(small.model.parameters()))
    np.testing.assert_array_equal(scores(small.model, tokens), wanted)


def test_an_adapter_is_saved_loaded_and_fused(tmp_path: Path, tokens: mx.array):
    model, settings = make(), LoraConfig(rank=2, target_modules=("q_proj", "down_proj"))
    before = scores(model, tokens)
    add_lora(model, settings, seed=0)
    np.testing.assert_array_equal(scores(model, tokens), before)
    model.apply(lambda x: x + 0.05)
    trained = make()
    trained.load_weights(
        [
            (n.replace(".linear.", "."), v)
            for n, v in named_arrays(model.parameters()).items()
            if "lora_" not in n
        ]
    )
    save_adapter(tmp_path / "adapter", model, settings)
    load_adapter(trained, tmp_path / "adapter")
    adapted = scores(model.eval(), tokens)
    np.testing.assert_allclose(scores(trained.eval(), tokens), adapted, rtol=1e-5, atol=1e-5)
    fuse(trained)
    np.testing.assert_allclose(scores(trained, tokens), adapted, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (["gate_proj.weight", "up_proj.weight", "down_proj.weight"], "swiglu"),
        (["gate_proj.scales", "up_proj.biases", "down_proj.weight"], "swiglu"),
        (["experts.gate_up_proj", "router.weight"], "a mixture of experts"),
        (["gate_proj.weight", "up_proj.weight", "down_proj.weight", "g_up.weight"], "dual-branch"),
        (["g_up.weight", "g_down.weight", "p_up.weight", "p_down.weight"], "dual-branch"),
        (["w1.weight", "w2.weight"], "of an unknown kind"),
        ([], "none"),
    ],
)
def test_the_kind_of_the_feed_forward_layers_is_read_from_names(names: list[str], kind: str):
    assert mlp_variant(f"model.layers.3.feed_forward.{name}" for name in names)[0] == kind


def test_other_feed_forward_layers_are_refused(folder):
    path = folder({"model.layers.0.feed_forward.g_up.weight": np.zeros((4, 4), np.float32)})
    with pytest.raises(
        ModelError, match=r"are dual-branch \(down_proj, g_up, gate_proj, up_proj\); expected SwiGLU with"
    ):
        load(str(path))


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"moe_layers": [1]}, r"layers \[1\] are mixtures of experts, only dense layers are supported"),
        ({"moe_layers": None}, r"layers \[0, 1\] are mixtures of experts"),
        ({"no_rope_layers": [1]}, r"no_rope_layers is \[1\], expected 0 or 1 for 2 layers"),
        ({"no_rope_layers": [1, 2]}, r"no_rope_layers is \[1, 2\], expected 0 or 1"),
        ({"no_rope_layer_interval": 0, "no_rope_layers": []}, "do not define a llama4_text model: .*zero"),
        ({"layer_types": ["full_attention"]}, "layer_types has 1 entries, expected 2"),
        ({"layer_types": ["sliding_attention"] * 2}, "only chunked_attention and full_attention is"),
        ({"attention_chunk_size": 0}, "attention_chunk_size is 0, expected 1 or more"),
        (
            {"num_key_value_heads": 3},
            "heads is 4, expected a multiple of num_key_value_heads, 3",
        ),
        ({"hidden_act": "gelu"}, "'hidden_act' is 'gelu', only 'silu' is supported"),
        ({"num_shared_experts": 1}, "unknown key 'num_shared_experts' = 1"),
        ({"vocab_size": None}, "'vocab_size' is missing"),
    ],
)
def test_configs_of_other_models_are_refused(change: dict, fault: str):
    with pytest.raises(ModelError, match=fault):
        build_graph(CONFIG | change, "config.json")


def test_no_experts_by_a_step_of_nothing():
    assert (
        build_arguments(CONFIG | {"moe_layers": None, "interleave_moe_layer_step": 0}, "x").moe_layers == []
    )


def test_keys_that_older_files_have():
    older = {
        "cache_implementation": "hybrid", "for_llm_compressor": False, "num_local_experts": 0,
        "attn_temperature_tuning": 4, "num_experts_per_tok": 0, "router_aux_loss_coef": 0.001,
    }  # fmt: skip
    model = build_graph(CONFIG | older, "x")
    assert [layer.self_attn.tuned for layer in model.layers] == [False, True]


def test_the_head_dim_at_null_is_that_of_the_width():
    assert build_arguments(CONFIG | {"head_dim": None}, "x").head_dim == 16


def test_loading_tells_the_licence(folder):
    path = folder()
    with pytest.warns(LicenceNotice, match="under the FAIR Noncommercial Research License"):
        build(path, CONFIG)


@pytest.mark.parametrize("no_rope_layers", [[1, 1], [0, 0]])
def test_gradients_are_those_of_small_steps(tokens: mx.array, no_rope_layers: list[int]):
    model = make(no_rope_layers=no_rope_layers)
    layer = model.layers[0].self_attn.q_proj
    weight = layer.weight

    def loss(change: mx.array) -> mx.array:
        layer.weight = weight + change
        return mx.logsumexp(model(tokens), axis=-1).mean()

    direction = mx.random.normal(weight.shape, key=mx.random.key(0))
    slope = (mx.grad(loss)(mx.zeros_like(weight)) * direction).sum().item()
    step = 5e-4
    difference = (loss(step * direction) - loss(-step * direction)).item() / (2 * step)
    assert abs(difference) > 1e-2
    assert slope == pytest.approx(difference, rel=0.03)
