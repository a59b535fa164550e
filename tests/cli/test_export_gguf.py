import json
from pathlib import Path

import pytest

from smidgen.cli.app import exit_code

NANO = ["export", "gguf", "--model", "smidgen:nano"]


def test_a_file_is_written_and_proven(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    pytest.importorskip("xllamacpp")
    out = tmp_path / "nano.gguf"
    assert exit_code([*NANO, "--out", str(out), "--modelfile", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["bytes"] == out.stat().st_size and facts["path"] == facts["verified"]["path"] == str(out)
    assert facts["verified"]["end_tokens"] == [3067, 3069] and facts["verified"]["tensors"] == 57
    assert (tmp_path / "nano.Modelfile").read_text().startswith("FROM ./nano.gguf\n")
    assert exit_code([*NANO, "--out", str(out)]) == 2
    assert "Something is there already; name another file" in capsys.readouterr().err


def test_what_was_written_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert exit_code([*NANO, "--out", str(tmp_path / "nano.gguf"), "--no-verify"]) == 0
    said = capsys.readouterr().err
    assert "57 tensors" in said and "licence of the model: apache-2.0" in said and "not verified" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "x.bin"], "x.bin does not end in .gguf"),
        (["--out", "x.gguf", "--adapter-only"], "--adapter-only writes an adapter by itself; name one"),
        (
            ["--out", "x.gguf", "--adapter", ".", "--adapter-only", "--modelfile"],
            "--modelfile is for a whole",
        ),
        (["--out", "x.gguf", "--dtype", "Q2_K"], "Q2_K"),
    ],
)
def test_wrong_options_are_refused(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]):
    assert exit_code([*NANO, *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_file_that_fails_its_proof_does_not_appear(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    pytest.importorskip("xllamacpp")
    from smidgen.export.gguf import verify

    monkeypatch.setattr(verify, "LOGIT_TOLERANCE", {"F32": 0.0})
    assert exit_code([*NANO, "--out", str(tmp_path / "nano.gguf"), "--dtype", "F32"]) == 2
    assert "llama.cpp predicts other tokens" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
