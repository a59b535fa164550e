import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlx_lm.convert import mixed_quant_predicate_builder
from mlx_lm.utils import load_model as mlx_lm_load_model
from tests.tools.real_shapes import SHAPES

from smidgen.backend import mx
from smidgen.config import LoraConfig, QuantizeConfig
from smidgen.errors import ConfigError, ModelError
from smidgen.inference.cpu_forward import CpuForward
from smidgen.inference.decoder import Decoder
from smidgen.models.architectures import build_graph
from smidgen.models.graph import named_arrays
from smidgen.models.load import load, read_config
from smidgen.models.lora import add_lora
from smidgen.models.quantization import (
    MIXES,
    MODES,
    Setting,
    make_plan,
    mixed,
    quantizable,
    quantize,
    quantize_as,
    size_of,
)
from smidgen.models.save import save_model

WAYS = [
    *({"bits": bits} for bits in (2, 3, 4, 5, 6, 8)),
    *({"mode": mode} for mode in MODES),
    *({"recipe": recipe} for recipe in MIXES),
    {"bits": 2, "embedding_bits": 8},
    {"bits": 3, "embedding_bits": "keep"},
    {"mode": "mxfp4", "embedding_bits": 6, "group_size": 32},
]


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_quantised_saved_and_loaded_is_the_same_for_us_for_mlx_lm_and_in_the_engine(
    tiny_model_dir: Path, tmp_path: Path, tokens: mx.array, way: dict[str, Any]
):
    first = load(str(tiny_model_dir))
    plan = make_plan(first.model, first.config, QuantizeConfig(**way))
    size = size_of(first.model, mx.float32, plan)
    config = quantize_as(first.model, first.config, plan)
    wanted = first.model(tokens)
    save_model(tmp_path / "q", first.model, config, tiny_model_dir)
    again = load(str(tmp_path / "q"))
    np.testing.assert_array_equal(again.model(tokens), wanted)
    reference, _ = mlx_lm_load_model(tmp_path / "q")
    np.testing.assert_allclose(reference(tokens), wanted, rtol=1e-4, atol=1e-4)
    for name, module in again.model.named_modules():
        if name in plan:
            own = plan[name]
            assert own == ((module.bits, module.group_size, module.mode) if "scales" in module else None)
    assert size.num_bytes == bytes_of_tensors(tmp_path / "q" / "model.safetensors")
    row = [int(token) for token in np.array(tokens)[0]]
    logits = Decoder(CpuForward(again.model)).add([row])
    np.testing.assert_allclose(logits[0], wanted[0, -1], rtol=1e-3, atol=1e-3)


def bytes_of_tensors(file: Path) -> int:
    """What a safetensors file holds beside its header (https://huggingface.co/docs/safetensors)."""
    with file.open("rb") as opened:
        (header,) = struct.unpack("<Q", opened.read(8))
    return file.stat().st_size - 8 - header


@pytest.mark.parametrize(
    ("way", "expected"),
    [
        ({"bits": 4, "group_size": 64}, 968_001_536),
        ({"mode": "mxfp4"}, 914_237_440),
        ({"bits": 4, "group_size": 64, "embedding_bits": "keep"}, 1_415_301_120),
    ],
    ids=str,
)
def test_the_size_of_a_real_shape_is_known_from_its_shapes_alone(way: dict[str, Any], expected: int):
    shape = SHAPES["Qwen3-1.7B"]
    model = build_graph(shape, "Qwen3-1.7B")
    before = mx.get_active_memory()
    size = size_of(model, mx.bfloat16, make_plan(model, shape, QuantizeConfig(**way)))
    # 28 blocks of 50,331,648 weights, an embedding of 151,936 × 2,048 and 123,904 weights of norms
    assert size == (expected, 28 * 50_331_648 + 151_936 * 2_048 + 123_904)
    assert size_of(model, mx.bfloat16).num_bytes == 2 * size.parameters
    assert mx.get_active_memory() - before < 1_000_000


def test_the_bits_of_a_head_of_its_own_are_its_own(edited: Callable[..., Path]):
    config = read_config(edited(tie_word_embeddings=False))
    model = build_graph(config, "config.json")
    plan = make_plan(model, config, QuantizeConfig(bits=3, head_bits=6, embedding_bits="keep"))
    assert plan["lm_head"] == Setting(6, 32) and plan["model.embed_tokens"] is None
    assert set(plan.values()) == {Setting(3, 32), Setting(6, 32), None}


def test_a_tied_head_has_no_bits_of_its_own(tiny_model_dir: Path):
    loaded = load(str(tiny_model_dir))
    with pytest.raises(ConfigError, match=r"its embedding; set 'embedding_bits', not 'head_bits'"):
        make_plan(loaded.model, loaded.config, QuantizeConfig(head_bits=8))


@pytest.mark.parametrize("recipe", MIXES)
@pytest.mark.parametrize("blocks", [2, 5, 16, 28])
def test_a_mix_is_what_mlx_lm_makes_of_its_name(edited: Callable[..., Path], recipe: str, blocks: int):
    config = read_config(edited(num_hidden_layers=blocks, tie_word_embeddings=False))
    model = build_graph(config, "config.json")
    layers = quantizable(model, config)
    theirs = mixed_quant_predicate_builder(recipe, model, 64)
    wanted = {name: Setting(**theirs(name, module)) for name, module in layers.items()}
    assert mixed(recipe, layers, blocks, 64) == wanted


def test_a_model_of_which_nothing_would_be_quantised_is_refused(tiny_model_dir: Path):
    loaded = load(str(tiny_model_dir))
    with pytest.raises(ModelError, match=r"the plan quantises no layer; set bits for at least one layer"):
        quantize_as(loaded.model, loaded.config, dict.fromkeys(quantizable(loaded.model, loaded.config)))


def test_a_mode_whose_groups_do_not_fit_is_named(edited: Callable[..., Path]):
    config = read_config(edited(intermediate_size=72))
    with pytest.raises(ModelError, match=r"nvfp4 has groups of 16, which does not divide .* 72; use affine"):
        make_plan(build_graph(config, "config.json"), config, QuantizeConfig(mode="nvfp4"))


def test_every_matrix_is_quantised(tiny_model_dir: Path):
    loaded = load(str(tiny_model_dir))
    matrices = [n for n, v in named_arrays(loaded.model.parameters()).items() if v.ndim == 2]
    config = quantize(loaded.model, loaded.config, bits=4, group_size=32)
    weights = named_arrays(loaded.model.parameters())
    assert all(weights[name].dtype == mx.uint32 for name in matrices)
    assert config["quantization"] == {"group_size": 32, "bits": 4, "mode": "affine"}
    assert "quantization" not in loaded.config


def test_eight_bits_stay_near_the_original(tiny_model_dir: Path, tokens: mx.array):
    loaded = load(str(tiny_model_dir))
    before = np.array(loaded.model(tokens))
    quantize(loaded.model, loaded.config, bits=8, group_size=32)
    assert np.abs(np.array(loaded.model(tokens)) - before).mean() < 0.02 * before.std()


def test_a_width_that_the_group_does_not_divide_is_named(tiny_model_dir: Path):
    loaded = load(str(tiny_model_dir))
    with pytest.raises(
        ConfigError, match=r"'group_size' is 64, which does not divide layers of width 32; choose 32"
    ):
        quantize(loaded.model, loaded.config, bits=4, group_size=64)
    assert all(v.dtype == mx.float32 for v in named_arrays(loaded.model.parameters()).values())


def test_what_is_quantised_or_adapted_is_refused(tiny_model_dir: Path):
    loaded = load(str(tiny_model_dir))
    add_lora(loaded.model, LoraConfig(), seed=0)
    with pytest.raises(ModelError, match=r"has an adapter that is not fused; fuse it before quantising"):
        quantize(loaded.model, loaded.config, bits=4, group_size=32)
    with pytest.raises(ModelError, match=r"already quantised; start from its unquantised weights"):
        quantize(loaded.model, {"quantization": {"bits": 4}}, bits=4, group_size=32)
