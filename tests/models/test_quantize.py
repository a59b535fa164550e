from pathlib import Path

import numpy as np
import pytest
from mlx_lm.utils import load_model as mlx_lm_load_model

from smidgen.backend import mx
from smidgen.config import LoraConfig
from smidgen.errors import ModelError
from smidgen.models.graph import named_arrays
from smidgen.models.load import load
from smidgen.models.lora import add_lora
from smidgen.models.quantize import quantize
from smidgen.models.save import save_model


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
def test_quantised_saved_and_loaded_is_the_same_for_us_and_for_mlx_lm(
    tiny_model_dir: Path, tmp_path: Path, tokens: mx.array, bits: int
):
    first = load(str(tiny_model_dir))
    config = quantize(first.model, first.config, bits=bits, group_size=32)
    wanted = first.model(tokens)
    save_model(tmp_path / "q", first.model, config, tiny_model_dir)
    np.testing.assert_array_equal(load(str(tmp_path / "q")).model(tokens), wanted)
    reference, _ = mlx_lm_load_model(tmp_path / "q")
    np.testing.assert_allclose(reference(tokens), wanted, rtol=1e-4, atol=1e-4)


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
        ModelError, match=r"group_size is 64, which does not divide layers of the width 32; choose 32"
    ):
        quantize(loaded.model, loaded.config, bits=4, group_size=64)
    assert all(v.dtype == mx.float32 for v in named_arrays(loaded.model.parameters()).values())


def test_what_is_quantised_or_adapted_is_refused(tiny_model_dir: Path):
    loaded = load(str(tiny_model_dir))
    add_lora(loaded.model, LoraConfig(), seed=0)
    with pytest.raises(ModelError, match=r"holds an adapter that is not fused; fuse it before quantising"):
        quantize(loaded.model, loaded.config, bits=4, group_size=32)
    with pytest.raises(ModelError, match=r"quantised already; start from its unquantised weights"):
        quantize(loaded.model, {"quantization": {"bits": 4}}, bits=4, group_size=32)
