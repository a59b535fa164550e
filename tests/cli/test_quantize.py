import json
from pathlib import Path

import pytest

from smidgen.cli.app import exit_code


def test_the_copy_loads_and_says_how_small_it_is(
    tiny_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "small"
    assert exit_code(["quantize", str(tiny_model_dir), "--out", str(out), "--bits", "8", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["bits"] == 8 and facts["bytes"] < facts["bytes_before"]
    assert json.loads((out / "config.json").read_text())["quantization"]["bits"] == 8


def test_a_folder_of_the_user_is_not_written_over(
    tiny_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "thesis.txt").write_text("years of work")
    assert exit_code(["quantize", str(tiny_model_dir), "--out", str(tmp_path)]) == 2
    assert "Something is there already; name another folder" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_group_size_that_does_not_fit_leaves_nothing(
    tiny_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    arguments = ["quantize", str(tiny_model_dir), "--out", str(tmp_path / "small"), "--group-size", "128"]
    assert exit_code(arguments) == 2
    assert "does not divide" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
