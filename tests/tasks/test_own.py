import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smidgen.data.types import Completion, Record
from smidgen.errors import ConfigError, DataError, ParseError
from smidgen.evaluation.metrics import measure
from smidgen.tasks import find_task
from smidgen.tasks.own import OwnTask
from smidgen.tasks.own_settings import read_settings

BASE = {"message": "Sort: {{ text }}", "gold": "queue"}
ROWS = [
    {"id": "1", "text": "where is it", "queue": "delivery"},
    {"id": "2", "text": "my money", "queue": "Refund due"},
    {"id": "3", "text": "where is it now", "queue": "delivery"},
]


def task(**settings: Any) -> OwnTask:
    found = find_task("own", {**BASE, **settings})
    assert isinstance(found, OwnTask)
    return found


def value_of(own: OwnTask, text: str, gold: str) -> float | None:
    """What an answer to a row with that gold is worth; None if it was not parsed."""
    (sample,) = own.samples([{"text": "x", "queue": gold}])
    score = own.score(sample, Completion(text))
    return score.value if score.parsed else None


def test_a_row_is_asked_as_the_template_says():
    sample = task(system="Be brief about {{ text }}.").samples(ROWS)[0]
    assert [(m.role, m.content) for m in sample.messages] == [
        ("system", "Be brief about where is it."),
        ("user", "Sort: where is it"),
    ]
    assert sample.metadata == {"gold": "delivery", "columns": {"text": "where is it"}}


def test_labels_come_from_the_rows():
    own = task(labels="rows", metric="macro_f1").prepare(ROWS)
    assert own.constraint is not None and json.loads(own.constraint.value) == ["Refund due", "delivery"]
    assert own.parse(" refund_DUE ") == "Refund due"
    with pytest.raises(ParseError, match=r"'invoice' is none of the 2 labels"):
        own.parse("invoice")
    assert [sample.target for sample in own.training_samples(ROWS)] == ["delivery", "Refund due", "delivery"]
    records = [
        Record(sample, completion, own.score(sample, completion))
        for sample in own.samples(ROWS)
        for completion in [Completion("delivery")]
    ]
    metrics = own.measures(records)
    assert list(metrics) == ["macro_f1", "accuracy", "unparsed_rate"]
    assert measure(metrics["macro_f1"]).value == pytest.approx(0.4)
    assert own.details(records)["confusions"] == [{"true": "Refund due", "predicted": "delivery", "count": 1}]
    assert measure(own.baselines(own.samples(ROWS))["most_frequent"]).value == pytest.approx(2 / 3)


def test_a_regex_finds_the_answer_and_a_target_teaches_it():
    own = task(regex=r"Answer: (?P<answer>\w+)", target="It says {{ text }}. Answer: {{ gold }}")
    assert own.parse("Answer: a, no. Answer: b") == "b"
    rows = [{"text": "x", "queue": "one"}]
    assert own.training_samples(rows)[0].target == "It says x. Answer: one"
    with pytest.raises(ParseError, match="the regex does not match 'nothing'"):
        own.parse("nothing")
    bad = task(regex=r"Answer: (\w+)", target="{{ gold }}")
    with pytest.raises(DataError, match=r"the target 'one' does not give the answer 'one': the regex"):
        bad.training_samples(rows)


def test_a_schema_reads_the_property_answer():
    schema = {"type": "object", "properties": {"answer": {"type": "integer"}}, "required": ["answer"]}
    own = task(json_schema=schema, metric="numeric")
    assert own.training_samples([{"text": "x", "queue": 7}])[0].target == '{"answer": 7}'
    assert value_of(own, '{"answer": 7}', "7") == 1.0 and value_of(own, '{"answer": 8}', "7") == 0.0
    assert value_of(own, '{"answer": "7"}', "7") is None and value_of(own, "7", "7") is None


@pytest.mark.parametrize(
    ("metric", "text", "gold", "worth"),
    [
        ("accuracy", "new  YORK", "New York", 1.0),
        ("exact", "new york", "New York", 0.0),
        ("exact", " New York ", "New York", 1.0),
        ("numeric", "so 1,200 in all", "1200.0", 1.0),
        ("numeric", "first 3, then 4", "4", 1.0),
        ("numeric", "nothing", "4", None),
    ],
)
def test_metrics_compare_as_they_say(metric: str, text: str, gold: str, worth: float | None):
    assert value_of(task(metric=metric), text, gold) == worth


@given(st.floats(-1e9, 1e9), st.text(alphabet="ab ,", max_size=9))
def test_a_number_is_found_behind_any_words(number: float, words: str):
    assert value_of(task(metric="numeric"), f"{words}: {number!r}", repr(number)) == 1.0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gold": None}, "'gold' is None"),
        ({"message": "{{ text"}, "'message' is not a Jinja template"),
        ({"labels": ["a"], "regex": "a"}, "'labels' and 'regex' each set how answers are parsed; keep one"),
        ({"labels": []}, r"'labels' is empty; list the allowed answers, or set it to 'rows'"),
        ({"metric": "macro_f1"}, "metric = 'macro_f1' needs 'labels'"),
        ({"metric": "f1"}, "'metric' is 'f1'"),
        ({"regex": "("}, "'regex' is not a valid regular expression"),
        ({"json_schema": {"type": 3}}, "'json_schema' is not a JSON schema"),
        ({"json_schema": {"type": "object"}}, "'json_schema' has no property 'answer'"),
        ({"mesage": "x"}, r"the task own has no setting 'mesage'; leave it out\. Did you mean 'message'\?"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        task(**settings)


@pytest.mark.parametrize(
    ("row", "settings", "message"),
    [
        ({"queue": "a"}, {}, "which match no known format|'text' is missing"),
        ({"text": "x", "queue": ""}, {}, "'queue' is \"\", expected text or a number"),
        ({"text": "x", "queue": True}, {}, "'queue' is true, expected text or a number"),
        (
            {"text": "x", "queue": "b"},
            {"labels": ["bee"]},
            "'queue' is \"b\", which is not one of",
        ),
    ],
)
def test_rows_without_what_the_task_needs_are_refused(
    row: dict[str, Any], settings: dict[str, Any], message: str
):
    with pytest.raises(DataError, match=message):
        task(**settings).samples([row])


def test_labels_that_differ_only_in_case_are_refused():
    with pytest.raises(DataError, match="the labels 'A b' and 'a_b' differ only in case, spaces"):
        task(labels="rows").prepare([{"text": "x", "queue": "A b"}, {"text": "y", "queue": "a_b"}])


def test_settings_are_read_from_a_recipe_or_alone(tmp_path: Path):
    table = 'message = "{{ text }}"\ngold = "queue"\n'
    (tmp_path / "alone.toml").write_text(table)
    (tmp_path / "recipe.toml").write_text(f'name = "a"\ntask = "own"\n[settings]\n{table}')
    (tmp_path / "judge.toml").write_text('name = "a"\ntask = "judge"\n')
    settings = {"message": "{{ text }}", "gold": "queue"}
    assert read_settings(tmp_path / "alone.toml") == settings
    assert read_settings(tmp_path / "recipe.toml") == settings
    with pytest.raises(ConfigError, match=r"judge\.toml is a recipe for the task judge; expected"):
        read_settings(tmp_path / "judge.toml")
    with pytest.raises(ConfigError, match=r"there is no task file at .*none\.toml"):
        read_settings(tmp_path / "none.toml")
