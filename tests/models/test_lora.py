import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlx_lm.tuner.utils import linear_to_lora_layers
from mlx_lm.tuner.utils import load_adapters as mlx_lm_load_adapters
from mlx_lm.utils import load_model as mlx_lm_load_model
from tests.tools.real_shapes import SHAPES

from smidgen.backend import mx, nn
from smidgen.config import LoraConfig
from smidgen.errors import ModelError
from smidgen.models.adapter import read_adapter
from smidgen.models.architectures import build_graph
from smidgen.models.graph import named_arrays
from smidgen.models.load import LoadedModel, load
from smidgen.models.lora import (
    add_lora,
    count_parameters,
    fuse,
    load_adapter,
    save_adapter,
    without_adapter,
)
from smidgen.models.quantization import quantize

CONFIG = LoraConfig(rank=4, alpha=8, num_layers=1, target_modules=("q_proj", "down_proj"))


def adapted(model: nn.Module, config: LoraConfig = CONFIG) -> nn.Module:
    """The model with an adapter that does something."""
    add_lora(model, config, seed=0)
    rng = np.random.default_rng(1)
    trained = named_arrays(model.trainable_parameters())
    updates = [(n, mx.array(rng.normal(0, 0.2, v.shape), mx.float32)) for n, v in trained.items()]
    model.load_weights(updates, strict=False)
    return model


@pytest.fixture
def base(tiny_model_dir: Path) -> LoadedModel:
    return load(str(tiny_model_dir))


@pytest.fixture
def adapter(base: LoadedModel, tmp_path: Path) -> Path:
    save_adapter(tmp_path / "adapter", adapted(base.model), CONFIG)
    return tmp_path / "adapter"


def edit(folder: Path, **changes: Any) -> None:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes), encoding="utf-8")


def test_a_fresh_update_changes_nothing(base: LoadedModel, tokens: mx.array):
    before = base.model(tokens)
    add_lora(base.model, LoraConfig(), seed=0)
    np.testing.assert_allclose(base.model(tokens), before, atol=1e-5)


def test_a_rank_stabilised_update_is_scaled_by_the_root(base: LoadedModel, tmp_path: Path, tokens: mx.array):
    config = CONFIG.model_copy(update={"rslora": True})
    assert (CONFIG.scale, config.scale) == (2.0, 4.0)
    wanted = adapted(base.model, config)(tokens)
    save_adapter(tmp_path / "adapter", base.model, config)
    assert read_adapter(tmp_path / "adapter").rslora
    model, _ = mlx_lm_load_model(base.path)
    mlx_lm_load_adapters(model, str(tmp_path / "adapter"))
    model.eval()
    np.testing.assert_allclose(model(tokens), wanted, rtol=1e-4, atol=1e-4)


def test_without_its_adapter_a_model_is_its_base(base: LoadedModel, tokens: mx.array):
    before = base.model(tokens)
    model = adapted(base.model)
    model.train()
    bare = without_adapter(model)
    np.testing.assert_array_equal(bare(tokens), before)
    assert not bare.training and model.training
    assert np.abs(model(tokens) - before).max() > 0.01, "the model keeps its adapter"


def test_only_the_update_of_the_targets_learns(base: LoadedModel):
    add_lora(base.model, CONFIG, seed=0)
    assert set(named_arrays(base.model.trainable_parameters())) == {
        f"model.layers.1.{layer}.{part}"
        for layer in ("self_attn.q_proj", "mlp.down_proj")
        for part in ("lora_a", "lora_b")
    }


def test_the_seed_decides_the_start(tiny_model_dir: Path):
    starts = []
    for seed in (0, 0, 1):
        mx.random.seed(seed + 7)
        model = load(str(tiny_model_dir)).model
        add_lora(model, CONFIG, seed)
        starts.append(np.array(model.layers[1].self_attn.q_proj.lora_a))
    np.testing.assert_array_equal(starts[0], starts[1])
    assert not np.array_equal(starts[0], starts[2])


def test_alpha_over_rank_scales_the_update(base: LoadedModel):
    add_lora(base.model, LoraConfig(rank=4, alpha=10, dropout=0.25), seed=0)
    layer = base.model.layers[0].self_attn.q_proj
    assert layer.scale == 2.5
    assert layer.lora_a.shape == (32, 4)
    assert layer.dropout._p_1 == 0.75


@pytest.mark.parametrize("bits", [0, 4])
def test_fused_equals_unfused(base: LoadedModel, tokens: mx.array, bits: int):
    if bits:
        quantize(base.model, base.config, bits=bits, group_size=32)
    model = adapted(base.model)
    before = model(tokens)
    fuse(model)
    np.testing.assert_allclose(model(tokens), before, rtol=1e-4, atol=1e-4)
    assert not [name for name in named_arrays(model.parameters()) if "lora" in name or "scales" in name]
    assert len(named_arrays(model.trainable_parameters())) == len(named_arrays(model.parameters()))


def test_a_small_update_survives_fusing_in_half_precision(base: LoadedModel):
    base.model.set_dtype(mx.bfloat16)
    before = base.model.layers[1].self_attn.q_proj.weight
    add_lora(base.model, CONFIG, seed=0)
    layer = base.model.layers[1].self_attn.q_proj
    layer.lora_b = mx.full((4, 32), 0.01)
    wanted = before.astype(mx.float32) + layer.scale * (layer.lora_a @ layer.lora_b).T
    fuse(base.model)
    fused = base.model.layers[1].self_attn.q_proj.weight
    assert fused.dtype == mx.bfloat16
    np.testing.assert_array_equal(fused.astype(mx.float32), wanted.astype(mx.bfloat16).astype(mx.float32))


def test_an_update_on_a_quantised_base_starts_as_the_base(base: LoadedModel, tokens: mx.array):
    quantize(base.model, base.config, bits=4, group_size=32)
    before = base.model(tokens)
    add_lora(base.model, CONFIG, seed=0)
    np.testing.assert_array_equal(base.model(tokens), before)
    assert all("lora" in name for name in named_arrays(base.model.trainable_parameters()))


def test_saved_and_loaded(base: LoadedModel, adapter: Path, tiny_model_dir: Path, tokens: mx.array):
    fresh = load(str(tiny_model_dir)).model
    load_adapter(fresh, adapter)
    np.testing.assert_allclose(fresh(tokens), base.model(tokens), rtol=1e-5, atol=1e-5)
    assert set(named_arrays(fresh.trainable_parameters())) == set(
        named_arrays(base.model.trainable_parameters())
    )


def test_mlx_lm_loads_what_we_save(base: LoadedModel, adapter: Path, tiny_model_dir: Path, tokens: mx.array):
    model, _ = mlx_lm_load_model(tiny_model_dir)
    mlx_lm_load_adapters(model, str(adapter))
    model.eval()
    np.testing.assert_allclose(model(tokens), base.model(tokens), rtol=1e-4, atol=1e-4)


def test_we_load_what_mlx_lm_saves(tiny_model_dir: Path, tmp_path: Path, tokens: mx.array):
    parameters = {"rank": 2, "scale": 20.0, "dropout": 0.0}
    model, _ = mlx_lm_load_model(tiny_model_dir)
    model.freeze()
    linear_to_lora_layers(model, 1, dict(parameters))
    weights = {
        name: mx.random.normal(value.shape, key=mx.random.key(5)) * 0.1
        for name, value in named_arrays(model.trainable_parameters()).items()
    }
    model.load_weights(list(weights.items()), strict=False)
    mx.save_safetensors(str(tmp_path / "adapters.safetensors"), weights)
    config = {"fine_tune_type": "lora", "num_layers": 1, "lora_parameters": parameters}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    ours = load(str(tiny_model_dir), adapter=tmp_path).model
    np.testing.assert_allclose(ours(tokens), model(tokens), rtol=1e-4, atol=1e-4)


def test_unknown_targets_and_too_many_blocks_are_refused(base: LoadedModel):
    with pytest.raises(
        ModelError, match=r"names 'q_prj', which is not a linear layer.* Did you mean 'q_proj'\?"
    ):
        add_lora(base.model, LoraConfig(target_modules=("q_prj",)), seed=0)
    with pytest.raises(ModelError, match=r"lora.num_layers is 3, but the model has 2 blocks; use at most 2"):
        add_lora(base.model, LoraConfig(num_layers=3), seed=0)


@pytest.mark.parametrize(("num_layers", "count"), [(None, 17_432_576), (16, 9_961_472)])
def test_an_adapter_of_a_real_shape_is_counted_without_its_weights(num_layers: int | None, count: int):
    before = mx.get_active_memory()
    model = build_graph(SHAPES["Qwen3-1.7B"], "Qwen3-1.7B")
    assert count_parameters(model, LoraConfig(rank=16, num_layers=num_layers)) == count
    assert mx.get_active_memory() - before < 1 << 20


def test_training_starts_from_a_saved_adapter(
    base: LoadedModel, adapter: Path, tiny_model_dir: Path, tokens: mx.array
):
    again = load(str(tiny_model_dir)).model
    add_lora(again, CONFIG.model_copy(update={"start": str(adapter)}), seed=5)
    assert mx.array_equal(again(tokens), base.model(tokens)), "whatever the seed"
    assert (
        named_arrays(again.trainable_parameters()).keys()
        == named_arrays(base.model.trainable_parameters()).keys()
    )


def test_an_adapter_of_other_settings_is_no_start(adapter: Path, tiny_model_dir: Path):
    for update, wanted in (
        ({"rank": 2, "alpha": 4}, r"has rank 4 and factor 2 there, rank 2 and factor 2 here"),
        ({"alpha": 4}, r"has rank 4 and factor 2 there, rank 4 and factor 1 here"),
        ({"num_layers": 2}, r"'model.layers.0.mlp.down_proj' is missing there"),
        ({"target_modules": ("q_proj",)}, r"'model.layers.1.mlp.down_proj' is adapted there only"),
    ):
        config = CONFIG.model_copy(update={"start": str(adapter), **update})
        with pytest.raises(
            ModelError, match=rf"cannot start from the adapter in .*{wanted}.*Give \[train.lora\]"
        ):
            add_lora(load(str(tiny_model_dir)).model, config, seed=0)


def test_a_second_adapter_is_refused(base: LoadedModel, tmp_path: Path):
    add_lora(base.model, CONFIG, seed=0)
    with pytest.raises(ModelError, match=r"the model already has an adapter; fuse it first"):
        add_lora(base.model, CONFIG, seed=0)
    with pytest.raises(ModelError, match=r"already has an adapter; fuse it first, or start from its base"):
        load_adapter(base.model, tmp_path)


def test_a_model_without_an_adapter_has_none_to_save(base: LoadedModel, tmp_path: Path):
    with pytest.raises(ModelError, match=r"has no adapter to save; call add_lora first"):
        save_adapter(tmp_path / "none", base.model, CONFIG)
    assert not (tmp_path / "none").exists()


def test_every_misfit_of_an_adapter_is_told_at_once(adapter: Path, tiny_model_dir: Path):
    q, down = "model.layers.1.self_attn.q_proj", "model.layers.1.mlp.down_proj"
    weights = {
        f"{q}.lora_a": mx.zeros((31, 4)),
        f"{q}.lora_b": mx.zeros((3, 32)),
        f"{down}.lora_a": mx.zeros((64, 4)),
        "model.layers.9.mlp.up_proj.lora_a": mx.zeros((4, 4)),
        "model.layers.9.mlp.up_proj.lora_b": mx.zeros((4, 4)),
        "model.norm.m": mx.zeros((4,)),
    }
    mx.save_safetensors(str(adapter / "adapters.safetensors"), weights)
    with pytest.raises(ModelError, match="does not fit the model") as caught:
        load(str(tiny_model_dir), adapter=adapter)
    for part in (
        f"'{q}.lora_a' has shape (31, 4), expected 32 in dimension 0",
        f"'{q}' has rank 4 in lora_a and 3 in lora_b",
        f"'{down}' has lora_a but no lora_b",
        "'model.layers.9.mlp.up_proj' is not a linear layer of the model",
        "'model.norm.m' is neither a lora_a nor a lora_b",
    ):
        assert part in str(caught.value)


def test_of_many_misfits_the_first_are_told_and_the_rest_counted(adapter: Path, tiny_model_dir: Path):
    weights = {
        f"model.layers.{n}.mlp.up_proj.lora_{part}": mx.zeros((4, 4)) for n in range(9) for part in "ab"
    }
    mx.save_safetensors(str(adapter / "adapters.safetensors"), weights)
    with pytest.raises(
        ModelError, match=r"and 6 more\. Load it on the base that it was trained on$"
    ) as caught:
        load(str(tiny_model_dir), adapter=adapter)
    assert str(caught.value).count("up_proj") == 5


def test_folders_that_are_no_adapter_of_ours(adapter: Path, tmp_path: Path, tiny_model_dir: Path):
    bare = load(str(tiny_model_dir)).model
    with pytest.raises(
        ModelError, match=r"does not contain adapter_config.json; expected an adapter of smidgen, mlx-lm or"
    ):
        load_adapter(bare, tmp_path)
    with pytest.raises(ModelError, match=r"nowhere does not exist; expected an adapter folder"):
        load_adapter(bare, tmp_path / "nowhere")
    with pytest.raises(ModelError, match=r"config.json is a file; expected an adapter folder"):
        load_adapter(bare, adapter / "adapter_config.json")
    (tmp_path / "best").mkdir()
    with pytest.raises(ModelError, match=r"not contain adapter_config.json; .* Did you mean '.*/best'\?"):
        load_adapter(bare, tmp_path)
    edit(adapter, fine_tune_type="dora")
    with pytest.raises(ModelError, match=r"is of type 'dora'; only 'lora' can be loaded"):
        load_adapter(bare, adapter)
    edit(adapter, fine_tune_type="lora", lora_parameters={"rank": 4})
    with pytest.raises(ModelError, match=r"has no positive number at lora_parameters.scale"):
        load_adapter(bare, adapter)
    (adapter / "adapter_config.json").write_text("{", encoding="utf-8")
    with pytest.raises(ModelError, match=r"adapter_config.json is not readable JSON"):
        load_adapter(bare, adapter)
    (adapter / "adapter_config.json").write_text("[]", encoding="utf-8")
    with pytest.raises(ModelError, match=r"adapter_config.json contains a list; expected a JSON object"):
        load_adapter(bare, adapter)


def test_an_adapter_without_weights_is_refused(adapter: Path, tiny_model_dir: Path):
    (adapter / "adapters.safetensors").unlink()
    with pytest.raises(ModelError, match=r"the weight file .*adapters\.safetensors does not exist"):
        load(str(tiny_model_dir), adapter=adapter)
