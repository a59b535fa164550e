import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smidgen.data.rows import read_rows
from smidgen.data.types import Completion, Message, Record
from smidgen.errors import DataError, ParseError
from smidgen.evaluation.metrics import measure
from smidgen.tasks import find_task
from smidgen.tasks.classification import macro_f1
from smidgen.tasks.intent import Intent, label_text

CLINC = Path(__file__).parents[3] / "shared" / "data" / "memory" / "clinc150_train_val.jsonl"
ROWS = [
    {"id": "1", "text": "pay my bill", "intent": "pay_bill"},
    {"id": "2", "text": "what time is it", "intent": "time"},
    {"id": "3", "text": "is the moon hollow", "intent": "oos"},
    {"id": "4", "text": "settle the bill", "intent": "pay_bill"},
]
TASK = Intent().prepare(ROWS)


def answered(*texts: str) -> list[Record]:
    records = []
    for sample, text in zip(TASK.samples(ROWS), texts, strict=True):
        completion = Completion(text)
        records.append(Record(sample, completion, TASK.score(sample, completion)))
    return records


def test_the_prompt_is_the_utterance_and_the_target_its_label_in_words() -> None:
    sample = TASK.training_samples(ROWS)[0]
    assert [(message.role, message.content) for message in sample.messages] == [("user", "pay my bill")]
    assert sample.target == "pay bill"
    assert sample.metadata == {"intent": "pay_bill"}


@given(st.text())
def test_any_text_is_a_label_or_a_parse_error(text: str) -> None:
    for task in (TASK, Intent()):
        try:
            task.parse(text)
        except ParseError:
            continue


@pytest.mark.parametrize("text", ["pay bill", "pay_bill", " Pay  Bill\n", "PAY_BILL"])
def test_case_spaces_and_underscores_do_not_matter(text: str) -> None:
    assert TASK.parse(text) == "pay_bill"


@pytest.mark.parametrize("text", ["pay the bill", "pay bill.", "pay bill\ntime", ""])
def test_the_whole_text_must_be_a_label(text: str) -> None:
    with pytest.raises(ParseError, match="is none of the 3 labels"):
        TASK.parse(text)


def test_without_labels_any_line_is_one() -> None:
    sample = Intent().samples(ROWS)[0]
    assert Intent().score(sample, Completion("Pay bill")).value == 1.0
    assert Intent().score(sample, Completion("nonsense")).parsed
    with pytest.raises(ParseError, match=r"'a\nb' is not a label; expected one line"):
        Intent().parse("a\nb")


def test_prepare_adds_labels_and_refuses_twins() -> None:
    prepared = TASK.prepare([{"text": "x", "intent": "alarm"}])
    assert set(prepared.labels.values()) == {"alarm", "oos", "pay_bill", "time"}
    with pytest.raises(DataError, match="the intents 'Pay Bill' and 'pay_bill' differ only in case, spaces"):
        TASK.prepare([{"text": "x", "intent": "Pay Bill"}])


@given(st.sampled_from(sorted(TASK.labels.values())))
def test_every_target_is_read_back(label: str) -> None:
    assert TASK.parse(label_text(label)) == label


def test_measures() -> None:
    records = answered("pay bill", "oos", "pay bill", "??")
    found = {name: measure(metric).value for name, metric in TASK.measures(records).items()}
    assert found["accuracy"] == 0.25
    assert found["in_scope_accuracy"] == pytest.approx(1 / 3)
    assert found["oos_recall"] == 0.0
    assert found["unparsed_rate"] == 0.25
    assert found["macro_f1"] == pytest.approx((2 / 4 + 0) / 2)  # pay_bill: one hit, two true, two answered
    assert TASK.details(records)["confusions"] == [
        {"true": "oos", "predicted": "pay_bill", "count": 1},
        {"true": "pay_bill", "predicted": None, "count": 1},
        {"true": "time", "predicted": "oos", "count": 1},
    ]


def test_the_labels_are_the_constraint() -> None:
    assert TASK.constraint is not None and TASK.constraint.kind == "choices"
    texts = json.loads(TASK.constraint.value)
    assert texts == ["oos", "pay bill", "time"]
    assert [TASK.parse(text) for text in texts] == ["oos", "pay_bill", "time"]
    assert Intent().constraint is None


def test_no_rows_have_no_value() -> None:
    found = {name: measure(metric) for name, metric in TASK.measures([]).items()}
    assert {(measured.value, measured.n) for measured in found.values()} == {(None, 0)}


def test_the_most_frequent_baseline() -> None:
    assert measure(TASK.baselines(TASK.samples(ROWS))["most_frequent"]).value == 0.5


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(0, 3)), min_size=1))
def test_macro_f1_is_scikit_learns(rows: list[tuple[int, int, int]]) -> None:
    """Class 0 is out of scope; a weight of k is k copies of the row."""
    from sklearn.metrics import f1_score  # slow to import

    true, predicted, weights = (np.array(column) for column in zip(*rows, strict=True))
    classes = np.array([False, True, True, True, True])
    found = macro_f1(true, predicted, weights.astype(float), classes)
    copies, answers = np.repeat(true, weights), np.repeat(predicted, weights)
    occurring = sorted(set(copies.tolist()) - {0})
    if not occurring:
        assert np.isnan(found)
        return
    expected = f1_score(copies, answers, labels=occurring, average="macro", zero_division=0)
    assert found == pytest.approx(expected)


@pytest.mark.slow
@pytest.mark.skipif(not CLINC.exists(), reason="the real data sets are not here")
def test_clinc_labels_are_distinct_as_words() -> None:
    task = Intent().prepare(read_rows(CLINC))
    assert len(task.labels) == 151
    assert all(task.parse(label_text(label)) == label for label in task.labels.values())


def test_a_system_message_is_of_every_prompt_and_of_the_variant() -> None:
    assert find_task("intent").variant == ""
    task = find_task("intent", {"system": "Name it."}).prepare(ROWS)
    assert all(sample.messages[0] == Message("system", "Name it.") for sample in task.samples(ROWS))
    assert task.variant and task.variant != find_task("intent", {"system": ""}).variant
    assert find_task("intent", {"system": ""}).samples(ROWS)[0].messages[0].content == ""
