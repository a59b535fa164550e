"""The bundled model is what its card says."""

import hashlib
import json

from smidgen.models.graph import named_arrays
from smidgen.models.load import load, resolve

FOLDER = resolve("smidgen:nano")


def test_the_card_names_the_weights():
    digest = hashlib.sha256((FOLDER / "model.safetensors").read_bytes()).hexdigest()
    assert f"`{digest}`" in (FOLDER / "README.md").read_text(encoding="utf-8")


def test_it_is_as_small_as_promised():
    model = load("smidgen:nano").model
    assert 1_000_000 < sum(array.size for array in named_arrays(model.parameters()).values()) < 2_500_000
    assert (FOLDER / "model.safetensors").stat().st_size <= 5_000_000


def test_it_is_a_qwen3_of_bfloat16():
    config = json.loads((FOLDER / "config.json").read_text(encoding="utf-8"))
    assert (config["model_type"], config["torch_dtype"]) == ("qwen3", "bfloat16")
