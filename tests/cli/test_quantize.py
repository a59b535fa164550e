import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from smidgen.cli.app import exit_code
from smidgen.data.templates import load_tokenizer
from smidgen.models.load import load
from smidgen.pipeline.calibration_texts import calibration_rows


def test_the_copy_loads_and_says_how_small_it_is(
    tiny_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "small"
    assert exit_code(["quantize", str(tiny_model_dir), "--out", str(out), "--bits", "8", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["bits"] == 8 and facts["bytes"] < facts["bytes_before"]
    assert facts["bits_per_weight_before"] == 32 and 9 < facts["bits_per_weight"] < 11
    assert json.loads((out / "config.json").read_text())["quantization"]["bits"] == 8
    card = (out / "README.md").read_text(encoding="utf-8")
    assert "# small (mlx-8bit)" in card and "**This artefact was not evaluated.**" in card
    assert "smidgen generate --model small" in card and str(tiny_model_dir.parent) not in card


@pytest.mark.parametrize("said", [{}, {"dtype": "bfloat16"}])
def test_the_size_before_is_that_of_the_file_whatever_the_config_says(
    tiny_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], said: dict[str, str]
):
    base, out = tmp_path / "base", tmp_path / "small"
    shutil.copytree(tiny_model_dir, base)
    config = json.loads((base / "config.json").read_text())
    del config["dtype"]
    (base / "config.json").write_text(json.dumps(config | said))
    assert exit_code(["quantize", str(base), "--out", str(out), "--bits", "8", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    for folder, size in ((base, facts["bytes_before"]), (out, facts["bytes"])):
        assert size == sum(value.nbytes for value in load_file(folder / "model.safetensors").values())
    written = json.loads((out / "config.json").read_text())
    assert written["torch_dtype"] == "float32" and "dtype" not in written


def test_a_folder_of_the_user_is_not_written_over(
    tiny_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "thesis.txt").write_text("years of work")
    assert exit_code(["quantize", str(tiny_model_dir), "--out", str(tmp_path)]) == 2
    assert "It already exists; give another folder" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_group_size_that_does_not_fit_leaves_nothing(
    tiny_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    arguments = ["quantize", str(tiny_model_dir), "--out", str(tmp_path / "small"), "--group-size", "128"]
    assert exit_code(arguments) == 2
    assert "does not divide" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_measured_bits_meet_the_target_and_their_table_is_written(
    tiny_model_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.setenv("SMIDGEN_CACHE", str(tmp_path / "cache"))
    rows = tmp_path / "rows.jsonl"
    turns = [
        {"role": "user", "content": "which answer is better?"},
        {"role": "assistant", "content": "first"},
    ]
    rows.write_text(json.dumps({"messages": turns}) + "\n" + json.dumps({"messages": turns[:1]}) + "\n")
    out = tmp_path / "small"
    options = "--target-bits 7 --candidate-bits 2 --candidate-bits 4 --candidate-bits 8 --embedding-bits 8"
    arguments = ["quantize", str(tiny_model_dir), *options.split(), "--calibration", str(rows)]
    assert exit_code([*arguments, "--out", str(out), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    table = json.loads((out / "sensitivity.json").read_text())
    assert 6 < facts["bits_per_weight"] <= 7.0 == table["target_bits"]
    assert table["chosen"]["bytes"] == facts["bytes"]
    saved = json.loads((out / "config.json").read_text())["quantization"]
    for layer in table["layers"]:
        own = saved.get(layer["name"], saved)
        assert own["bits"] == layer["bits"]
        assert set(layer["divergence"]) == (set() if "embed" in layer["name"] else {"2", "4", "8"})
    assert set(table["uniform"]) == {"2", "4", "8"}
    assert load(str(out)).config["quantization"] == saved
    text, page = ((out / f"sensitivity.{end}").read_text() for end in ("md", "html"))
    assert all(layer["name"] in text and layer["name"] in page for layer in table["layers"])
    assert page.count("<rect") == len(table["layers"]) and "<script" not in page

    (record,) = (tmp_path / "cache" / "sensitivity").iterdir()
    before = record.read_bytes()
    arguments[arguments.index("7")] = "8"
    assert exit_code([*arguments, "--out", str(tmp_path / "larger")]) == 0
    assert record.read_bytes() == before, "another target needs no new measurement"


@pytest.mark.parametrize(
    ("row", "match"),
    [
        ({"messages": "hello"}, "line 1: 'messages' is not a list of {role, content}; fix that row"),
        ({"text": None}, "line 1: 'text' is not a text; fix that row"),
        ({"prompt": "p"}, "prompt"),
    ],
)
def test_what_cannot_be_calibrated_on_is_refused(
    tiny_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], row: dict[str, Any], match: str
):
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps(row) + "\n")
    arguments = ["quantize", str(tiny_model_dir), "--out", str(tmp_path / "small"), "--target-bits", "6"]
    assert exit_code([*arguments, "--calibration", str(rows)]) == 2
    assert match in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["rows.jsonl"]


def test_settings_that_contradict_each_other_are_refused(
    tiny_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    arguments = ["quantize", str(tiny_model_dir), "--out", str(tmp_path / "small")]
    assert exit_code([*arguments, "--mode", "mxfp4", "--bits", "4"]) == 2
    assert "--mode is mxfp4, which fixes the bits and the group size of every layer; leave --bits out" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--target-bits 20", "--target-bits is 20.0: input should be less than 16"),
        ("--target-bits 4.5 --bits 4", "--bits and --target-bits each set the bits of every layer"),
        ("--target-bits 15", "--target-bits is 15, but even the widest of --candidate-bits take only"),
        ("--target-bits 1", "raise --target-bits, or add a narrower candidate"),
        ("--head-bits 8", "set --embedding-bits, not --head-bits"),
        ("--group-size 128", "--group-size is 128, which does not divide layers of width"),
    ],
)
def test_errors_name_the_options_and_nothing_is_measured(
    tiny_model_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    options: str,
    message: str,
):
    monkeypatch.setattr("smidgen.models.sensitivity.measure", None)
    arguments = ["quantize", str(tiny_model_dir), "--out", str(tmp_path / "small"), *options.split()]
    assert exit_code(arguments) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_text_and_pairs_are_read_too(tiny_model_dir: Path, tmp_path: Path):
    tokenizer = load_tokenizer(tiny_model_dir)
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"text": "better"}) + "\n" + json.dumps({"text": "answer"}) + "\n")
    encoded = [tokenizer.encode(text) for text in ("better", "answer")]
    assert calibration_rows(str(rows), tokenizer, 1000) == encoded
    assert calibration_rows(str(rows), tokenizer, len(encoded[0]) + 1) == [encoded[0], encoded[1][:1]]
    rows.write_text(json.dumps({"prompt": "p", "a": "yes", "b": "no", "better": "a"}) + "\n")
    found = calibration_rows(str(rows), tokenizer, 10_000)
    assert len(found) == 2, "both orders"
    assert all("yes" in tokenizer.decode(row) for row in found)
    world = calibration_rows("world", tokenizer, 700)
    assert sum(map(len, world)) == 700 and max(map(len, world)) <= 512
