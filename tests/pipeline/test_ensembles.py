"""Ensembles evaluated: one judge alone, several, resumed, calibrated apart from what is reported."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.tools.judge_recordings import judge_of, letter, pair_rows, record, write_rows

from smidgen.config import Prices
from smidgen.data.types import Sampling
from smidgen.errors import ConfigError, DataError
from smidgen.options import EngineOptions
from smidgen.pipeline.ensemble_plan import EnsemblePlan, refuse_shared_prompts, share_of_rows
from smidgen.pipeline.ensembles import evaluate_ensemble
from smidgen.pipeline.events import MessageEvent, result_of
from smidgen.pipeline.one_evaluation import evaluate_rows
from smidgen.pipeline.sources import EvaluationRows
from smidgen.tasks import find_task
from smidgen.tasks.judge.saved_ensemble import read_ensemble

PAIRS = pair_rows(120)


def read(path: Path, rows: list[dict[str, Any]] = PAIRS, template: str = "verdict") -> EvaluationRows:
    return EvaluationRows.read(find_task("judge", {"template": template}), write_rows(path, rows))


def judges(tmp_path: Path, *accuracies: float, samples: int = 1) -> list[EngineOptions]:
    return [
        EngineOptions(record(tmp_path / f"said-{n}.jsonl", PAIRS, judge_of(accuracy, n), samples))
        for n, accuracy in enumerate(accuracies)
    ]


def evaluated(rows: EvaluationRows, plan: EnsemblePlan, folder: Path, used=None, **sampling: Any) -> dict:
    work = evaluate_ensemble(rows, used, plan, Sampling(**sampling), folder, prices=Prices())
    return result_of(work)["after"]


def without_times(result: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in result.items() if name not in ("speed", "cost")}


@pytest.mark.parametrize("template", ["verdict", "rubric"])
def test_one_judge_asked_once_is_that_judge(template: str, tmp_path: Path):
    rows = read(tmp_path / "pairs.jsonl", template=template)
    if template == "verdict":
        (engine,) = judges(tmp_path, 0.8)
    else:
        scores, said = {"[[A]]": "8, 3", "[[B]]": "2, 9"}, judge_of(0.8)
        path = tmp_path / "said.jsonl"
        engine = EngineOptions(
            record(path, PAIRS, lambda *asked: f"<scores>\\boxed{{{scores[said(*asked)]}}}</scores>")
        )
    plain = result_of(evaluate_rows(rows, Sampling(), tmp_path / "plain", engine, prices=Prices()))["after"]
    found = evaluated(rows, EnsemblePlan([engine]), tmp_path / "one")
    assert {name: found["metrics"][name] for name in plain["metrics"]} == plain["metrics"]
    assert found["subsets"] == plain["subsets"] and found["baselines"] == plain["baselines"]
    assert found["details"] == plain["details"] and found["calibration"] == plain["calibration"]
    assert found["metrics"]["pair_accuracy"] == found["ensemble"]["judges"][0]["pair_accuracy"]
    if template == "verdict":  # with scores, a lone judge is as confident as the gap between them
        assert found["abstention"] == plain["abstention"]
    alone = (tmp_path / "plain/records.jsonl").read_text()
    assert (tmp_path / "one/judge-1/records.jsonl").read_text().count("\n") == alone.count("\n")


def test_a_model_at_temperature_0_answers_as_the_plain_judge(tiny_model_dir: Path, tmp_path: Path):
    rows, engine = read(tmp_path / "pairs.jsonl", PAIRS[:4]), EngineOptions(str(tiny_model_dir))
    result_of(evaluate_rows(rows, Sampling(6), tmp_path / "plain", engine, prices=Prices()))
    evaluated(rows, EnsemblePlan([engine]), tmp_path / "one", max_tokens=6)
    lines = [
        {
            (row["id"], row["text"], row["fingerprint"])
            for row in map(json.loads, path.read_text().splitlines())
        }
        for path in (tmp_path / "plain/records.jsonl", tmp_path / "one/judge-1/records.jsonl")
    ]
    assert lines[0] == lines[1] and len(lines[0]) == 8


def test_three_judges_are_better_than_each_and_their_order_does_not_matter(tmp_path: Path):
    rows, three = read(tmp_path / "pairs.jsonl"), judges(tmp_path, 0.75, 0.8, 0.7)
    found = evaluated(rows, EnsemblePlan(three), tmp_path / "three")
    alone = [judge["pair_accuracy"]["value"] for judge in found["ensemble"]["judges"]]
    assert found["metrics"]["pair_accuracy"]["value"] > max(alone)
    assert found["n"] == 720 and found["metrics"]["accuracy_both_orders"]["n"] == 120
    page = (tmp_path / "three/report.html").read_text()
    assert "<h2>Judges</h2>" in page and "When it is sure" in page
    other = evaluated(rows, EnsemblePlan(three[::-1]), tmp_path / "reversed")
    assert other["metrics"] == found["metrics"] and other["abstention"] == found["abstention"]


def test_what_does_not_parse_is_counted_and_votes_for_nobody(tmp_path: Path):
    rows = read(tmp_path / "pairs.jsonl")

    def said(row: dict[str, Any], order: str, time: int) -> str:
        return "no idea" if time == 1 else letter(row, order, row["better"])

    engine = EngineOptions(record(tmp_path / "said.jsonl", PAIRS, said, samples=2))
    found = evaluated(rows, EnsemblePlan([engine], samples=2), tmp_path / "out", temperature=0.7)
    metrics = found["metrics"]
    assert metrics["accuracy"]["value"] == metrics["pair_accuracy"]["value"] == 1.0
    assert (metrics["unparsed_rate"]["value"], metrics["unparsed_rate"]["n"]) == (0.5, 480)
    assert found["details"]["unparsed"] == {"no verdict": 240}
    (once,) = found["ensemble"]["judges"]
    assert (once["samples"], once["pair_accuracy"]["value"], once["difference"]["value"]) == (1, 0.0, 1.0)
    assert [point["threshold"] for point in found["abstention"]["points"]] == [0.5]


def test_resumed_equals_uninterrupted(tiny_model_dir: Path, tmp_path: Path):
    """Two judges and a calibration file, cut in the middle of the second judge; samples are drawn."""
    rows, used = read(tmp_path / "pairs.jsonl", PAIRS[:3]), read(tmp_path / "used.jsonl", PAIRS[3:6])
    plan = EnsemblePlan(
        [EngineOptions(str(tiny_model_dir)), EngineOptions(str(tiny_model_dir), thinking=True)],
        samples=2,
        risk=0.3,
    )
    settings = {"temperature": 1.0, "max_tokens": 5}
    whole = evaluated(rows, plan, tmp_path / "whole", used, **settings)
    part = tmp_path / "part"
    evaluated(rows, plan, part, used, **settings)
    for file in ("judge-2/records.jsonl", "judge-2/calibration.jsonl"):
        data = (part / file).read_bytes()
        (part / file).write_bytes(data[: len(data) // 2])
    (part / "judge-1/calibration.jsonl").unlink()
    (part / "evaluation.json").unlink()
    assert without_times(evaluated(rows, plan, part, used, **settings)) == without_times(whole)
    assert (part / "ensemble.json").read_bytes() == (tmp_path / "whole/ensemble.json").read_bytes()
    texts = [json.loads(line)["text"] for line in (part / "judge-1/records.jsonl").read_text().splitlines()]
    assert len(texts) == 12 and len(set(texts)) > 6


@pytest.mark.parametrize("combine", ["majority", "mean"])
def test_a_calibrated_ensemble_abstains_on_other_rows(combine: str, tmp_path: Path):
    rows, used = share_of_rows(read(tmp_path / "pairs.jsonl"), 0.7, seed=0)
    plan = EnsemblePlan(judges(tmp_path, 0.9, 0.85), combine=combine, risk=0.15)  # type: ignore[arg-type]
    work = evaluate_ensemble(rows, used, plan, Sampling(), tmp_path / "out", prices=Prices())
    events = []
    while True:
        try:
            events.append(next(work))
        except StopIteration as finished:
            found = finished.value["after"]
            break
    assert any(isinstance(e, MessageEvent) and "at most 0.15 of the verdicts" in e.text for e in events)
    chosen = found["abstention"]["chosen"]
    assert chosen["target"] == 0.15 and chosen["bound"] <= 0.15
    assert 0 < found["metrics"]["coverage"]["value"] < 1 and found["metrics"]["coverage"]["n"] == 36
    assert found["metrics"]["risk"] == chosen["risk"]
    saved = read_ensemble(tmp_path / "out/ensemble.json")
    assert saved.calibration is not None and saved.calibration.pairs == 84
    assert (saved.weights is None) == (combine == "majority")
    again = replace(plan, saved=saved, risk=None)
    with pytest.raises(DataError, match=r"was calibrated on every prompt of .*; evaluate it on other pairs"):
        evaluated(used, again, tmp_path / "again")
    assert without_times(evaluated(rows, again, tmp_path / "again")) == without_times(found)


def test_a_risk_out_of_reach_answers_nothing_and_says_so(tmp_path: Path):
    rows, used = share_of_rows(read(tmp_path / "pairs.jsonl"), 0.5, seed=0)
    plan = EnsemblePlan(judges(tmp_path, 0.6), risk=0.01)
    found = evaluated(rows, plan, tmp_path / "out", used)
    assert found["metrics"]["coverage"]["value"] == 0 and found["metrics"]["risk"]["value"] is None
    assert found["abstention"]["chosen"]["threshold"] is None
    assert "so it answers no pair" in (tmp_path / "out/report.html").read_text()
    assert read_ensemble(tmp_path / "out/ensemble.json").calibrated.combination.threshold == float("inf")


def test_calibration_rows_are_never_reported_on(tmp_path: Path):
    rows = read(tmp_path / "pairs.jsonl", pair_rows(40, prompts=20))
    reported, used = share_of_rows(rows, 0.3, seed=0)
    prompts = [{sample.metadata["cluster"] for sample in part.samples} for part in (reported, used)]
    assert not prompts[0] & prompts[1] and len(prompts[0] | prompts[1]) == 20 and len(prompts[1]) == 6
    assert len(reported.samples) + len(used.samples) == 80
    other = share_of_rows(rows, 0.3, seed=1)[1]
    assert {s.id for s in other.samples} != {s.id for s in used.samples}
    with pytest.raises(ConfigError, match=r"calibration share is 1\.0; expected one between 0 and 1"):
        share_of_rows(rows, 1.0, seed=0)
    with pytest.raises(DataError, match=r"has 20 prompts, of which 0\.01 are 0"):
        share_of_rows(rows, 0.01, seed=0)
    file = read(tmp_path / "used.jsonl", [{**pair_rows(1)[0], "prompt": "Question  3"}])
    with pytest.raises(
        DataError, match=r"1 prompts of .*used.jsonl are also in .*beginning with 'question 3'"
    ):
        refuse_shared_prompts(rows, file)
    refuse_shared_prompts(rows, read(tmp_path / "new.jsonl", [{**pair_rows(1)[0], "prompt": "a new one"}]))


@pytest.mark.parametrize(
    ("settings", "calibrated", "said"),
    [
        ({"samples": 0}, False, "samples is 0"),
        ({"samples": 2}, False, "2 samples at temperature 0 would all be equal"),
        ({"risk": 0.0}, True, "risk is 0.0; expected a share between 0 and 1"),
        ({"risk": 0.1, "delta": 1.0}, True, "delta is 1.0"),
        ({"risk": 0.1}, False, "a risk is chosen on calibration rows, and there are none"),
        ({"combine": "mean"}, False, "the judges are weighed on calibration rows, and there are none"),
        ({}, True, "a majority without a risk has nothing to calibrate"),
    ],
)
def test_settings_that_contradict(settings: dict[str, Any], calibrated: bool, said: str):
    with pytest.raises(ConfigError, match=said):
        EnsemblePlan([EngineOptions()], **settings).check(calibrated=calibrated, temperature=0.0)


def test_templates_and_methods_that_cannot_be_combined(tmp_path: Path):
    grades = read(tmp_path / "pairs.jsonl", template="grade")
    with pytest.raises(ConfigError, match="the template grade grades single answers; an ensemble compares"):
        evaluated(grades, EnsemblePlan([EngineOptions()]), tmp_path / "out")
    own = tmp_path / "own.toml"
    own.write_text("user = '{{ a }} {{ b }}'\n[parse]\nregex = 'best: (?P<winner>[AB])'")
    rows = read(tmp_path / "pairs.jsonl", template=str(own))
    plan = EnsemblePlan([EngineOptions()], samples=2)
    with pytest.raises(ConfigError, match="cannot be judged with --method logits; use generate"):
        result_of(evaluate_ensemble(rows, None, plan, Sampling(), tmp_path, method="logits", prices=Prices()))
    rows = read(tmp_path / "pairs.jsonl")
    with pytest.raises(ConfigError, match="2 samples by logits would all be equal"):
        result_of(evaluate_ensemble(rows, None, plan, Sampling(), tmp_path, method="logits", prices=Prices()))
