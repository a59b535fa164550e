"""Ensembles on the command line: calibrated by `evaluate judge`, used by `judge`."""

import json
from pathlib import Path

import pytest
from tests.tools.judge_recordings import judge_of, pair_rows, record, write_rows

from smidgen.cli.app import exit_code

PAIRS = pair_rows(120)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    """Labelled pairs, and the recordings of two judges."""
    said = {
        f"judge{n}": record(tmp_path / f"said-{n}.jsonl", PAIRS, judge_of(0.9, n, steady=0.8)) for n in (1, 2)
    }
    return {"pairs": write_rows(tmp_path / "pairs.jsonl", PAIRS), **said}


def evaluate(files: dict[str, str], *options: str) -> int:
    return exit_code(
        [
            "evaluate",
            "judge",
            "--template",
            "verdict",
            "--model",
            files["judge1"],
            "--data",
            files["pairs"],
            *options,
        ]
    )


@pytest.mark.slow
def test_an_ensemble_is_calibrated_evaluated_and_used(
    files: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "out"
    options = ["--also", files["judge2"], "--combine", "mean", "--calibrate", "0.7", "--risk", "0.15"]
    assert evaluate(files, *options, "--out", str(out)) == 0
    printed = capsys.readouterr()
    assert "pair_accuracy" in printed.out and "coverage" in printed.out
    assert "ensemble: with probability 0.9, at most 0.15 of the verdicts" in printed.err
    assert "its threshold was chosen on other pairs" in printed.err
    assert "<polygon" in (out / "report.html").read_text()

    assert evaluate(files, "--out", str(out)) == 2
    assert "has the evaluation of an ensemble, and this one asks a single judge" in capsys.readouterr().err
    assert exit_code(["compare", str(out), str(out)]) == 2
    assert "evaluates an ensemble, and its report compares it" in capsys.readouterr().err
    for name in ("evaluation.json", "report.html", "ensemble.json"):  # as if it had been interrupted
        (out / name).unlink()
    assert evaluate(files, *options, "--out", str(out)) == 0

    verdicts = tmp_path / "verdicts.jsonl"
    arguments = ["judge", files["pairs"], "--out", str(verdicts), "--ensemble", str(out / "ensemble.json")]
    capsys.readouterr()
    assert exit_code([*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["pairs"] == 120 and found["judgements"] == 480 and 0 < found["verdicts"]["unsure"] < 60
    assert exit_code(arguments) == 0  # all is known already
    assert "unsure" in capsys.readouterr().out
    again = [
        "evaluate",
        "judge",
        "--data",
        files["pairs"],
        "--ensemble",
        str(out / "ensemble.json"),
        "--json",
    ]
    assert exit_code(again) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["metrics"]["coverage"]["n"] == 36
    assert "ensemble: 84 pairs were calibrated on and are left out" in printed.err


def test_a_calibration_file(files: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    used = write_rows(tmp_path / "used.jsonl", PAIRS[:80])
    files["pairs"] = write_rows(tmp_path / "others.jsonl", PAIRS[80:])
    assert evaluate(files, "--calibrate", used, "--risk", "0.2", "--json") == 0
    assert json.loads(capsys.readouterr().out)["metrics"]["coverage"]["n"] == 40
    assert evaluate(files, "--calibrate", files["pairs"], "--risk", "0.2") == 2
    assert "40 prompts of" in capsys.readouterr().err


def test_several_judges_of_one_pair(tiny_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    rows = [{"id": f"0#{order}#0", "text": f"[[{x}]]"} for order, x in (("ab", "A"), ("ba", "B"))]
    recording = write_rows(tmp_path / "one.jsonl", rows)
    arguments = [
        "judge",
        "--prompt",
        "q",
        "--a",
        "x",
        "--b",
        "y",
        "--template",
        "verdict",
        "--max-tokens",
        "3",
    ]
    arguments += ["--model", recording, "--also", str(tiny_model_dir)]
    assert exit_code(arguments) == 0
    out, err = capsys.readouterr()
    assert out == "A is better\n" and "leaning: A is better, with confidence 0.500" in err
    assert "judge 2" in err and "4 judgements, not all agree" in err
    assert exit_code([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["leaning"] == "a"


def test_options_of_servers_are_not_for_local_judges():
    from smidgen.cli.ensemble import judges_of
    from smidgen.options import EngineOptions

    engine = EngineOptions("http://h:1/v1", model_name="m", api_key_env="KEY", timeout=5.0)
    server, local = judges_of(engine, ["smidgen:nano"])
    assert (server, local) == (engine, EngineOptions("smidgen:nano"))
    alone, _ = judges_of(EngineOptions("one", timeout=5.0), ["two"])
    assert alone.timeout == 5.0, "without a server it is refused when the model is opened"


def test_an_adapter_stands_after_a_plus(tmp_path: Path):
    from smidgen.cli.ensemble import judges_of
    from smidgen.options import EngineOptions

    odd = tmp_path / "model+name"
    odd.mkdir()
    found = judges_of(EngineOptions("m", adapter=Path("x")), ["m+runs/y", "z", str(odd), "http://h:1/v1+a"])
    assert [(judge.model, judge.adapter) for judge in found] == [
        ("m", Path("x")),
        ("m", Path("runs/y")),
        ("z", None),
        (str(odd), None),
        ("http://h:1/v1+a", None),
    ]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--also", "JUDGE1"], "is named twice and would say the same twice"),
        (["--risk", "0.1"], "a risk is chosen on calibration rows, and there are none"),
        (["--samples", "2"], "2 samples at temperature 0 would all be equal"),
        (["--risk", "0.1", "--calibrate", "1.5"], "the calibration share is 1.5"),
        (["--risk", "0.1", "--calibrate", "0.5", "--constrained"], "--constrained does not apply"),
        (["--ensemble", "x.json"], "--model does not apply to x.json"),
        (["--ensemble", "x.json", "--risk", "0.2"], "--risk does not apply to x.json"),
        (["--delta", "0.2"], "--delta needs --risk"),
    ],
)
def test_wrong_uses(options: list[str], said: str, files: dict[str, str], capsys: pytest.CaptureFixture[str]):
    assert evaluate(files, *[files["judge1"] if option == "JUDGE1" else option for option in options]) == 2
    assert said in capsys.readouterr().err


ONE = ["judge", "--prompt", "q", "--a", "x", "--b", "y", "--ensemble", "x.json"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["evaluate", "intent", "--samples", "2"], "--samples applies only to the task judge, not to intent"),
        (["evaluate", "judge", "--ensemble", "x.json"], "there is no ensemble at x.json"),
        (["evaluate", "judge", "--ensemble", "x.json", "--seed", "3"], "--seed does not apply to x.json"),
        (ONE, "no ensemble at x.json"),
        ([*ONE, "--template", "verdict"], "--template does not apply to x.json, which says how its judges"),
    ],
)
def test_wrong_uses_of_a_file(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]):
    assert exit_code(arguments) == 2
    assert said in capsys.readouterr().err
