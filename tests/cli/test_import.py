import json
from pathlib import Path

import pytest
from tests.tools.gguf_files import write_file

from smidgen.cli.app import exit_code
from smidgen.models.load import load


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SMIDGEN_CACHE", str(tmp_path / "cache"))
    return write_file(tmp_path / "model.gguf", kind="Q4_1").path


@pytest.mark.slow
def test_a_folder_is_written_and_proven(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    pytest.importorskip("xllamacpp")
    out = tmp_path / "out"
    assert exit_code(["import", "gguf", str(file), "--out", str(out), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["path"] == str(out) and facts["kinds"]["Q4_1"] == 15 and facts["dtype"] == "float16"
    assert facts["verified"]["texts"] == 205 and facts["verified"]["logit_error"] < 0.15
    assert load(str(out)).config["model_type"] == "llama"
    assert exit_code(["import", "gguf", str(file), "--out", str(tmp_path / "said")]) == 0
    said = capsys.readouterr().err
    assert "licence of the model: mit" in said and "splits 205 texts into the same" in said


def test_nothing_is_run_without_a_proof(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    arguments = ["import", "gguf", str(file), "--out", str(tmp_path / "out"), "--no-verify"]
    assert exit_code([*arguments, "--dtype", "bfloat16"]) == 0
    said = capsys.readouterr().err
    assert "of bfloat16, 20 tensors" in said and "not verified" in said


def test_a_folder_that_fails_its_proof_does_not_appear(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    pytest.importorskip("xllamacpp")
    monkeypatch.setattr("smidgen.export.gguf.verify.BLOCK_TOLERANCE", 0.0)
    assert exit_code(["import", "gguf", str(file), "--out", str(tmp_path / "out")]) == 2
    assert "predictions from the file differ from MLX's" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} <= {"model.gguf", "cache"}


def test_a_file_that_is_none_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "model.gguf").write_text("no model" * 100)
    assert exit_code(["import", "gguf", str(tmp_path / "model.gguf"), "--out", str(tmp_path / "out")]) == 2
    assert "model.gguf is not a complete GGUF file" in capsys.readouterr().err


def test_a_file_is_taken_where_a_folder_is(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Inspected, quantised, exported and asked by the engine of folders, straight from the file."""
    commands = [
        ["inspect", str(file), "--check"],
        ["quantize", str(file), "--out", str(tmp_path / "quantized"), "--bits", "8"],
        ["export", "gguf", "--model", str(file), "--out", str(tmp_path / "again.gguf"), "--no-verify"],
        ["generate", "--model", str(file), "--engine", "mlx", "--prompt", "Hi", "--max-tokens", "2"],
    ]
    for command in commands:
        assert exit_code(command) == 0, capsys.readouterr().err
    assert len(list((tmp_path / "cache/imported").iterdir())) == 1
    assert load(str(tmp_path / "quantized")).config["quantization"]["bits"] == 8
