"""Training rows of a judge that is shown references, and sometimes is not."""

import pytest

from smidgen.errors import ConfigError, DataError
from smidgen.tasks import FORMS, find_task
from smidgen.tasks.judge.own_template import OwnTemplate
from smidgen.tasks.judge.references import shows_reference

ROWS = [
    {"id": str(n), "prompt": f"q{n}", "a": "x", "b": "y", "better": "a", "reference": f"right {n}"}
    for n in range(400)
]


def judge(drop: float, template: str = "verdict", **settings: object):
    return find_task("judge", {"template": template, "reference": True, "reference_drop": drop} | settings)


def without_reference(samples) -> set[str]:
    return {s.metadata["pair"] for s in samples if "right" not in s.messages[-1].content}


def test_references_are_dropped_with_their_probability_in_training_only():
    task = judge(0.25)
    dropped = without_reference(task.training_samples(ROWS, seed=1))
    assert 0.18 < len(dropped) / len(ROWS) < 0.32  # 0.75 would be the probability of keeping them
    assert not without_reference(task.samples(ROWS))
    assert not without_reference(judge(0.0).training_samples(ROWS, seed=1))
    assert dropped != without_reference(task.training_samples(ROWS, seed=2))


def test_a_draw_is_of_its_row_in_both_orders_and_changes_nothing():
    task, before = judge(0.5), [dict(row) for row in ROWS]
    samples = task.training_samples(ROWS, seed=1)
    dropped = without_reference(samples)
    assert len([s for s in samples if s.metadata["pair"] in dropped]) == 2 * len(dropped)
    assert before == ROWS and samples == task.training_samples(ROWS, seed=1)
    some = [row for row in ROWS if int(row["id"]) % 3]
    assert without_reference(task.training_samples(some, seed=1)) == dropped & {row["id"] for row in some}


def test_a_row_without_its_reference_has_the_label_that_was_given_without():
    row = {
        "question_body": "q", "answer1_body": "x", "answer2_body": "y", "reference": {"text": "right"},
        "score": [8, 2], "score_w_reference": [2, 8],
    }  # fmt: skip
    targets = {
        ("right" in sample.messages[-1].content, sample.metadata["order"]): sample.target
        for seed in range(20)
        for sample in judge(0.5).training_samples([row], seed=seed)
    }
    assert targets == {
        (True, "ab"): "[[B]]", (True, "ba"): "[[A]]", (False, "ab"): "[[A]]", (False, "ba"): "[[B]]"
    }  # fmt: skip
    alone = {key: value for key, value in row.items() if key != "score"}
    assert {s.target for s in judge(0.99).training_samples([alone])} == {"[[A]]", "[[B]]"}


def test_rubric_rows_are_dropped_too():
    gold = {"criteria": ["Right"], "analysis": {"ab": "A is right.", "ba": "B is right."}, "scores": [9, 2]}
    rows = [row | gold for row in ROWS[:60]]
    assert 0 < len(without_reference(judge(0.5, "rubric").training_samples(rows))) < 60


def test_every_built_in_template_has_a_place_for_a_reference():
    assert all(shows_reference(form()) for form in FORMS.values())
    parse = {"regex": "(?P<winner>A|B)"}
    assert not shows_reference(OwnTemplate("t", {"user": "{{ prompt }}{{ a }}{{ b }}", "parse": parse}))


def test_what_cannot_be_dropped_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"reference_drop is 0.5, but the judge is shown no references"):
        find_task("judge", {"reference_drop": 0.5})
    with pytest.raises(
        ConfigError, match=r"the template single needs a reference in every row; leave it out"
    ):
        judge(0.5, "single")
    with pytest.raises(ConfigError, match=r"'reference_drop'|reference_drop"):
        judge(1.5)
    form = tmp_path / "plain.toml"
    form.write_text("user = '{{ prompt }} {{ a }} {{ b }}'\n[parse]\nregex = '(?P<winner>A|B)'\n")
    with pytest.raises(ConfigError, match=r"plain.toml has no place for a reference answer"):
        judge(0.0, str(form))
    bare = [{key: value for key, value in row.items() if key != "reference"} for row in ROWS[:3]]
    with pytest.raises(DataError, match="has no reference answer"):
        judge(0.5).training_samples(bare)
