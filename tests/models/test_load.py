import gc
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError
from mlx_lm.utils import load_model as mlx_lm_load_model

from smidgen.backend import compute_dtype, mx
from smidgen.config import LoraConfig
from smidgen.errors import ModelError
from smidgen.export.gguf import write_gguf
from smidgen.models import load as load_module
from smidgen.models import packaged
from smidgen.models import weights as weights_module
from smidgen.models.check import check_model
from smidgen.models.graph import named_arrays
from smidgen.models.load import build, describe, load, read_config, resolve
from smidgen.models.lora import add_lora, dequantize, save_adapter
from smidgen.models.quantization import quantize
from smidgen.models.save import save_model
from smidgen.models.weights import read_weights


def test_logits_are_those_of_mlx_lm(tiny_model_dir: Path, tokens: mx.array):
    loaded = load(str(tiny_model_dir))
    reference, _ = mlx_lm_load_model(tiny_model_dir)
    np.testing.assert_allclose(loaded.model(tokens), reference(tokens), rtol=1e-4, atol=1e-4)
    assert (loaded.path, loaded.name) == (tiny_model_dir, str(tiny_model_dir))
    assert loaded.tokenizer.vocab_size <= 320
    assert loaded.config == read_config(tiny_model_dir)


def test_weights_are_computed_in_the_dtype_of_the_device(tiny_model_dir: Path, tmp_path: Path):
    first = load(str(tiny_model_dir))
    save_model(tmp_path / "half", first.model, first.config, tiny_model_dir, dtype=mx.bfloat16)
    second = load(str(tmp_path / "half"))
    dtypes = {value.dtype for value in named_arrays(second.model.parameters()).values()}
    assert dtypes == {compute_dtype()}


@pytest.mark.skipif(compute_dtype() != mx.float32, reason="elsewhere nothing is converted")
@pytest.mark.parametrize("bits", [16, 4])
def test_one_tensor_at_a_time_is_there_as_it_is_stored(bits: int, tiny_model_dir: Path, tmp_path: Path):
    first = load(str(tiny_model_dir))
    config = quantize(first.model, first.config, bits=4, group_size=32) if bits == 4 else first.config
    save_model(tmp_path / "stored", first.model, config, tiny_model_dir, dtype=mx.bfloat16)
    sizes = [value.nbytes for value in read_weights(tmp_path / "stored").values()]
    del first
    gc.collect()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    model = build(tmp_path / "stored", config)
    dequantize(model, mx.float32)
    weights = sum(value.nbytes for value in named_arrays(model.parameters()).values())
    # a packed layer is there with its scales and biases, and an array has a header of a few bytes
    most = weights + 2 * max(sizes) + 64 * len(sizes)
    assert weights <= mx.get_peak_memory() - before <= most < weights + sum(sizes)


def test_a_quantised_folder_loads(tiny_model_dir: Path, tmp_path: Path, tokens: mx.array):
    first = load(str(tiny_model_dir))
    config = quantize(first.model, first.config, bits=4, group_size=32)
    save_model(tmp_path / "q4", first.model, config, tiny_model_dir)
    np.testing.assert_array_equal(load(str(tmp_path / "q4")).model(tokens), first.model(tokens))


def test_layers_that_the_config_leaves_plain_stay_plain(tiny_model_dir: Path, tmp_path: Path):
    first = load(str(tiny_model_dir))
    plain = "model.layers.0.mlp.down_proj"
    kept = first.model.layers[0].mlp.down_proj
    config = quantize(first.model, first.config, bits=4, group_size=32)
    first.model.layers[0].mlp.down_proj = kept
    config["quantization"] = {**config["quantization"], plain: False}
    save_model(tmp_path / "mixed", first.model, config, tiny_model_dir)
    weights = named_arrays(load(str(tmp_path / "mixed")).model.parameters())
    assert f"{plain}.scales" not in weights
    assert "model.layers.1.mlp.down_proj.scales" in weights


def test_an_adapter_is_put_on(tiny_model_dir: Path, tmp_path: Path, tokens: mx.array):
    base = load(str(tiny_model_dir))
    add_lora(base.model, LoraConfig(rank=2), seed=0)
    base.model.layers[0].mlp.up_proj.lora_b = mx.ones((2, 64))
    save_adapter(tmp_path / "adapter", base.model, LoraConfig(rank=2))
    adapted = load(str(tiny_model_dir), adapter=tmp_path / "adapter")
    np.testing.assert_allclose(adapted.model(tokens), base.model(tokens), rtol=1e-5, atol=1e-5)


def test_every_misfit_of_the_weights_is_told_at_once(edited: Callable[..., Path]):
    folder = edited()
    weights = dict(mx.load(str(folder / "model.safetensors")))
    weights["model.norm.weight"] = mx.ones((7,))
    weights["model.surplus.weight"] = mx.ones((3, 2))
    del weights["model.layers.1.self_attn.q_norm.weight"]
    mx.save_safetensors(str(folder / "model.safetensors"), weights)
    with pytest.raises(ModelError, match=r"do not fit its config\.json") as caught:
        load(str(folder))
    for part in (
        "missing 'model.layers.1.self_attn.q_norm.weight' (8,)",
        "unexpected 'model.surplus.weight' (3, 2)",
        "'model.norm.weight' has shape (7,), expected (32,)",
    ):
        assert part in str(caught.value)


@pytest.mark.parametrize("keep", [4, 100, 20_000])
def test_a_file_cut_short_is_named(edited: Callable[..., Path], keep: int):
    folder = edited()
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(ModelError, match=r"model\.safetensors is truncated or damaged .* download it again"):
        load(str(folder))


def test_shards_are_read_by_their_index(edited: Callable[..., Path], tiny_model_dir: Path, tokens: mx.array):
    folder = edited()
    weights = dict(mx.load(str(folder / "model.safetensors")))
    (folder / "model.safetensors").unlink()
    names = sorted(weights)
    parts = {"model-00001-of-00002.safetensors": names[:5], "model-00002-of-00002.safetensors": names[5:]}
    for file, held in parts.items():
        mx.save_safetensors(str(folder / file), {name: weights[name] for name in held})
    index = {"weight_map": {name: file for file, held in parts.items() for name in held}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    np.testing.assert_array_equal(load(str(folder)).model(tokens), load(str(tiny_model_dir)).model(tokens))
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ModelError, match=r"lacks model-00002-of-00002.safetensors, which model.safetensors"):
        load(str(folder))
    for text in ("{}", '{"weight_map": {"a": 1}}', '{"weight_map": {"a": "x", "b": 1}}'):
        (folder / "model.safetensors.index.json").write_text(text, encoding="utf-8")
        with pytest.raises(ModelError, match=r"index.json is not a readable index of weight files"):
            load(str(folder))


def test_a_folder_without_safetensors_is_refused(edited: Callable[..., Path]):
    folder = edited()
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(
        ModelError, match=r"contains no model\*\.safetensors; it has pytorch_model\.bin, which is not"
    ):
        load(str(folder))


def test_a_tokenizer_larger_than_the_embedding_is_refused(tiny_model_dir: Path, edited: Callable[..., Path]):
    folder = edited(vocab_size=260)
    weights = dict(mx.load(str(tiny_model_dir / "model.safetensors")))
    weights["model.embed_tokens.weight"] = weights["model.embed_tokens.weight"][:260]
    mx.save_safetensors(str(folder / "model.safetensors"), weights)
    with pytest.raises(ModelError, match=r"has \d+ tokens, but the model has 260; use the tokenizer"):
        load(str(folder))


def test_foreign_quantisation_is_refused_by_name(edited: Callable[..., Path]):
    with pytest.raises(ModelError, match=r"quantised by gptq; expected plain or MLX-quantised"):
        load(str(edited(quantization_config={"quant_method": "gptq"})))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("quantization", True, r"has 'quantization' = True; expected a table of settings"),
        ("quantization", [4], r"has 'quantization' = \[4\]; expected a table"),
        ("quantization_config", "gptq", r"has 'quantization_config' = 'gptq'; expected a table"),
        (
            "quantization",
            {},
            r"has None as '(bits|group_size)' in 'quantization'; expected a positive integer",
        ),
        ("quantization", {"bits": 4}, r"has None as 'group_size' in 'quantization'"),
        ("quantization", {"group_size": 32}, r"has None as 'bits' in 'quantization'"),
        ("quantization", {"group_size": 32, "bits": "4"}, r"has '4' as 'bits' in 'quantization'"),
        ("quantization", {"group_size": 32, "bits": True}, r"has True as 'bits'"),
        (
            "quantization",
            {"group_size": 32, "bits": 4, "lm_head": {"bits": 0}},
            r"has 0 as 'bits' in 'quantization\.lm_head'",
        ),
    ],
)
def test_quantisation_that_is_no_table_of_numbers_is_refused(
    edited: Callable[..., Path], key: str, value: object, message: str
):
    with pytest.raises(ModelError, match=message):
        read_config(edited(**{key: value}))


def test_quantisation_that_mlx_does_not_have_is_refused(edited: Callable[..., Path], tiny_model_dir: Path):
    loaded = load(str(tiny_model_dir))
    quantize(loaded.model, loaded.config, bits=4, group_size=32)
    folder = edited(quantization={"bits": 7, "group_size": 32})
    mx.save_safetensors(str(folder / "model.safetensors"), named_arrays(loaded.model.parameters()))
    with pytest.raises(ModelError, match=r"config\.json has quantization \{'bits': 7.*is not usable"):
        load(str(folder))


def test_an_unreadable_config_is_refused(edited: Callable[..., Path], tmp_path: Path):
    folder = edited()
    (folder / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(ModelError, match=r"config\.json is not readable JSON"):
        load(str(folder))
    (folder / "config.json").write_text("[]", encoding="utf-8")
    with pytest.raises(ModelError, match=r"config\.json contains a list; expected a JSON object"):
        load(str(folder))
    with pytest.raises(ModelError, match=r"contains no config\.json; expected a model folder"):
        load(str(tmp_path))


def test_names_that_lead_nowhere(tmp_path: Path):
    for name in ("./nowhere", "/no/where", "nowhere", "a/b/c"):
        with pytest.raises(
            ModelError,
            match=rf"there is no folder {name}; expected a model's folder, a .gguf file, smidgen:n",
        ):
            resolve(name)
    (tmp_path / "file.bin").touch()
    with pytest.raises(ModelError, match=r"file\.bin is a file; expected a \.gguf file, or a model's folder"):
        resolve(str(tmp_path / "file.bin"))
    (tmp_path / "file.gguf").write_text("no model" * 100)
    with pytest.raises(ModelError, match=r"file\.gguf is not a complete GGUF file"):
        resolve(str(tmp_path / "file.gguf"))
    with pytest.raises(ModelError, match=r"there is no file .*none\.gguf; check the path"):
        resolve(str(tmp_path / "none.gguf"))
    with pytest.raises(ModelError, match=r"there is no folder http:.*, and not the URL of a server$"):
        resolve("http://localhost:1/v1")
    (tmp_path / "run/best").mkdir(parents=True)
    with pytest.raises(ModelError, match=r"run contains no config.json; .* Did you mean '.*/run/best'\?"):
        load(str(tmp_path / "run"))
    with pytest.raises(ModelError, match=r"there is no bundled model 'smidgen:mini'; expected smidgen:nano"):
        resolve("smidgen:mini")


def test_the_bundled_model_is_looked_for_in_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(packaged, "files", lambda package: tmp_path)
    with pytest.raises(ModelError, match=r"smidgen:nano is missing from this installation"):
        resolve("smidgen:nano")
    (tmp_path / "nano").mkdir()
    (tmp_path / "nano" / "config.json").touch()
    assert resolve("smidgen:nano") == tmp_path / "nano"


def test_a_hub_id_is_fetched_with_only_the_files_it_needs(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    asked = []

    def snapshot_download(repo: str, *, allow_patterns: list[str]) -> str:
        asked.append((repo, allow_patterns))
        return str(tmp_path)

    monkeypatch.setattr(load_module, "snapshot_download", snapshot_download)
    assert resolve("owner/repo") == tmp_path
    shutil.copytree(tiny_model_dir, tmp_path / "mlx")
    assert load("owner/repo:mlx").path == tmp_path / "mlx"
    (repo, plain), (_, inside) = asked
    assert repo == "owner/repo"
    assert {"model*.safetensors", "README.md", "LICENSE"} <= set(plain)
    assert inside == [f"mlx/{pattern}" for pattern in plain]
    assert describe("owner/repo") == tmp_path
    assert set(plain) - set(asked[-1][1]) == {"model*.safetensors"}
    with pytest.raises(ModelError, match=r"owner/repo on the hub has no model in a folder 'gone'"):
        resolve("owner/repo:gone")


def test_an_unreachable_hub_is_one_sentence(monkeypatch: pytest.MonkeyPatch):
    def snapshot_download(*_: object, **__: object) -> str:
        raise LocalEntryNotFoundError("Cannot reach the hub.\nMore lines of advice.")

    monkeypatch.setattr(load_module, "snapshot_download", snapshot_download)
    with pytest.raises(
        ModelError, match=r"^owner/repo is not a local folder .* hub: Cannot reach the hub\. Check"
    ):
        resolve("owner/repo")


# ------------------------------------------------------------------------- a head beside a tied embedding


@pytest.fixture
def with_head(tiny_model_dir: Path, tmp_path: Path) -> Callable[..., Path]:
    """A function that copies the tiny model, which ties its head, with a head in a file of its own."""

    def write(change: Callable[[mx.array], mx.array]) -> Path:
        folder = tmp_path / "headed"
        shutil.copytree(tiny_model_dir, folder)
        embedding = mx.load(str(folder / "model.safetensors"))["model.embed_tokens.weight"]
        mx.save_safetensors(str(folder / "model-2.safetensors"), {"lm_head.weight": change(embedding)})
        return folder

    return write


OTHER = {
    "one bit": lambda value: mx.concatenate([value[:-1], value[-1:] * (1 + 2**-20)]),
    "rows swapped": lambda value: value[::-1],
    "zeros": mx.zeros_like,
    "fewer rows": lambda value: value[:-1],
    "rounded": lambda value: value.astype(mx.bfloat16),
    "whole numbers": lambda value: value.astype(mx.int32),
}


@pytest.mark.parametrize("compared", [64, 1 << 22])
def test_a_head_that_is_the_embedding_changes_nothing(
    with_head, tiny_model_dir: Path, tokens: mx.array, monkeypatch: pytest.MonkeyPatch, compared: int
):
    monkeypatch.setattr(weights_module, "COMPARED_BYTES", compared)
    model = load(str(with_head(lambda value: value))).model
    np.testing.assert_array_equal(model(tokens), load(str(tiny_model_dir)).model(tokens))


def test_a_head_that_is_the_embedding_in_another_dtype_changes_nothing(with_head):
    folder = with_head(lambda value: value.astype(mx.bfloat16))
    weights = mx.load(str(folder / "model.safetensors"))
    name = "model.embed_tokens.weight"
    weights[name] = weights[name].astype(mx.bfloat16).astype(mx.float32)
    mx.save_safetensors(str(folder / "model.safetensors"), weights)
    load(str(folder))


@pytest.mark.parametrize("compared", [64, 1 << 22])
@pytest.mark.parametrize("change", OTHER.values(), ids=OTHER)
def test_a_head_that_is_not_the_embedding_is_refused(
    with_head, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change, compared: int
):
    monkeypatch.setattr(weights_module, "COMPARED_BYTES", compared)
    folder = with_head(change)
    match = r'contains a lm_head\.weight that differs from its embedding.*set "tie_word_embeddings": false'
    with pytest.raises(ModelError, match=match):
        load(str(folder))
    with pytest.raises(ModelError, match=match):
        write_gguf(str(folder), tmp_path / "model.gguf")
    assert any(
        "differs from the embedding" in fault for fault in check_model(folder, read_config(folder)).faults
    )


def test_a_head_of_an_untied_model_is_its_own(with_head, tiny_model_dir: Path, tokens: mx.array):
    folder = with_head(mx.zeros_like)
    (folder / "config.json").write_text(json.dumps(read_config(folder) | {"tie_word_embeddings": False}))
    assert not np.array(load(str(folder)).model(tokens)).any()
