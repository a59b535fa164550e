import json
from pathlib import Path

import pytest

from smidgen.cli.app import exit_code


def rows(path: Path, count: int = 10) -> Path:
    found = [{"prompt": f"Say {n}", "a": "1", "b": "2", "better": "a"} for n in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in found))
    return path


def test_a_split_is_written_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    files, out = [rows(tmp_path / "one.jsonl"), rows(tmp_path / "two.jsonl", 5)], tmp_path / "all.jsonl"
    command = ["data", "split", "judge", *map(str, files), "--out", str(out), "--test", "0.4"]
    assert exit_code(command) == 0
    shown = capsys.readouterr().out.split()
    assert shown == ["file", "train", "test", "one", "6", "4", "two", "3", "2"]
    assert len(out.read_text().splitlines()) == 15
    assert exit_code([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"]["one"] == {"train": 6, "test": 4}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--test", "1"], "--test is 1; expected a fraction between 0 and 1"),
        (["--per-prompt", "0"], 'Invalid value "0" for --per-prompt. Must be > 0'),
        (["--test", "0.01"], "expected at least one on each side. Give more rows, or another --test"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], sentence: str
):
    out = tmp_path / "all.jsonl"
    command = ["data", "split", "judge", str(rows(tmp_path / "one.jsonl")), "--out", str(out), *options]
    assert exit_code(command) == 2
    assert sentence in capsys.readouterr().err
    assert not out.exists()
