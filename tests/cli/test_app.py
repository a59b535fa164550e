"""Exit codes and sentences: what a user sees when something is wrong."""

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from smidgen.cli import app
from smidgen.errors import DataError, ParseError, WorkError


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("SMIDGEN_DEBUG", raising=False)
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch):
    """A function that makes every command raise the error it is given."""

    def make(error: BaseException) -> None:
        def fail(_: list[str]) -> None:
            raise error

        monkeypatch.setattr(app, "app", fail)

    return make


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("evalute", 'Unknown command "evalute". Did you mean "evaluate"?'),
        ("run", 'Command "run" parameter RECIPE requires an argument. See `smidgen run --help`.'),
        ("run nowhere.toml", "there is no recipe at nowhere.toml; see the folder recipes/ for examples"),
        ("run a.toml b.toml", "Unexpected argument 'b.toml'. See `smidgen run --help`."),
        ("evaluate judge --limit -1", 'Invalid value "-1" for --limit. Must be > 0.'),
        ("evaluate judge --limit many", "Invalid value for --limit: many is not a whole number."),
        ("judge --promt hi", "Unknown option: --promt. Did you mean --prompt? See `smidgen judge --help`."),
        ("judge rows.csv --promt hi", "Unknown option: --promt. Did you mean --prompt?"),
        ("evaluate judge --limt 3", "Unknown option: --limt. Did you mean --limit?"),
        ("evaluate judge --engine mxl", 'Invalid value "mxl" for --engine.'),
        ("generate --prompt hi --temperature -0.5", 'Invalid value "-0.5" for --temperature. Must be >= 0.'),
        ("generate --prompt hi --timeout inf", 'Invalid value "inf" for --timeout. Must be < inf.'),
        (
            "quantize nowhere --out out --bits 7",
            'Invalid value "7" for --bits. Choose from: 2, 3, 4, 5, 6, 8.',
        ),
    ],
)
def test_wrong_input_gets_one_sentence(arguments: str, sentence: str, capsys: pytest.CaptureFixture[str]):
    assert app.exit_code(arguments.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"error: {sentence}")
    assert err.count("\n") == 1


def test_an_unknown_key_of_a_recipe_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "recipe.toml").write_text('name = "a"\n[train]\nepoch = 2\n')
    assert app.exit_code(["run", str(tmp_path / "recipe.toml")]) == 2
    assert "unknown key 'train.epoch'. Did you mean 'epochs'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (DataError("rows.jsonl, line 2 has no 'text'"), 2, "rows.jsonl, line 2 has no 'text'"),
        (WorkError("the loss is not finite"), 1, "the loss is not finite"),
        (ParseError("two\nlines"), 1, "two lines"),
        (
            OSError(28, "No space left on device", "a/b"),
            1,
            "a/b: no space left on device; fix this and run again",
        ),
        (KeyboardInterrupt(), 130, "interrupted"),
        (
            KeyError("x"),
            1,
            "smidgen failed unexpectedly (KeyError: 'x'); set SMIDGEN_DEBUG=1 for the traceback",
        ),
        (
            AssertionError(),
            1,
            "smidgen failed unexpectedly (AssertionError); set SMIDGEN_DEBUG=1 for the traceback",
        ),
    ],
)
def test_every_error_has_its_exit_code(failing, error, code, sentence, capsys: pytest.CaptureFixture[str]):
    failing(error)
    assert app.exit_code([]) == code
    assert capsys.readouterr() == ("", f"error: {sentence}\n")


def test_debugging_shows_the_traceback(failing, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SMIDGEN_DEBUG", "1")
    failing(KeyError("x"))
    with pytest.raises(KeyError):
        app.exit_code([])


def test_a_warning_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    def warn(_: list[str]) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.showwarning = app._show_warning
            warnings.warn("the matrix product\nis slow", RuntimeWarning, stacklevel=1)
            warnings.warn("old name", DeprecationWarning, stacklevel=1)

    monkeypatch.setattr(app, "app", warn)
    assert app.exit_code([]) == 0
    assert capsys.readouterr().err == "warning: the matrix product is slow\n"


def test_main_leaves_with_the_exit_code():
    with pytest.raises(SystemExit) as left:
        app.main(["evalute"])
    assert left.value.code == 2


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]):
    assert app.exit_code(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(f" {command.__name__} " in out for command in app.COMMANDS)


@pytest.mark.parametrize("command", app.COMMANDS, ids=lambda command: command.__name__)
def test_every_command_has_help_and_speaks_json(command, capsys: pytest.CaptureFixture[str]):
    assert app.exit_code([command.__name__, "--help"]) == 0
    assert "--json" in capsys.readouterr().out


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_a_result_that_cannot_be_printed_fails():
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-c", "from smidgen.cli import main; main(['--version'])"],
            stdout=full, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == "error: no space left on device; fix this and run again\n"


def test_a_reader_that_goes_away_is_no_traceback():
    code = "from smidgen.cli import main; main(['--help'])"
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout and process.stderr
    process.stdout.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    process.wait()


@pytest.mark.slow
def test_doctor_prints_one_object(capsys: pytest.CaptureFixture[str]):
    assert app.exit_code(["doctor", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["blas"]["gflops"] > 0 and facts["blas"]["numpy_gflops"] > 0
    assert facts["device"]["kind"] in ("metal", "cuda", "cpu")
