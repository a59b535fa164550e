import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader
from safetensors.numpy import load_file, save_file

from smidgen.errors import ConfigError, ModelError
from smidgen.export.gguf import write as write_module
from smidgen.export.gguf import write_gguf, write_gguf_adapter
from smidgen.models.load import load, read_config
from smidgen.models.quantization import quantize
from smidgen.models.save import save_model


def copied(folder: Path, **changes) -> Path:
    """A copy of a model with keys of its config replaced."""
    other = folder.parent / f"{folder.name}-copy"
    shutil.copytree(folder, other)
    (other / "config.json").write_text(json.dumps({**read_config(folder), **changes}), encoding="utf-8")
    return other


def fields(file: Path) -> dict:
    return {name: field.contents() for name, field in GGUFReader(file).fields.items()}


@pytest.mark.slow
def test_the_file_says_what_the_model_is(tmp_path: Path):
    facts = write_gguf("smidgen:nano", tmp_path / "nano.gguf")
    found = fields(tmp_path / "nano.gguf")
    assert facts.dtype == "Q8_0" and facts.licence == "apache-2.0" and facts.tensors == 57
    wanted = {
        "general.architecture": "qwen3", "general.name": "smidgen:nano", "general.license": "apache-2.0",
        "general.file_type": 7, "qwen3.block_count": 5, "qwen3.context_length": 2048,
        "qwen3.embedding_length": 192, "qwen3.feed_forward_length": 448, "qwen3.attention.head_count": 6,
        "qwen3.attention.head_count_kv": 2, "qwen3.attention.key_length": 32,
        "qwen3.rope.freq_base": 100000.0, "tokenizer.ggml.pre": "qwen2", "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.eos_token_id": 3069, "tokenizer.ggml.padding_token_id": 3067,
        "tokenizer.ggml.add_bos_token": False,
    }  # fmt: skip
    assert {key: found.get(key) for key in wanted} == wanted
    assert found["qwen3.attention.layer_norm_rms_epsilon"] == pytest.approx(1e-6)


@pytest.mark.parametrize(
    ("files", "named", "wanted"),
    [
        ({"LICENSE": "# My Licence\nText"}, "My Licence", ("other", "My Licence", None)),
        ({"README.md": "---\nlicense: mit\n---\n", "LICENSE": "Mine"}, "mit", ("mit", None, None)),
        (
            {"README.md": "---\nlicense: other\nlicense_link: https://x.org\n---\n", "LICENSE": "Mine"},
            "Mine",
            ("other", "Mine", "https://x.org"),
        ),
        ({}, None, (None, None, None)),
    ],
)
def test_the_licence_stands_in_the_file(
    files: dict, named: str | None, wanted: tuple, tiny_model_dir: Path, tmp_path: Path
):
    folder = Path(shutil.copytree(tiny_model_dir, tmp_path / "model"))
    for name, text in files.items():
        (folder / name).write_text(text)
    facts = write_gguf(str(folder), tmp_path / "model.gguf")
    found = fields(tmp_path / "model.gguf")
    keys = ("general.license", "general.license.name", "general.license.link")
    assert tuple(found.get(key) for key in keys) == wanted
    assert facts.licence == named


def test_the_size_of_the_parts_does_not_change_the_file(make_model, tmp_path: Path, monkeypatch):
    source = str(make_model("llama"))
    write_gguf(source, tmp_path / "whole.gguf")
    monkeypatch.setattr(write_module, "CHUNK", 1000)
    write_gguf(source, tmp_path / "parts.gguf")
    assert (tmp_path / "whole.gguf").read_bytes() == (tmp_path / "parts.gguf").read_bytes()


def test_rows_that_are_no_whole_blocks_stay_f16(make_model, tmp_path: Path):
    facts = write_gguf(str(make_model("qwen3", intermediate_size=80)), tmp_path / "model.gguf")
    assert facts.unblocked == ["blk.0.ffn_down.weight", "blk.1.ffn_down.weight"]
    types = {tensor.name: tensor.tensor_type.name for tensor in GGUFReader(tmp_path / "model.gguf").tensors}
    assert types["blk.0.ffn_down.weight"] == "F16" and types["blk.0.ffn_up.weight"] == "Q8_0"
    assert types["blk.0.attn_q_norm.weight"] == "F32"


def damage(folder: Path, how: str) -> None:
    file = folder / "model.safetensors"
    weights = load_file(file)
    if how == "cut":
        file.write_bytes(file.read_bytes()[:-1000])
        return
    if how == "missing":
        del weights["model.norm.weight"]
    elif how == "shape":
        weights["model.norm.weight"] = np.ones(7, np.float32)
    elif how == "unexpected":
        weights["model.extra.weight"] = np.ones(7, np.float32)
    elif how == "dtype":
        weights["model.norm.weight"] = weights["model.norm.weight"].astype(np.int16)
    elif how == "large":
        weights["model.layers.0.mlp.up_proj.weight"][3, 3] = 1e6
    save_file(weights, file, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("cut", "is truncated or damaged"),
        ("missing", r"missing 'model\.norm\.weight' \(32,\)"),
        ("shape", r"'model\.norm\.weight' has shape \(7,\), expected \(32,\)"),
        ("unexpected", r"unexpected 'model\.extra\.weight' \(7,\)"),
        ("dtype", r"'model\.norm\.weight' is stored as int16, expected float32"),
        ("large", r"the tensor 'blk\.0\.ffn_up\.weight' has values that are not finite as F16"),
    ],
)
def test_damaged_weights_are_refused_and_leave_nothing(
    how: str, message: str, tiny_model_dir: Path, tmp_path: Path
):
    folder = tmp_path / "model"
    shutil.copytree(tiny_model_dir, folder)
    damage(folder, how)
    with pytest.raises(ModelError, match=message):
        write_gguf(str(folder), tmp_path / "out" / "model.gguf", dtype="F16")
    assert not list((tmp_path / "out").glob("*")) and not list((tmp_path / "out").glob(".*"))


EMBEDDING = "model.embed_tokens"


@pytest.mark.parametrize(
    ("changes", "own", "message"),
    [
        ({"biases": None}, {}, r"missing 'model\.embed_tokens\.biases' \(320, 2\)"),
        ({}, {"group_size": 64, "bits": 4}, r"tokens\.scales' has shape \(320, 2\), expected \(320, 1\)"),
        ({}, {"group_size": 32, "bits": 8}, r"tokens\.weight' has shape \(320, 8\), expected \(320, 16\)"),
        ({"weight": np.int32}, {}, r"stores '.*tokens\.weight' as I32; expected F32, F16, BF16, U32, U8"),
    ],
)
def test_damaged_packed_weights_are_refused(
    changes: dict, own: dict, message: str, make_model, tmp_path: Path
):
    source, folder = make_model("qwen3"), tmp_path / "packed"
    loaded = load(str(source))
    config = quantize(loaded.model, loaded.config, bits=4, group_size=32)
    config["quantization"] |= {EMBEDDING: own} if own else {}
    save_model(folder, loaded.model, config, source)
    weights = load_file(folder / "model.safetensors")
    for part, dtype in changes.items():
        value = weights.pop(f"{EMBEDDING}.{part}")
        weights |= {f"{EMBEDDING}.{part}": value.astype(dtype)} if dtype else {}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=message):
        write_gguf(str(folder), tmp_path / "model.gguf")
    assert not (tmp_path / "model.gguf").exists()


def test_what_cannot_be_written_is_refused(tiny_model_dir: Path, make_model, adapter: Path, tmp_path: Path):
    out = tmp_path / "model.gguf"
    with pytest.raises(ConfigError, match=r"there is no dtype 'q8_0'.* Did you mean 'Q8_0'\?"):
        write_gguf(str(tiny_model_dir), out, dtype="q8_0")
    with pytest.raises(ModelError, match="is a dense llama4_text model, which"):
        write_gguf(str(copied(make_model("llama"), model_type="llama4_text")), out)
    with pytest.raises(ConfigError, match="an adapter alone cannot be stored as Q8_0"):
        write_gguf_adapter(str(tiny_model_dir), adapter, out, dtype="Q8_0")
    with pytest.raises(ModelError, match="does not fit the model"):
        write_gguf("smidgen:nano", out, adapter=adapter)
    foreign = copied(make_model("qwen3"), quantization_config={"quant_method": "gptq"})
    with pytest.raises(ModelError, match="are quantised by gptq"):
        write_gguf(str(foreign), out)
    assert not out.exists()
