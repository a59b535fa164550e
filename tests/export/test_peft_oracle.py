"""Our adapters in PEFT and transformers, and PEFT's adapters here: the same scores."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from smidgen.backend import mx
from smidgen.config import LoraConfig
from smidgen.export.peft_adapter import export_peft
from smidgen.models.load import load, resolve
from smidgen.models.peft import ELSEWHERE, HARMLESS, ONLY_AT, USED

pytestmark = [
    pytest.mark.oracle,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
TOKENS = np.random.default_rng(0).integers(0, 3000, (2, 40))


@pytest.fixture
def base():
    """The bundled model in transformers."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("peft")
    torch.manual_seed(0)
    return transformers.AutoModelForCausalLM.from_pretrained(resolve("smidgen:nano"), dtype=torch.float32)


def scores(model: Any) -> np.ndarray:
    """What a model of torch scores for `TOKENS`."""
    import torch

    with torch.no_grad():
        return model.eval()(input_ids=torch.tensor(TOKENS)).logits.numpy()


def our_scores(adapter: Path | None) -> np.ndarray:
    return np.array(load("smidgen:nano", adapter=adapter).model(mx.array(TOKENS, mx.int32)))


@pytest.mark.parametrize(
    "config",
    [
        LoraConfig(rank=16, alpha=32),
        LoraConfig(rank=4, alpha=10, num_layers=2, target_modules=("q_proj", "v_proj")),
    ],
)
def test_peft_loads_what_we_export(
    base: Any, make_adapter: Callable[..., Path], tmp_path: Path, config: LoraConfig
):
    import peft

    ours = make_adapter("smidgen:nano", config, size=0.05)
    export_peft(ours, "smidgen:nano", tmp_path / "peft")
    plain = scores(base)
    found = scores(peft.PeftModel.from_pretrained(base, tmp_path / "peft"))
    assert np.abs(found - plain).max() > 0.1
    np.testing.assert_allclose(our_scores(ours), found, rtol=0, atol=1e-4)


SETTINGS: list[dict[str, Any]] = [
    {"r": 8, "lora_alpha": 16, "target_modules": "all-linear"},
    {"r": 4, "lora_alpha": 6, "target_modules": "all-linear", "exclude_modules": ["down_proj"]},
    {"r": 4, "lora_alpha": 6, "target_modules": "all-linear", "exclude_modules": r".*\.[12]\.mlp\..*"},
    {
        "r": 4,
        "lora_alpha": 6,
        "target_modules": ["q_proj", "k_proj"],
        "exclude_modules": ["self_attn.k_proj"],
    },
    {"r": 4, "lora_alpha": 6, "target_modules": ["q_proj", "down_proj"], "layers_to_transform": [0, 3]},
    {"r": 4, "lora_alpha": 6, "target_modules": r".*\.[12]\.mlp\.\w+_proj", "use_rslora": True},
    {
        "r": 8,
        "lora_alpha": 12,
        "target_modules": ["k_proj", "model.layers.2.mlp.up_proj"],
        "rank_pattern": {r"layers\.1\.self_attn\.k_proj": 3},
        "alpha_pattern": {"up_proj": 40, "1.self_attn.k_proj": 5},
    },
]


@pytest.mark.parametrize("settings", SETTINGS)
def test_we_load_what_peft_makes_and_peft_what_we_make_of_it(
    base: Any, tmp_path: Path, settings: dict[str, Any]
):
    import peft

    plain = scores(base)
    made = peft.get_peft_model(
        base, peft.LoraConfig(task_type="CAUSAL_LM", init_lora_weights=False, **settings)
    )
    wanted = scores(made)
    made.save_pretrained(tmp_path / "theirs")
    assert np.abs(wanted - plain).max() > 0.1
    np.testing.assert_allclose(our_scores(tmp_path / "theirs"), wanted, rtol=0, atol=1e-4)
    export_peft(tmp_path / "theirs", "smidgen:nano", tmp_path / "again")
    again = scores(peft.PeftModel.from_pretrained(made.unload(), tmp_path / "again"))
    np.testing.assert_allclose(again, wanted, rtol=0, atol=1e-5)


def test_every_key_of_peft_is_known_by_name():
    peft = pytest.importorskip("peft")
    known = USED | HARMLESS | ELSEWHERE | ONLY_AT.keys()
    assert {field.name for field in dataclasses.fields(peft.LoraConfig)} <= known
