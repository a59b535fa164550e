import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from mlx_lm.utils import load_model as mlx_lm_load_model
from safetensors import safe_open
from transformers import AutoConfig

from smidgen.backend import mx
from smidgen.config import ArchitectureConfig, LoraConfig
from smidgen.errors import ModelError
from smidgen.models.architectures import build_graph
from smidgen.models.graph import create, named_arrays
from smidgen.models.licence import licence_of
from smidgen.models.load import load, read_config
from smidgen.models.lora import add_lora, fuse
from smidgen.models.quantization import quantize
from smidgen.models.save import save_model, stored_dtype

SHAPE = {
    "vocab_size": 320, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "intermediate_size": 64, "max_position_embeddings": 512,
}  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}  # fmt: skip


@pytest.fixture(params=["llama", "qwen2"])
def of_transformers(request: pytest.FixtureRequest, tiny_tokenizer_dir: Path, tmp_path: Path) -> Path:
    """A folder whose config.json is as transformers 5 writes it, but silent about the head: not tied."""
    rope = LLAMA3 if request.param == "llama" else {"rope_type": "default", "rope_theta": 1e4}
    folder = tmp_path / "of-transformers"
    shutil.copytree(tiny_tokenizer_dir, folder)
    AutoConfig.for_model(request.param, **SHAPE, rope_parameters=rope).save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    assert config["rope_parameters"] == rope and "rope_theta" not in config
    del config["tie_word_embeddings"]
    (folder / "config.json").write_text(json.dumps(config))
    arrays = named_arrays(build_graph(config, "x").parameters())
    rng = np.random.default_rng(0)
    weights = {name: mx.array(rng.normal(0, 0.3, v.shape), mx.float32) for name, v in arrays.items()}
    mx.save_safetensors(str(folder / "model.safetensors"), weights)
    return folder


@pytest.mark.parametrize("bits", [None, 8])
def test_mlx_lm_computes_the_same_of_what_is_saved(
    of_transformers: Path, tmp_path: Path, tokens: mx.array, bits: int | None
):
    loaded = load(str(of_transformers))
    config = quantize(loaded.model, loaded.config, bits=bits, group_size=32) if bits else loaded.config
    save_model(tmp_path / "saved", loaded.model, config, of_transformers)
    reference, _ = mlx_lm_load_model(tmp_path / "saved")
    np.testing.assert_allclose(reference(tokens), loaded.model(tokens), rtol=1e-4, atol=1e-3)


def test_saved_and_loaded_is_the_same(tiny_model_dir: Path, tmp_path: Path, tokens: mx.array):
    first = load(str(tiny_model_dir))
    save_model(tmp_path / "again", first.model, first.config, tiny_model_dir)
    second = load(str(tmp_path / "again"))
    np.testing.assert_array_equal(second.model(tokens), first.model(tokens))
    assert second.tokenizer.encode("the better answer") == first.tokenizer.encode("the better answer")
    assert (tmp_path / "again" / "generation_config.json").exists()


def test_the_licence_goes_with_the_weights(tiny_model_dir: Path, tmp_path: Path):
    shutil.copytree(tiny_model_dir, tmp_path / "base")
    (tmp_path / "base" / "LICENSE").write_text("FAIR Noncommercial Research License")
    base = load(str(tiny_model_dir))
    save_model(tmp_path / "copy", base.model, base.config, tmp_path / "base")
    licence = licence_of(tmp_path / "copy", base.config)
    assert licence is not None and licence.is_noncommercial
    assert not (tmp_path / "copy" / "README.md").exists()


def test_of_a_card_only_the_licence_goes_with_the_weights(tiny_model_dir: Path, tmp_path: Path):
    shutil.copytree(tiny_model_dir, tmp_path / "base")
    said = ["license: other", "license_name: my-nc-1", "license_link: https://example.org/a"]
    (tmp_path / "base/README.md").write_text("\n".join(["---", *said, "tags: [a]", "---", "# Mine, 99 %"]))
    base = load(str(tiny_model_dir))
    save_model(tmp_path / "copy", base.model, base.config, tmp_path / "base")
    licence = licence_of(tmp_path / "copy", base.config)
    assert licence is not None and licence.name == "my-nc-1" and licence.is_noncommercial
    assert (tmp_path / "copy/README.md").read_text().split("---")[1].split("\n")[1:-1] == said
    assert "99 %" not in (tmp_path / "copy/README.md").read_text()


def test_a_created_model_is_a_loadable_folder(tiny_tokenizer_dir: Path, tmp_path: Path, tokens: mx.array):
    shape = ArchitectureConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1, head_dim=16,
        intermediate_size=64, vocab_size=320,
    )  # fmt: skip
    model, config = create(shape, seed=0)
    save_model(tmp_path / "new", model, config, tiny_tokenizer_dir, dtype=mx.bfloat16)
    assert read_config(tmp_path / "new")["torch_dtype"] == "bfloat16"
    with safe_open(tmp_path / "new" / "model.safetensors", framework="numpy") as file:
        assert file.metadata() == {"format": "pt"}
    np.testing.assert_allclose(load(str(tmp_path / "new")).model(tokens), model(tokens), atol=5e-3)


def test_a_folder_is_replaced_whole(tiny_model_dir: Path, tmp_path: Path):
    first = load(str(tiny_model_dir))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "stale.txt").touch()
    save_model(tmp_path / "out", first.model, first.config, tiny_model_dir)
    assert not (tmp_path / "out" / "stale.txt").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_fusing_drops_the_quantisation_from_the_config(tiny_model_dir: Path, tmp_path: Path):
    loaded = load(str(tiny_model_dir))
    config = quantize(loaded.model, loaded.config, bits=4, group_size=32)
    add_lora(loaded.model, LoraConfig(), seed=0)
    fuse(loaded.model)
    save_model(tmp_path / "fused", loaded.model, config, tiny_model_dir)
    assert not {"quantization", "quantization_config"} & set(read_config(tmp_path / "fused"))
    load(str(tmp_path / "fused"))


def test_what_cannot_be_saved_is_refused(tiny_model_dir: Path, tmp_path: Path):
    loaded = load(str(tiny_model_dir))
    with pytest.raises(
        ModelError, match=r"contains no tokenizer.json; pass the folder of the model's tokenizer"
    ):
        save_model(tmp_path / "out", loaded.model, loaded.config, tmp_path)
    add_lora(loaded.model, LoraConfig(), seed=0)
    with pytest.raises(ModelError, match=r"has an adapter that is not fused; fuse it or save the adapter"):
        save_model(tmp_path / "out", loaded.model, loaded.config, tiny_model_dir)
    assert not (tmp_path / "out").exists()


def test_the_dtype_of_a_folder_is_that_of_most_of_its_numbers(tmp_path: Path):
    file = str(tmp_path / "model.safetensors")
    mx.save_safetensors(file, {"packed": mx.zeros(9, mx.uint32)})
    with pytest.raises(ModelError, match=r"has no float32, bfloat16, float16 weights; download the model"):
        stored_dtype(tmp_path)
    weights = {"a": mx.zeros(3, mx.float16), "b": mx.zeros(1), "c": mx.zeros(1)}
    mx.save_safetensors(file, weights | {"packed": mx.zeros(9, mx.uint32)})
    assert stored_dtype(tmp_path) == mx.float16
