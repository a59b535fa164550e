"""`smidgen judge`: one pair, a file of them, and a file judged through five kills."""

import json
import random
import signal
import time
from collections import Counter
from pathlib import Path

import pytest
from tests.tools import processes

from smidgen.cli.app import exit_code

ONE = ["--prompt", "1 + 1?", "--a", "2", "--b", "3"]


def pairs_file(path: Path, number: int) -> str:
    rows = [{"id": f"p{n}", "prompt": f"{n} + 1?", "a": f"{n + 1}", "b": f"{n}"} for n in range(number)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_one_pair(tiny_model_dir: Path, capsys: pytest.CaptureFixture[str]):
    arguments = ["judge", *ONE, "--model", str(tiny_model_dir), "--max-tokens", "4"]
    assert exit_code([*arguments, "--template", "verdict", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["verdict"], found["consistent"], found["judgements"]) == (None, False, 2)
    assert [said["order"] for said in found["said"]] == ["ab", "ba"]
    assert exit_code([*arguments, "--samples", "3", "--temperature", "0.7"]) == 0
    out, err = capsys.readouterr()
    assert out == "no verdict\n" and "6 judgements" in err


@pytest.mark.parametrize(
    ("said", "headline"),
    [
        ("AA", "the judgements contradict each other, so neither counts as better"),
        ("AB", "A is better"),
        ("CC", "neither is better"),
    ],
)
def test_a_contradiction_is_not_called_a_tie(
    said: str, headline: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    recording = tmp_path / "said.jsonl"
    rows = [{"id": f"0#{order}#0", "text": f"[[{x}]]"} for order, x in zip(("ab", "ba"), said, strict=True)]
    recording.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert exit_code(["judge", *ONE, "--model", str(recording), "--template", "verdict"]) == 0
    assert capsys.readouterr().out == f"{headline}\n"


def test_one_pair_is_streamed_with_the_same_result(tiny_model_dir: Path, capsys: pytest.CaptureFixture[str]):
    arguments = ["judge", *ONE, "--model", str(tiny_model_dir), "--max-tokens", "6", "--template", "verdict"]
    assert exit_code([*arguments, "--json"]) == 0
    whole = json.loads(capsys.readouterr().out)
    assert exit_code([*arguments, "--stream"]) == 0
    *pieces, streamed = map(json.loads, capsys.readouterr().out.splitlines())
    assert [piece["order"] for piece in pieces] == sorted(piece["order"] for piece in pieces)
    for said in streamed["said"]:
        assert said["text"] == "".join(p["text"] for p in pieces if p["order"] == said["order"])
    assert streamed | {"seconds": 0} == whole | {"seconds": 0}


@pytest.mark.parametrize(
    ("more", "what"),
    [(["x.jsonl", "--out", "y.jsonl"], "a file of pairs"), ([*ONE, "--also", "z"], "several")],
)
def test_only_one_pair_and_one_judge_are_streamed(
    more: list[str], what: str, capsys: pytest.CaptureFixture[str]
):
    assert exit_code(["judge", *more, "--stream"]) == 2
    assert f"--stream shows one pair and one judge, but {what}" in capsys.readouterr().err


def test_a_file_is_judged_once_and_goes_on(
    tiny_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    file, out = pairs_file(tmp_path / "pairs.jsonl", 5), tmp_path / "said.jsonl"
    arguments = [
        "judge",
        file,
        "--out",
        str(out),
        "--model",
        str(tiny_model_dir),
        "--max-tokens",
        "4",
        "--json",
    ]
    assert exit_code(arguments) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["pairs"], result["judgements"], result["unparsed"]) == (5, 10, 10)
    whole = out.read_bytes()
    out.write_bytes(whole[: len(whole) // 2])
    assert exit_code(arguments) == 0
    ids = [json.loads(line)["id"] for line in out.read_text().splitlines()]
    assert sorted(ids) == sorted(f"p{n}#{order}" for n in range(5) for order in ("ab", "ba"))
    verdicts = [json.loads(line) for line in (tmp_path / "said.pairs.jsonl").read_text().splitlines()]
    assert [row["id"] for row in verdicts] == [f"p{n}" for n in range(5)]
    capsys.readouterr()
    assert exit_code(["evaluate", "judge", "--engine", "replay", "--model", str(out), "--data", file]) == 2
    assert "get verdicts with `smidgen judge`" in capsys.readouterr().err
    assert exit_code([*arguments, "--template", "scores"]) == 2
    assert "contains the records of another evaluation" in capsys.readouterr().err


def test_several_samples_of_each_order(tiny_model_dir: Path, tmp_path: Path):
    out = tmp_path / "said.jsonl"
    arguments = ["judge", pairs_file(tmp_path / "pairs.jsonl", 2), "--out", str(out), "--max-tokens", "6"]
    arguments += ["--model", str(tiny_model_dir), "--samples", "3", "--temperature", "1.0"]
    assert exit_code(arguments) == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert Counter(row["id"][:5] for row in rows) == {"p0#ab": 3, "p0#ba": 3, "p1#ab": 3, "p1#ba": 3}
    assert len({row["text"] for row in rows}) > 6


@pytest.mark.slow
def test_kills_lose_and_double_nothing(tiny_model_dir: Path, tmp_path: Path):
    file, out = pairs_file(tmp_path / "pairs.jsonl", 100), tmp_path / "said.jsonl"
    command = ["judge", file, "--out", str(out), "--concurrency", "4"]
    command += ["--model", str(tiny_model_dir), "--max-tokens", "8"]
    moments = random.Random(0)
    for kill in range(3):
        wanted = min(180, 5 + 50 * kill + moments.randrange(50))
        child = processes.smidgen(command)
        while child.is_alive() and (not out.exists() or out.read_bytes().count(b"\n") < wanted):
            time.sleep(0.005)
        child.kill()
        child.join()
        assert child.exitcode == -signal.SIGKILL
    assert out.read_bytes().count(b"\n") < 200
    assert exit_code(command) == 0
    ids = Counter(json.loads(line)["id"] for line in out.read_text().splitlines())
    assert len(ids) == 200 and set(ids.values()) == {1}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "give --prompt, --a and --b to judge one pair, or a file of pairs"),
        (ONE[:4], "give --prompt, --a and --b to judge one pair"),
        ([*ONE, "--out", "x.jsonl"], "--out applies only to a file of pairs"),
        ([*ONE, "--reference"], "--reference applies only to a file of pairs"),
        ([*ONE, "--samples", "2"], "2 samples at temperature 0 would all be equal"),
        ([*ONE, "--template", "grade"], "the template grade grades single answers"),
        (["pairs.jsonl"], "no output file is given for the judgements of pairs.jsonl; give one, as --out"),
        (["pairs.jsonl", *ONE], "both a file of pairs and one pair are given"),
        (["pairs.jsonl", "--out", "x.jsonl"], "there is no data file at pairs.jsonl"),
        (
            ["pairs.jsonl", "--out", "x.jsonl", "--template", "grade"],
            "the template grade grades single answers",
        ),
        (["--prompt", " ", "--a", "x", "--b", "y"], "the prompt is empty"),
    ],
)
def test_wrong_uses(
    arguments: list[str], said: str, tiny_model_dir: Path, capsys: pytest.CaptureFixture[str]
):
    assert exit_code(["judge", *arguments, "--model", str(tiny_model_dir)]) == 2
    assert said in capsys.readouterr().err
