import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from smidgen.backend import mx
from smidgen.cli.app import exit_code
from smidgen.cli.inspect import tokenizer_facts, weight_facts
from smidgen.data.templates import load_tokenizer
from smidgen.models.load import resolve


def test_parts_add_up_to_the_parameters_of_the_model(tiny_model_dir: Path):
    facts = weight_facts(tiny_model_dir)
    width, inner = 32, 64
    assert facts["parameters"] == {
        "embedding": 320 * width,
        "attention": 2 * 3 * width * width,
        "mlp": 2 * 3 * width * inner,
        "norms": 2 * (2 * width + 2 * 8) + width,
        "head": 0,
        "other": 0,
        "total": facts["parameters"]["total"],
    }
    assert facts["parameters"]["total"] == sum(facts["parameters"].values()) - facts["parameters"]["total"]
    assert facts["bits"] == {"32": facts["parameters"]["total"]}
    assert facts["tied_head"] and facts["context"] == 512 and facts["architecture"] == "qwen3"


def test_quantising_changes_bits_but_no_parameter(tiny_model_dir: Path, tmp_path: Path):
    out = tmp_path / "small"
    assert exit_code(["quantize", str(tiny_model_dir), "--out", str(out), "--bits", "4"]) == 0
    before, after = weight_facts(tiny_model_dir), weight_facts(out)
    assert after["parameters"] == before["parameters"]
    assert after["bits"] == {"4": before["parameters"]["total"] - before["parameters"]["norms"], "32": 192}
    assert after["size_bytes"] < before["size_bytes"] / 3


def test_a_layer_of_its_own_bits_is_counted_so(tmp_path: Path):
    weights = {}
    for name, bits, group_size in (("model.layers.0.mlp.up_proj", 4, 32), ("model.embed_tokens", 8, 64)):
        weight, scales, biases = mx.quantize(mx.ones((8, 64)), group_size=group_size, bits=bits)
        weights |= {f"{name}.weight": weight, f"{name}.scales": scales, f"{name}.biases": biases}
    mx.save_safetensors(str(tmp_path / "model.safetensors"), weights)
    quantization = {"bits": 4, "group_size": 32, "model.embed_tokens": {"bits": 8, "group_size": 64}}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen3", "quantization": quantization}))
    facts = weight_facts(tmp_path)
    assert facts["bits"] == {"4": 512, "8": 512}
    assert (facts["parameters"]["mlp"], facts["parameters"]["embedding"]) == (512, 512)


def test_the_tokenizer_says_how_it_ends_and_whether_it_thinks(make_tokenizer_dir: Callable[..., Path]):
    facts = tokenizer_facts(load_tokenizer(make_tokenizer_dir()))
    assert facts["chat_template"] and facts["thinking_switch"]
    assert {"id": 2, "text": "<|im_end|>"} in facts["end_tokens"]
    plain = tokenizer_facts(load_tokenizer(make_tokenizer_dir(template=None)))
    assert not plain["chat_template"] and not plain["thinking_switch"]


def test_json_is_one_object(tiny_model_dir: Path, capsys: pytest.CaptureFixture[str]):
    assert exit_code(["inspect", str(tiny_model_dir), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["model"] == str(tiny_model_dir)


def test_the_table_names_the_parts(tiny_model_dir: Path, capsys: pytest.CaptureFixture[str]):
    assert exit_code(["inspect", str(tiny_model_dir)]) == 0
    out = capsys.readouterr().out
    assert "qwen3, 2 layers" in out and "10,240" in out and "100.0%" in out


def test_a_quantised_layer_without_a_group_size_is_refused(
    tiny_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "small"
    assert exit_code(["quantize", str(tiny_model_dir), "--out", str(out)]) == 0
    config = json.loads((out / "config.json").read_text())
    del config["quantization"]
    (out / "config.json").write_text(json.dumps(config))
    capsys.readouterr()
    assert exit_code(["inspect", str(out)]) == 2
    assert "is quantised, but config.json has no group_size" in capsys.readouterr().err


def test_a_damaged_file_is_refused(tiny_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for file in tiny_model_dir.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert exit_code(["inspect", str(tmp_path)]) == 2
    assert "model.safetensors is truncated or damaged" in capsys.readouterr().err


def test_a_model_that_cannot_be_run_is_shown_with_the_reason(
    tiny_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    folder = tmp_path / "model"
    shutil.copytree(tiny_model_dir, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"use_magic": 3}))
    assert exit_code(["inspect", str(folder), "--json"]) == 0
    assert "unknown key 'use_magic'" in json.loads(capsys.readouterr().out)["refused"]
    assert exit_code(["inspect", str(folder)]) == 0
    assert "this model cannot be run: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"num_attention_heads": 0}, "num_attention_heads|do not define a qwen3 model"),
        ({"num_hidden_layers": 3}, "layers.2"),
        ({"rope_scaling": {"rope_type": "odd"}}, "of the kind 'odd'"),
        ({"quantization_config": {"quant_method": "gptq"}}, "gptq"),
    ],
)
def test_what_cannot_be_run_is_said(change: dict, why: str, tiny_model_dir: Path, tmp_path: Path):
    folder = tmp_path / "odd"
    shutil.copytree(tiny_model_dir, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))
    assert re.search(why, weight_facts(folder)["refused"])
    assert weight_facts(tiny_model_dir)["refused"] is None


def test_no_weights_are_read_to_say_whether_a_model_can_be_run():
    path = resolve("smidgen:nano")
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    facts = weight_facts(path)
    assert facts["refused"] is None
    assert mx.get_peak_memory() - before < facts["size_bytes"] / 10


def test_a_check_shows_every_tensor(tiny_model_dir: Path, capsys: pytest.CaptureFixture[str]):
    assert exit_code(["inspect", str(tiny_model_dir), "--check"]) == 0
    out, err = capsys.readouterr()
    assert "swiglu (down_proj, gate_proj, up_proj)" in out and "tied to the embedding" in out
    assert re.search(r"model\.layers\.1\.mlp\.up_proj\.weight +64 × 32 +float32( +-?[0-9.e-]+){4} +0", out)
    assert err == ""


def test_a_check_says_what_is_wrong_and_fails(
    tiny_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    folder = tmp_path / "wrong"
    shutil.copytree(tiny_model_dir, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 1, "dtype": "float16"}))
    assert exit_code(["inspect", str(folder), "--check"]) == 1
    err = capsys.readouterr().err
    assert "note: 24 of 24 tensors are stored in float32, but config.json declares float16" in err
    assert "problem: unexpected 'model.layers.1.mlp.up_proj.weight' (64, 32)" in err
    assert err.endswith(f"error: {folder} has 11 problems; download or convert it again\n")
    assert exit_code(["inspect", str(folder), "--check", "--json"]) == 1
    facts = json.loads(capsys.readouterr().out)
    assert len(facts["faults"]) == 11 and len(facts["tensors"]) == 24
    assert facts["mlp"] == "swiglu" and facts["tensors"][0]["shape"] == [320, 32]


def test_the_licence_is_shown(tiny_model_dir: Path, capsys: pytest.CaptureFixture[str]):
    for model, licence in ((str(tiny_model_dir), "not declared"), ("smidgen:nano", "apache-2.0")):
        assert exit_code(["inspect", model]) == 0
        assert re.search(rf"licence +{licence}", capsys.readouterr().out)
