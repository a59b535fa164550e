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


def pairs(path: Path, *extra: dict) -> Path:
    found = [
        {
            "id": f"p{n}",
            "prompt": f"Say {n} {chr(97 + n) * 9}",
            "a": f"{n}1",
            "b": f"{n}2",
            "better": "ab"[n % 2],
        }
        for n in range(4)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in [*found, *extra]))
    return path


def test_a_split_by_values_shows_its_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path, out = rows(tmp_path / "one.jsonl"), tmp_path / "all.jsonl"
    command = ["data", "split", "judge", str(path), "--out", str(out), "--by", "better", "--test", "0.3"]
    assert exit_code(command) == 0
    assert capsys.readouterr().out.split() == ["file", "better", "train", "test", "one", "a", "7", "3"]
    assert exit_code([*command, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["by"] == [{"file": "one", "better": "a", "train": 7, "test": 3}]
    assert shown["rows"] == {"one": {"train": 7, "test": 3}}


def test_a_mix_is_written_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    files, out = [rows(tmp_path / "one.jsonl"), rows(tmp_path / "two.jsonl", 5)], tmp_path / "mix.jsonl"
    command = ["data", "mix", "judge", *map(str, files), "--out", str(out), "--weights", "3", "1"]
    assert exit_code(command) == 0
    assert capsys.readouterr().out.split() == [
        "file",
        "rows",
        "share",
        "one",
        "10",
        "76.9%",
        "two",
        "3",
        "23.1%",
    ]
    assert len(out.read_text().splitlines()) == 13
    assert exit_code([*command, "--rows", "4", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == {"one": 3, "two": 1}
    assert exit_code(["data", "mix", "judge", *map(str, files), "--out", str(out), "--rows", "30"]) == 2
    assert (
        "one.jsonl has 10 rows, but its share of 30 rows is 15; give at most 10 --rows"
        in capsys.readouterr().err
    )


def test_a_check_tells_by_its_exit_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    clean = pairs(tmp_path / "clean.jsonl")
    assert exit_code(["data", "check", str(clean)]) == 0
    shown = capsys.readouterr()
    assert shown.out == "nothing found\n" and "4 rows (pair row, judge)" in shown.err
    bad = pairs(tmp_path / "bad.jsonl", {"id": "e", "prompt": "?", "a": "same", "b": "same", "better": "a"})
    assert exit_code(["data", "check", "judge", str(bad)]) == 1
    shown = capsys.readouterr()
    assert "same answers" in shown.out and "(e)" in shown.out
    assert "the rows have 1 kind of error, listed above" in shown.err
    assert exit_code(["data", "check", "judge", str(clean), "--test", str(clean), "--json"]) == 1
    (report,) = json.loads(capsys.readouterr().out)["reports"]
    assert [(each["kind"], each["ids"]) for each in report["findings"]] == [
        ("leak", ["p0", "p1", "p2", "p3"])
    ]


def test_lengths_are_shown_with_a_model(
    tmp_path: Path, tiny_tokenizer_dir: Path, capsys: pytest.CaptureFixture[str]
):
    path = pairs(tmp_path / "clean.jsonl")
    command = [
        "data",
        "check",
        "judge",
        str(path),
        "--template",
        "verdict",
        "--model",
        str(tiny_tokenizer_dir),
    ]
    assert exit_code([*command, "--max-length", "2000"]) == 0
    assert capsys.readouterr().out.split()[:5] == ["tokens", "median", "95", "%", "longest"]
    assert exit_code([*command, "--max-length", "100"]) == 0  # a cut prompt is a warning
    assert "the prompt loses its beginning to fit max_length = 100" in " ".join(
        capsys.readouterr().out.split()
    )


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "there are no rows to read; name one or more files, or a --recipe"),
        (["judge"], "there are no rows to read; name one or more files, or a --recipe"),
        (["none.jsonl"], "there is no data file at none.jsonl"),
        (["jugde", "none.jsonl"], "there is neither a file nor a task 'jugde'. Did you mean 'judge'?"),
        (["none.jsonl", "--template", "verdict"], "--template is for a task; put its name before the files"),
        (
            ["none.jsonl", "--recipe", "r.toml"],
            "'none.jsonl' does not go with --recipe, which says it itself",
        ),
        (
            ["--recipe", "r.toml", "--form", "f.toml"],
            "--form does not go with --recipe, which says it itself",
        ),
        (
            ["none.jsonl", "--max-length", "9"],
            "--max-length counts tokens, which needs a tokenizer; add --model",
        ),
        (["none.jsonl", "--model", "smidgen:nano", "--max-length", "3"], "max_length"),
    ],
)
def test_what_cannot_be_checked_is_refused(
    capsys: pytest.CaptureFixture[str], arguments: list[str], sentence: str
):
    assert exit_code(["data", "check", *arguments]) == 2
    assert sentence in capsys.readouterr().err


@pytest.fixture
def recipe(tmp_path: Path, tiny_tokenizer_dir: Path) -> Path:
    """A recipe whose training rows have one row that is too long and one with markup."""
    queries = [{"text": f"<b>say {n}</b> ⟨&⟩", "intent": "say it"} for n in range(3)]
    path = tmp_path / "rows.jsonl"
    long = {"text": "cut " * 60, "intent": "say it"}
    path.write_text("".join(json.dumps(row) + "\n" for row in [*queries, long]))
    file = tmp_path / "recipe.toml"
    file.write_text(
        f'name = "r"\ntask = "intent"\n[model]\nbase = "{tiny_tokenizer_dir}"\n'
        f'[data]\ntrain = "{path}"\ntest = "{path}"\n[train]\nmax_length = 96\n'
    )
    return file


def test_rows_are_shown_with_their_loss_mask(recipe: Path, capsys: pytest.CaptureFixture[str]):
    assert exit_code(["data", "show", "--recipe", str(recipe), "--rows", "4"]) == 0
    shown = capsys.readouterr().out
    assert shown.count("⟦say it<|im_end|>⟧") == 4 and shown.count("⟨cut: <|im_start|>user\ncut") == 1
    assert exit_code(["data", "show", "--recipe", str(recipe), "--rows", "4", "--json"]) == 0
    first, *_, last = json.loads(capsys.readouterr().out)
    assert first["tokens"]["cut"] == 0 and first["parts"][-1] == ["learned", "say it<|im_end|>"]
    assert last["tokens"]["context"] + last["tokens"]["learned"] == 96 and last["tokens"]["cut"] > 0


def test_a_page_of_rows_stands_alone_and_escapes_them(recipe: Path, tmp_path: Path):
    out = tmp_path / "page.html"
    assert exit_code(["data", "show", "--recipe", str(recipe), "--rows", "4", "--out", str(out)]) == 0
    page = out.read_text()
    assert "&lt;b&gt;say 0&lt;/b&gt;" in page and "<b>" not in page and "<script" not in page
    assert page.count('<mark class="learned">say it&lt;|im_end|&gt;</mark>') == 4
    assert (
        page.count('<del class="cut">&lt;|im_start|&gt;user') == 1 and "http" not in page.split("<style>")[1]
    )


def test_a_row_that_cannot_be_trained_on_is_shown_as_such(
    tmp_path: Path, tiny_tokenizer_dir: Path, capsys: pytest.CaptureFixture[str]
):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"prompt": "p", "completion": "c\u001b[31m" * 40}) + "\n")
    command = ["data", "show", str(path), "--model", str(tiny_tokenizer_dir)]
    assert exit_code([*command, "--max-length", "20"]) == 0
    assert "cannot be trained on: a completion has" in capsys.readouterr().out
    assert exit_code(command) == 0
    shown = capsys.readouterr().out
    assert "\x1b" not in shown and "c�[31m" in shown
    assert exit_code([*command, "--recipe", "r.toml"]) == 2


def test_colours_replace_the_marks_on_a_terminal():
    from smidgen.cli.data_show import text_of
    from smidgen.pipeline.shown_rows import ShownRow

    row = ShownRow("1", [("context", "p"), ("learned", "c")], {"context": 1, "learned": 1, "cut": 0})
    plain, coloured = text_of(row, in_colour=False), text_of(row, in_colour=True)
    assert plain.plain.endswith("1 context, 1 learned tokens\np⟦c⟧\n")
    assert coloured.plain.endswith("\npc\n")
    assert any(
        span.style == "bold green" and coloured.plain[span.start : span.end] == "c" for span in coloured.spans
    )
