"""What reports say of a judge's confidence, its threshold and the judges of an ensemble."""

from typing import Any

from tests.tools.judge_recordings import judge_of, pair_rows

from smidgen.data.types import Completion, Record, Score
from smidgen.evaluation import measured
from smidgen.tasks import find_task
from smidgen.tasks.judge.abstention_section import abstention, ensemble, guarantee_in_words
from smidgen.tasks.judge.sections import judge_remarks, judge_sections

PAIRS = pair_rows(40)


def rate(value: float | None) -> dict[str, Any]:
    return {"value": value, "low": value, "high": value, "n": 40}


def report(**after: Any) -> dict[str, Any]:
    return {"after": {"metrics": {"accuracy": rate(0.8), "pair_accuracy": rate(0.75)}, **after}}


def analysed(template: str, accuracy: float) -> dict[str, Any]:
    """The facts on abstention of a plain judge's evaluation."""
    task, said = find_task("judge", {"template": template}), judge_of(accuracy)
    scores = {"[[A]]": "<scores>\\boxed{9, 2}</scores>", "[[B]]": "<scores>\\boxed{4, 6}</scores>"}
    by_id = {row["id"]: row for row in PAIRS}
    records = []
    for sample in task.samples(PAIRS):
        pair, order = sample.id.split("#")
        text = said(by_id[pair], order, 1)
        completion = Completion(scores[text] if template == "rubric" else text)
        records.append(Record(sample, completion, Score(0.0, None, True)))
    return measured(task.analyses(records, PAIRS, model="m").facts)["abstention"]


def test_a_plain_judge_is_confident_where_both_orders_agree():
    found = analysed("verdict", 0.9)
    assert (found["pairs"], found["method"]) == (40, "majority")
    assert [point["threshold"] for point in found["points"]] == [1.0, 0.0]
    agreed, everything = (point["accuracy"]["value"] for point in found["points"])
    assert agreed > everything == round(found["points"][0]["coverage"] * agreed * 40) / 40
    scored = analysed("rubric", 0.9)
    assert scored["method"] == "mean" and len(scored["points"]) >= 2
    page = "".join(judge_sections(report(abstention=scored)))
    assert "When it is sure" in page and "the gap between the two scores" in page and "<polygon" in page
    assert "chosen" not in page and "<h2>Judges</h2>" not in page


CHOSEN = {"threshold": 0.6, "target": 0.1, "delta": 0.05, "coverage": rate(0.5), "risk": rate(0.05)}


def test_a_threshold_says_what_it_keeps():
    found = analysed("verdict", 0.9) | {"chosen": CHOSEN}
    (sentence,) = judge_remarks(report(abstention=found))
    plain = sentence.replace("\N{NARROW NO-BREAK SPACE}", " ")
    assert plain.startswith("It answers 50.0 % of the pairs") and "5.0 % of these verdicts are wrong" in plain
    assert plain.endswith("so that, with a probability of 95.0 %, at most 10.0 % are wrong.")
    section = abstention(report(abstention=found))
    assert section is not None and section["sentence"] == sentence
    assert "chosen" in str(section["figure"])
    assert "it answers no pair" in guarantee_in_words(CHOSEN | {"threshold": None})
    assert guarantee_in_words({}) == ""


def test_the_judges_of_an_ensemble():
    difference = {"value": 0.05, "low": 0.01, "high": 0.09}
    judges = [
        {"model": "<m>", "samples": 3, "weight": 0.25, "pair_accuracy": rate(0.7), "difference": difference}
    ]
    found = ensemble(report(ensemble={"combine": "mean", "samples": 3, "judges": judges}))
    assert found is not None and found["rows"][0][:3] == ("<m>", "3", "0.25") and found["samples"] == "3"
    page = "".join(judge_sections(report(ensemble={"combine": "mean", "samples": 3, "judges": judges})))
    assert "&lt;m&gt;" in page and "3 times in both orders" in page and "combined by mean" in page
    assert ensemble(report()) is None and abstention(report()) is None and judge_sections(report()) == []
