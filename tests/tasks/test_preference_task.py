"""The task preference: which answer is more probable, and worse answers of other tasks."""

from dataclasses import replace

import pytest
from tests.tasks.test_choice import Table

from smidgen.data.examine import examine
from smidgen.data.types import Constraint, Message, Preference, Record, Request, Sample
from smidgen.errors import ConfigError
from smidgen.evaluation.metrics import measure
from smidgen.tasks import find_task
from smidgen.tasks.worse_answers import other_choice

ROW = {"id": "q", "prompt": "Why?", "chosen": "Because it is.", "rejected": "No."}
OTHER = ROW | {"id": "r", "chosen": "So."}


def records(*totals: tuple[float, float]) -> list[Record]:
    task = find_task("preference")
    samples = task.samples([ROW, OTHER])
    found = []
    for sample, (chosen, rejected) in zip(samples, totals, strict=True):
        answers = dict(
            zip([("Why?", text) for text in sample.metadata["options"]], (chosen, rejected), strict=True)
        )
        ((_, completion),) = task.answer_with(Table(answers), "logits").complete([Request(sample)])
        found.append(Record(sample, completion, task.score(sample, completion)))
    return found


def test_the_more_probable_answer_is_preferred():
    task, found = find_task("preference"), records((-7.0, -6.0), (-1.0, -2.0))
    assert [record.score.value for record in found] == [0.0, 1.0]
    assert [record.score.answer for record in found] == ["No.", "So."]
    values = {name: measure(metric).value for name, metric in task.measures(found).items()}
    # 7 / 14 characters are better than 6 / 3
    assert values == {"accuracy": 0.5, "accuracy_norm": 1.0, "unparsed_rate": 0.0}
    assert len({*task.measures(found)["accuracy"].clusters}) == 1, "both have one prompt"
    baselines = task.baselines([record.sample for record in found])
    assert baselines["longer"].values == [1.0, 0.5]


def test_the_implicit_reward_is_relative_to_the_base():
    task, base = find_task("preference"), records((-7.0, -6.0), (-1.0, -2.0))
    trained = records((-7.0, -6.5), (-1.0, -1.5))  # the first gained on its other answer, the second lost
    reward = task.against_base(trained, base)["reward_accuracy"]
    assert reward.values == [1.0, 0.0] and reward.clusters == ["q", "q"]
    assert task.against_base(base, base)["reward_accuracy"].values == [0.5, 0.5]
    unread = [replace(record, score=replace(record.score, parsed=False)) for record in base]
    assert task.against_base(trained, unread) == {}
    report = {"after": {"reward_accuracy": measure(reward).to_json()}}
    (sentence,) = task.remarks(report)
    assert "against the worse one in 50" in sentence and task.remarks({"after": {}}) == []


def test_rows_samples_and_pairs():
    task = find_task("preference")
    (sample,) = task.training_samples([ROW])
    assert (sample.messages, sample.target) == ((Message("user", "Why?"),), "Because it is.")
    assert task.preference(sample) == Preference(sample, "Because it is.", "No.")
    ((prompt, row),) = task.plain_rows([ROW])
    assert prompt == "Why?" and task.samples([row]) == task.samples([ROW])
    assert task.show(ROW) == {"prompt": "Why?", "a": "Because it is.", "b": "No.", "better": "a"}
    assert len(task.samples(task.world_rows("train", 5, 0))) == 5


def test_contradictions_leaks_and_lengths_are_found():
    task = find_task("preference")
    turned = {"id": "t", "prompt": "Why?", "chosen": "No.", "rejected": "Because it is."}
    many = [
        {"id": str(i), "prompt": f"{i}?", "chosen": "a long answer", "rejected": "short"} for i in range(30)
    ]
    rows = [ROW, OTHER, turned, *many]
    found = [finding.message for finding in examine(task.examples(rows), task.examples([ROW]))]
    kinds = (
        "but another label",
        "the same question is in the training rows",
        "the longer answer is the better one",
    )
    assert all(any(kind in message for message in found) for kind in kinds)


def test_of_listed_answers_another_is_worse():
    choices = Constraint("choices", '["yes", "no", "maybe"]')
    drawn = [other_choice("t", choices, Sample(str(i), ()), "no") for i in range(20)]
    assert {pair.rejected for pair in drawn} == {"yes", "maybe"} and {pair.chosen for pair in drawn} == {"no"}
    assert drawn == [other_choice("t", choices, Sample(str(i), ()), "no") for i in range(20)]
    task = find_task("own", {"message": "{{ text }}", "gold": "label", "labels": ["good", "bad"]})
    (sample,) = task.training_samples([{"text": "fine", "label": "good"}])
    assert task.preference(sample).rejected == "bad"


@pytest.mark.parametrize(
    ("constraint", "chosen"),
    [
        (None, "a"),
        (Constraint("regex", "a|b"), "a"),
        (Constraint("choices", '["a"]'), "a"),
        (Constraint("choices", '["a", "b"]'), "c"),
    ],
)
def test_a_task_without_worse_answers_is_refused(constraint: Constraint | None, chosen: str):
    with pytest.raises(ConfigError, match=r"the task t has no worse answers .*; use the task 'preference'"):
        other_choice("t", constraint, Sample("1", ()), chosen)
