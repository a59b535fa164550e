import dataclasses
import json
import math
import re
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlx_lm.tuner.utils import load_adapters as mlx_lm_load_adapters
from mlx_lm.utils import load_model as mlx_lm_load_model

from smidgen.backend import mx
from smidgen.data.types import Message
from smidgen.errors import ModelError
from smidgen.export.fused import export_fused
from smidgen.export.gguf import write_gguf
from smidgen.export.peft_adapter import export_mlx_adapter, export_peft, peft_config, vllm_warnings
from smidgen.models import peft
from smidgen.models.adapter import Adapter, read_adapter, warn_of_another_base, write_adapter
from smidgen.models.load import load

Q, DOWN = "model.layers.1.self_attn.q_proj", "model.layers.1.mlp.down_proj"


def edit(folder: Path, **changes: Any) -> None:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes), encoding="utf-8")


def adapter_of(layers: dict[str, tuple[int, float]], dtype: mx.Dtype = mx.float32) -> Adapter:
    """An adapter of layers with a rank and a scale each, all 8 wide."""
    rng, weights = np.random.default_rng(0), {}
    for layer, (rank, _) in layers.items():
        weights[f"{layer}.lora_a"] = mx.array(rng.normal(size=(8, rank))).astype(dtype)
        weights[f"{layer}.lora_b"] = mx.array(rng.normal(size=(rank, 8))).astype(dtype)
    return Adapter(weights, {layer: scale for layer, (_, scale) in layers.items()}, 0.0, None, Path("made"))


def same_tensors(first: Adapter, second: Adapter) -> None:
    assert set(first.weights) == set(second.weights)
    for name, value in first.weights.items():
        assert value.dtype == second.weights[name].dtype
        np.testing.assert_array_equal(
            value.astype(mx.float32), second.weights[name].astype(mx.float32), strict=True
        )


@pytest.fixture
def peft_dir(adapter: Path, tiny_model_dir: Path, tmp_path: Path) -> Path:
    export_peft(adapter, str(tiny_model_dir), tmp_path / "peft")
    return tmp_path / "peft"


def test_names_shapes_and_settings_are_those_of_peft(adapter: Path, tiny_model_dir: Path, tmp_path: Path):
    facts = export_peft(adapter, str(tiny_model_dir), tmp_path / "peft")
    weights = mx.load(str(tmp_path / "peft" / "adapter_model.safetensors"))
    assert {name: value.shape for name, value in weights.items()} == {
        f"base_model.model.{Q}.lora_A.weight": (4, 32),
        f"base_model.model.{Q}.lora_B.weight": (32, 4),
        f"base_model.model.{DOWN}.lora_A.weight": (4, 64),
        f"base_model.model.{DOWN}.lora_B.weight": (32, 4),
    }
    config = json.loads((tmp_path / "peft" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["lora_dropout"]) == (4, 8, 0.1)
    assert (config["target_modules"], config["layers_to_transform"]) == (["down_proj", "q_proj"], [1])
    assert config["base_model_name_or_path"] == str(tiny_model_dir)
    assert (facts.parameters, facts.layers, facts.warnings) == (4 * (32 + 32 + 64 + 32), 2, [])


def test_there_and_back_is_exact(adapter: Path, peft_dir: Path, tiny_model_dir: Path, tmp_path: Path):
    export_mlx_adapter(peft_dir, str(tiny_model_dir), tmp_path / "back")
    ours, theirs, back = (read_adapter(path) for path in (adapter, peft_dir, tmp_path / "back"))
    same_tensors(ours, theirs)
    same_tensors(ours, back)
    assert ours.scales == theirs.scales == back.scales == {Q: 2.0, DOWN: 2.0}
    ours_config, back_config = (
        json.loads((path / "adapter_config.json").read_text()) for path in (adapter, tmp_path / "back")
    )
    assert ours_config == back_config


def test_an_adapter_in_either_format_makes_the_same_model(
    adapter: Path, peft_dir: Path, tiny_model_dir: Path, tokens: mx.array
):
    ours, theirs = (load(str(tiny_model_dir), adapter=path).model(tokens) for path in (adapter, peft_dir))
    np.testing.assert_array_equal(ours, theirs)
    assert not np.allclose(ours, load(str(tiny_model_dir)).model(tokens), atol=0.1)


LAYERS = st.dictionaries(
    st.builds(
        "model.layers.{}.{}".format,
        st.integers(0, 12),
        st.sampled_from(("self_attn.q_proj", "mlp.down_proj", "mlp.up_proj")),
    ),
    st.tuples(st.integers(1, 6), st.sampled_from((0.1, 0.5, 2.0, 10 / 3, 20.0))),
    min_size=1,
)


@given(LAYERS, st.sampled_from((None, 13)))
def test_every_rank_scale_and_set_of_layers_is_described(layers: dict, num_blocks: int | None):
    config = peft_config(adapter_of(layers), "owner/base", num_blocks)
    assert peft.config_faults(config) == []
    for block in range(13):
        for kind in ("self_attn.q_proj", "mlp.down_proj", "mlp.up_proj"):
            layer = f"model.layers.{block}.{kind}"
            assert peft.is_target(config, layer) == (layer in layers)
            if layer in layers:
                assert peft.rank_of(config, layer) == layers[layer][0]
                assert math.isclose(peft.scale_of(config, layer), layers[layer][1], rel_tol=1e-15)


def test_mlx_lm_computes_what_a_pattern_of_ranks_and_alphas_says(
    peft_dir: Path, tiny_model_dir: Path, tmp_path: Path, tokens: mx.array
):
    """mlx-lm knows one rank and one scale."""
    file = peft_dir / "adapter_model.safetensors"
    weights = dict(mx.load(str(file)))
    prefix = "base_model.model.model.layers.0.self_attn.q_proj"
    weights[f"{prefix}.lora_A.weight"] = mx.random.normal((2, 32), key=mx.random.key(1)) * 0.2
    weights[f"{prefix}.lora_B.weight"] = mx.random.normal((32, 2), key=mx.random.key(2)) * 0.2
    mx.save_safetensors(str(file), weights)
    patterns = {"rank_pattern": {r"layers\.0\.self_attn.q_proj": 2}, "alpha_pattern": {"down_proj": 20}}
    targets = ["down_proj", "model.layers.0.self_attn.q_proj", "q_proj"]
    edit(peft_dir, target_modules=targets, layers_to_transform=[0, 1], **patterns)
    assert read_adapter(peft_dir).scales == {prefix[17:]: 4.0, Q: 2.0, DOWN: 5.0}
    write_adapter(tmp_path / "mlx", read_adapter(peft_dir))
    model, _ = mlx_lm_load_model(tiny_model_dir)
    mlx_lm_load_adapters(model, str(tmp_path / "mlx"))
    model.eval()
    ours = load(str(tiny_model_dir), adapter=peft_dir).model(tokens)
    np.testing.assert_allclose(model(tokens), ours, rtol=1e-4, atol=1e-4)


def test_rank_stabilised_there_and_back(peft_dir: Path, tiny_model_dir: Path, tmp_path: Path):
    edit(peft_dir, use_rslora=True)
    assert read_adapter(peft_dir).scales[Q] == 8 / 2
    for written in (tmp_path / "ours", tmp_path / "theirs"):
        exports = {"ours": export_mlx_adapter, "theirs": export_peft}
        facts = exports[written.name](peft_dir, str(tiny_model_dir), written)
        back = read_adapter(written)
        assert (facts.alpha, back.rslora, back.scales[Q]) == (8, True, 4.0)
    config = json.loads((tmp_path / "theirs" / "adapter_config.json").read_text())
    assert (config["use_rslora"], config["lora_alpha"], config["r"]) == (True, 8, 4)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"peft_type": "IA3"}, r"'peft_type' is 'IA3', only 'LORA' is supported"),
        ({"use_dora": True}, r"'use_dora' is True, which is not supported: merge the adapter into its base"),
        (
            {"modules_to_save": ["lm_head"]},
            r"'modules_to_save' is \['lm_head'\], which is not supported: merge",
        ),
        ({"bias": "all"}, r"'bias' is 'all', only 'none' is supported"),
        ({"init_lora_weights": "pissa"}, r"'init_lora_weights' is 'pissa', only True or False or"),
        ({"lora_alhpa": 4}, r"'lora_alhpa' is 4, and there is no such key\. Did you mean 'lora_alpha'\?"),
        (
            {"r": 0, "lora_alpha": "x"},
            r"'r' is 0, expected a positive integer; 'lora_alpha' is 'x', expected a positive number",
        ),
        (
            {"rank_pattern": {"q": "x"}},
            r"is \{'q': 'x'\}, expected a table of layer names with a rank",
        ),
        ({"rank_pattern": ["q"]}, r"'rank_pattern' is \['q'\], expected a table of layer names with a rank"),
        (
            {"rank_pattern": {"q": 0}},
            r"is \{'q': 0\}, expected a table of layer names with a rank",
        ),
        (
            {"alpha_pattern": {"q": 0}},
            r"'alpha_pattern' is \{'q': 0\}, expected a table of layer names with a positive alpha",
        ),
        ({"lora_alpha": math.nan}, r"'lora_alpha' is nan, expected a positive number"),
        ({"lora_dropout": "x"}, r"'lora_dropout' is 'x', expected a number"),
        ({"lora_dropout": 1.0}, r"'lora_dropout' is 1\.0, expected a number of at least 0 and below 1"),
        ({"lora_dropout": -1}, r"'lora_dropout' is -1, expected a number of at least 0 and below 1"),
        ({"exclude_modules": 5}, r"'exclude_modules' is 5, expected a list of layer names or one pattern"),
        ({"layers_pattern": 5}, r"'layers_pattern' is 5, expected a pattern or a list of patterns"),
        ({"layers_pattern": ["("]}, r"the pattern '\(' is not a regular expression"),
        ({"layers_to_transform": "all"}, r"'layers_to_transform' is 'all', expected a block number"),
        ({"base_model_name_or_path": 5}, r"'base_model_name_or_path' is 5, expected a model name"),
        ({"target_modules": None}, r"'target_modules' is None, expected a list of layer names"),
        ({"alpha_pattern": {"(": 4}}, r"the pattern '\(' is not a regular expression"),
        ({"r": 8}, r"'model.layers.1.mlp.down_proj' has rank 4, but adapter_config.json says 8"),
        ({"layers_to_transform": [0]}, rf"'{Q}' has an update, but adapter_config.json does not target it"),
        ({"target_modules": ["down_proj", "q_proj", "v_proj"]}, r"there is no tensor for 'v_proj'"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(peft_dir: Path, changes: dict, complaint: str):
    edit(peft_dir, **changes)
    with pytest.raises(ModelError, match=complaint):
        read_adapter(peft_dir)


@pytest.mark.parametrize("scale", [0, -1, math.nan, math.inf, "2", True, None])
def test_a_scale_that_no_update_can_have_is_refused(adapter: Path, scale: Any):
    edit(adapter, lora_parameters={"rank": 4, "scale": scale, "dropout": 0.0})
    with pytest.raises(ModelError, match=r"has no positive number at lora_parameters\.scale"):
        read_adapter(adapter)


@pytest.mark.parametrize("dropout", [None, "0.1", 1.5, 1, -0.1, math.nan])
def test_a_dropout_that_no_layer_can_have_is_refused(adapter: Path, dropout: Any):
    edit(adapter, lora_parameters={"rank": 4, "scale": 2.0, "dropout": dropout})
    with pytest.raises(ModelError, match=r"at lora_parameters\.dropout; expected a number of at least 0"):
        read_adapter(adapter)


@pytest.mark.parametrize(
    ("excluded", "is_told"),
    [
        (["up_proj"], False),
        (["model.layers.0.mlp.up_proj", "model.layers.1.mlp.up_proj"], False),
        (r".*\.up_proj", False),
        (["v_proj"], True),
        ([], True),
    ],
)
def test_a_target_that_is_excluded_needs_no_update(peft_dir: Path, excluded: Any, is_told: bool):
    edit(peft_dir, target_modules=["down_proj", "q_proj", "up_proj"], exclude_modules=excluded)
    if is_told:
        with pytest.raises(ModelError, match=r"there is no tensor for 'up_proj'"):
            read_adapter(peft_dir)
    else:
        assert read_adapter(peft_dir).layers == [DOWN, Q]


def test_switches_that_are_off_are_no_obstacle(peft_dir: Path):
    edit(peft_dir, loftq_config={}, use_future=False, future_config=None, eva_config={"rho": 2.0})
    assert read_adapter(peft_dir).layers == [DOWN, Q]


def test_tensors_that_are_no_update_of_a_linear_layer_are_told(peft_dir: Path):
    file = peft_dir / "adapter_model.safetensors"
    more = {
        "base_model.model.model.embed_tokens.lora_embedding_A": mx.zeros((4, 300)),
        f"base_model.model.{Q}.lora_magnitude_vector": mx.zeros((32,)),
    }
    mx.save_safetensors(str(file), {**mx.load(str(file)), **more})
    with pytest.raises(ModelError, match=r"do not fit its adapter_config\.json") as caught:
        read_adapter(peft_dir)
    for name in more:
        assert f"'{name}'" in str(caught.value)


def test_a_pickle_is_not_opened(peft_dir: Path):
    (peft_dir / "adapter_model.safetensors").rename(peft_dir / "adapter_model.bin")
    with pytest.raises(ModelError, match=r"its weights are a pickle file, adapter_model.bin; save them as"):
        read_adapter(peft_dir)


def test_an_adapter_of_another_model_leaves_nothing(adapter: Path, tmp_path: Path):
    for number, export in enumerate((export_peft, export_mlx_adapter)):
        with pytest.raises(ModelError, match=r"does not fit the model: .*expected 192 in dimension 0"):
            export(adapter, "smidgen:nano", tmp_path / f"out{number}")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter"]


@pytest.mark.parametrize(
    "base", ["nosuch", "nosuch dir", "/nonexistent/model", "./made/up", "http://x/v1", "smidgen:none"]
)
def test_a_base_that_is_neither_here_nor_on_the_hub_is_refused(adapter: Path, tmp_path: Path, base: str):
    for export in (export_peft, export_mlx_adapter):
        with pytest.raises(ModelError, match=rf"there is no (folder|bundled model) '?{base}'?; expected"):
            export(adapter, base, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("weights", "complaint"),
    [
        ({}, "it has no tensors"),
        ({f"{Q}.lora_a": mx.zeros((8, 2))}, f"'{Q}' has lora_a but no lora_b"),
        ({"model.norm.weight": mx.zeros(8)}, "'model.norm.weight' is neither a lora_a nor a lora_b"),
        (
            {f"{Q}.lora_a": mx.zeros((8, 2)), f"{Q}.lora_b": mx.zeros((3, 8))},
            f"'{Q}' has rank 2 in lora_a and 3 in lora_b",
        ),
        (
            {f"{Q}.lora_a": mx.zeros((8,)), f"{Q}.lora_b": mx.zeros((3, 8))},
            rf"'{Q}\.lora_a' has shape \(8,\), expected a matrix",
        ),
    ],
)
def test_broken_adapters_are_refused_without_the_base(
    adapter: Path, tmp_path: Path, weights: dict, complaint: str
):
    mx.save_safetensors(str(adapter / "adapters.safetensors"), weights)
    with pytest.raises(ModelError, match=rf"cannot be used: .*{complaint}"):
        export_peft(adapter, "owner/base-on-the-hub", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_cut_file_is_refused(peft_dir: Path, tmp_path: Path):
    file = peft_dir / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(ModelError, match=r"adapter_model.safetensors is truncated or damaged"):
        export_mlx_adapter(peft_dir, "owner/base", tmp_path / "out")


def test_the_base_need_not_be_here(adapter: Path, tmp_path: Path):
    export_peft(adapter, "owner/base", tmp_path / "peft")
    config = json.loads((tmp_path / "peft" / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["layers_to_transform"]) == ("owner/base", [1])
    shutil.rmtree(adapter)
    export_mlx_adapter(tmp_path / "peft", "owner/base", adapter)
    assert read_adapter(adapter).scales == {Q: 2.0, DOWN: 2.0}


def test_halves_stay_halves(tmp_path: Path):
    made = adapter_of({Q: (2, 0.5)}, mx.bfloat16)
    write_adapter(tmp_path / "mlx", made)
    export_peft(tmp_path / "mlx", "owner/base", tmp_path / "peft")
    same_tensors(made, read_adapter(tmp_path / "peft"))


@pytest.mark.parametrize(
    ("made_for", "given", "is_told"),
    [
        ("Qwen/Qwen3-0.6B", "Qwen/Qwen3-0.6B", False),
        ("Qwen/Qwen3-0.6B", "mirror/qwen3-0.6b", False),
        ("mlx-community/Qwen3-0.6B-4bit", "Qwen/Qwen3-0.6B", False),
        ("unsloth/Qwen3-0.6B-bnb-4bit", "mlx-community/Qwen3-0.6B-8bit-DWQ", False),
        ("Qwen/Qwen3-0.6B", "Qwen/Qwen3-0.6B-Base", True),
        ("Qwen/Qwen3-0.6B", "smidgen:nano", True),
        ("smidgen:nano", "owner/nano:best", False),
        ("/models/Qwen3-0.6B", "Qwen/Qwen3-0.6B-Base", False),
        ("Qwen/Qwen3-0.6B", "../models/other", False),
        (None, "Qwen/Qwen3-0.6B", False),
    ],
)
def test_an_adapter_of_another_model_is_told(made_for: str | None, given: str, is_told: bool):
    made = dataclasses.replace(adapter_of({Q: (2, 0.5)}), base=made_for)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn_of_another_base(made, given)
    told = [str(warning.message) for warning in caught]
    assert len(told) == is_told
    assert all(f"made was trained on {made_for}, not on {given}; on another" in text for text in told)


def test_every_way_to_use_an_adapter_tells_its_base(make_adapter: Callable[..., Path], tmp_path: Path):
    export_peft(make_adapter("smidgen:nano"), "owner/other", tmp_path / "peft")
    uses = (
        lambda: load("smidgen:nano", adapter=tmp_path / "peft"),
        lambda: export_peft(tmp_path / "peft", "smidgen:nano", tmp_path / "again"),
        lambda: export_fused(
            "smidgen:nano",
            tmp_path / "peft",
            tmp_path / "fused",
            prompts=[[Message("user", "?")]],
            force=True,
        ),
        lambda: write_gguf("smidgen:nano", tmp_path / "nano.gguf", adapter=tmp_path / "peft"),
    )
    for use in uses:
        with pytest.warns(UserWarning, match=r"was trained on owner/other, not on smidgen:nano"):
            use()


@pytest.mark.parametrize(
    ("layers", "warning"),
    [
        ({Q: (16, 2.0)}, None),
        ({Q: (17, 2.0)}, r"up to rank 16 by default, and this one has 17: start it with --max-lora-rank 32"),
        ({Q: (513, 2.0)}, r"vLLM serves adapters up to rank 512, and this one has 513"),
        ({Q: (4, 2.0), "lm_head": (4, 2.0)}, r"refuses or ignores updates outside of the blocks: lm_head"),
        ({Q: (4, 2.0), DOWN: (4, 1.0)}, r"ignores rank_pattern and alpha_pattern"),
    ],
)
def test_what_vllm_will_not_take_is_told(layers: dict, warning: str | None):
    found = vllm_warnings(adapter_of(layers))
    assert len(found) == (warning is not None)
    assert all(re.search(str(warning), told) for told in found)
