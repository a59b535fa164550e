import json
from pathlib import Path
from typing import Any

import pytest

from smidgen.cli.app import exit_code

NANO = ["export", "gguf", "--model", "smidgen:nano"]


@pytest.mark.slow
def test_a_file_is_written_and_proven(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    pytest.importorskip("xllamacpp")
    out = tmp_path / "nano.gguf"
    assert exit_code([*NANO, "--out", str(out), "--modelfile", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["bytes"] == out.stat().st_size and facts["path"] == facts["verified"]["path"] == str(out)
    assert facts["verified"]["end_tokens"] == [3067, 3069] and facts["verified"]["tensors"] == 57
    assert (tmp_path / "nano.Modelfile").read_text().startswith("FROM ./nano.gguf\n")
    assert exit_code([*NANO, "--out", str(out)]) == 2
    assert "It already exists; give another name" in capsys.readouterr().err


def test_a_modelfile_that_stands_there_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "nano.Modelfile").write_text("FROM ./mine\n")
    arguments = [*NANO, "--out", str(tmp_path / "nano.gguf"), "--modelfile", "--no-verify"]
    assert exit_code(arguments) == 2
    assert "nano.Modelfile already exists; remove it, or give another file" in capsys.readouterr().err
    assert [file.read_text() for file in tmp_path.iterdir()] == ["FROM ./mine\n"]


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
def test_a_folder_holds_the_file_and_its_card(hub: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "judge"
    arguments = [*NANO, "--out", str(out), "--modelfile", "--no-verify", "--push", "me/judge", "--json"]
    assert exit_code(arguments) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["path"] == str(out / "judge-q8_0.gguf") and facts["url"] == f"{hub.url}/me/judge"
    assert facts["modelfile"] == str(out / "judge-q8_0.Modelfile")
    names = {"judge-q8_0.gguf", "judge-q8_0.Modelfile", "README.md"}
    assert {file.name for file in out.iterdir()} == names == {name for _, name in hub.files}
    card = (out / "README.md").read_text(encoding="utf-8")
    assert (
        "model_name: judge (gguf-q8_0)" in card and "ollama create specialist -f judge-q8_0.Modelfile" in card
    )
    assert "hf download me/judge --local-dir .\nllama-cli -m judge-q8_0.gguf" in card


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "is_far"), [("Q8_0", False), ("Q4_0", True)])
def test_what_its_type_loses_is_said_and_stands_in_the_card(
    dtype: str, is_far: bool, tiny_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    pytest.importorskip("xllamacpp")
    tiny = ["export", "gguf", "--model", str(tiny_model_dir), "--dtype", dtype]
    assert exit_code([*tiny, "--out", str(tmp_path / "judge")]) == 0
    said = capsys.readouterr().err
    assert (f"warning: {dtype} changes the next-token distributions by" in said) == is_far
    assert ("Evaluate this file before you use it" in said) == is_far
    (drift,) = (line for line in said.splitlines() if line.startswith("drift from the original model, "))
    figures = drift.partition(", ")[2]
    assert figures.startswith("on 2 texts of smidgen's own: ") and figures.endswith(" nats on average")
    assert figures in (tmp_path / "judge/README.md").read_text(encoding="utf-8")
    assert exit_code([*tiny, "--out", str(tmp_path / "judge.gguf")]) == 0
    assert drift in capsys.readouterr().err.splitlines()


def test_what_was_written_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert exit_code([*NANO, "--out", str(tmp_path / "nano.gguf"), "--no-verify"]) == 0
    said = capsys.readouterr().err
    assert "57 tensors" in said and "model licence: apache-2.0" in said and "not verified" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "x.gguf", "--push", "me/judge"], "a model card needs a folder, and x.gguf is a file"),
        (["--out", "x.bin", "--adapter", ".", "--adapter-only"], "x.bin does not end in .gguf; give FILE"),
        (["--out", "x.gguf", "--adapter-only"], "--adapter-only exports an adapter without its model; give"),
        (
            ["--out", "x.gguf", "--adapter", ".", "--adapter-only", "--modelfile"],
            "--modelfile requires a whole model",
        ),
        (["--out", "x.gguf", "--dtype", "Q2_K"], "Q2_K"),
    ],
)
def test_wrong_options_are_refused(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]):
    assert exit_code([*NANO, *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_file_that_fails_its_proof_does_not_appear(
    tiny_model_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    pytest.importorskip("xllamacpp")
    from smidgen.export.gguf import verify

    monkeypatch.setattr(verify, "LOGIT_TOLERANCE", {"F32": 0.0})
    tiny = ["export", "gguf", "--model", str(tiny_model_dir), "--dtype", "F32"]
    assert exit_code([*tiny, "--out", str(tmp_path / "tiny.gguf")]) == 2
    assert "llama.cpp's predictions from the file differ" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
