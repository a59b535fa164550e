"""Model folders whose JSON holds what no tool writes: one clear sentence each, whatever opens them."""

import json
import shutil
from pathlib import Path

import pytest

from smidgen.cli.app import exit_code

CONFIGS = [
    ({"quantization": True}, "has 'quantization' = True; expected a table"),
    ({"quantization": {"group_size": 32}}, "has None as 'bits' in 'quantization'"),
    ({"quantization_config": "gptq"}, "has 'quantization_config' = 'gptq'; expected a table"),
    ({"rope_scaling": "linear"}, "'rope_scaling' is 'linear', expected a table"),
    ({"rope_parameters": 3}, "'rope_parameters' is 3, expected a table"),
    ({"model_type": ["qwen3"]}, "has model_type ['qwen3']"),
]
COMMANDS = [
    ["generate", "--model", "MODEL", "--prompt", "x"],
    ["generate", "--model", "MODEL", "--prompt", "x", "--engine", "llama"],
    ["export", "gguf", "--model", "MODEL", "--out", "OUT.gguf"],
    ["export", "fused", "--model", "MODEL", "--out", "OUT"],
    ["quantize", "MODEL", "--out", "OUT"],
]


def run(command: list[str], model: Path, out: Path) -> int:
    places = {"MODEL": str(model), "OUT": str(out), "OUT.gguf": f"{out}.gguf"}
    return exit_code([places.get(word, word) for word in command])


@pytest.fixture
def copy(tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the tiny model, and a cache of its own."""
    monkeypatch.setenv("SMIDGEN_CACHE", str(tmp_path / "cache"))
    return Path(shutil.copytree(tiny_model_dir, tmp_path / "copy"))


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
@pytest.mark.parametrize(("change", "message"), CONFIGS, ids=[str(change) for change, _ in CONFIGS])
def test_an_odd_config_is_refused_in_a_sentence(
    copy: Path, capsys: pytest.CaptureFixture[str], change: dict, message: str, command: list[str]
):
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | change))
    assert run(command, copy, copy.parent / "out") == 2
    assert message in capsys.readouterr().err
    assert not list(copy.parent.glob("out*"))


@pytest.mark.parametrize(("change", "message"), CONFIGS, ids=[str(change) for change, _ in CONFIGS])
def test_a_check_of_an_odd_config_tells_what_is_odd(
    copy: Path, capsys: pytest.CaptureFixture[str], change: dict, message: str
):
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | change))
    assert exit_code(["inspect", str(copy)]) == 2
    assert exit_code(["inspect", str(copy), "--check"]) == (2 if "quantization" in message else 1)
    err = capsys.readouterr().err
    assert message in err and "unexpectedly" not in err


@pytest.mark.parametrize("command", [*COMMANDS, ["inspect", "MODEL"]], ids=" ".join)
def test_an_index_that_names_no_files_is_refused(
    copy: Path, capsys: pytest.CaptureFixture[str], command: list[str]
):
    (copy / "model.safetensors.index.json").write_text('{"weight_map": {"a": 1}}')
    assert run(command, copy, copy.parent / "out") == 2
    assert "is not a readable index of weight files: it has 1 as a file name" in capsys.readouterr().err


def test_rows_without_text_are_refused(copy: Path, capsys: pytest.CaptureFixture[str]):
    settings = json.loads((copy / "tokenizer_config.json").read_text())
    del settings["chat_template"]
    (copy / "tokenizer_config.json").write_text(json.dumps(settings))
    rows, out = copy.parent / "rows.jsonl", copy.parent / "out"
    rows.write_text('{"text": ""}\n')
    measuring = ["quantize", "MODEL", "--out", "OUT", "--target-bits", "5", "--calibration", str(rows)]
    assert run(measuring, copy, out) == 2
    assert "every row of" in capsys.readouterr().err
    rows.write_text('{"messages": [{"role": "user", "content": ""}]}\n')
    comparing = ["export", "fused", "--model", "MODEL", "--out", "OUT", "--prompts", str(rows)]
    assert run(comparing, copy, out) == 2
    assert "prompt 1 has no text to compare the models on; remove it" in capsys.readouterr().err
    assert not out.exists()
