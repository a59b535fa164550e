import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from smidgen.data.memories import Candidate, Decision, IntentOffer
from smidgen.data.types import Completion, Record, Sample
from smidgen.errors import ConfigError, DataError, ParseError
from smidgen.evaluation.metrics import measure
from smidgen.tasks import Arbitrate, Classify, Memorize, Task, find_task
from smidgen.tasks.memory import arbitrate_sample, classify_sample, memorize_sample
from smidgen.tasks.memory.answers import arbitrate_answers, memorize_answers, schema_of, written

STORED = (Candidate("m7", "Ilse lives in Graz."), Candidate("m2", "Ilse drinks tea."), Candidate("m9", "x"))
OFFERS = (IntentOffer("book_flight", "buy a plane ticket"), IntentOffer("weather"))
TEXTS = [
    {"id": "1", "text": "I live in Graz.", "decision": "SAVE", "category": "fact", "language": "en"},
    {
        "id": "2",
        "text": "Ich trinke lieber Tee.",
        "decision": "SAVE",
        "category": "preference",
        "language": "de",
    },
    {"id": "3", "text": "ok, thanks", "decision": "SKIP", "kind": "chatter", "language": "en"},
    {"id": "4", "text": "fix: typo", "decision": "SKIP", "kind": "log"},
]
LISTED = [{"id": each.id, "text": each.text} for each in STORED]
NEW, SAME, MOVED = "Ilse has a cat.", "Tea is what Ilse drinks.", "Ilse moved to Linz."
FACTS = [
    {"id": "u", "fact": MOVED, "candidates": LISTED} | told
    for told in (
        {"decision": "UPDATE", "target": "m7", "kind": "correction"},
        {"id": "n", "fact": SAME, "decision": "NONE", "target": "m2", "kind": "paraphrase"},
        {"id": "a", "fact": NEW, "candidates": LISTED[:1], "decision": "ADD", "kind": "new"},
    )
]


def answered(task: Task, rows: list, *texts: str) -> list[Record]:
    return [
        Record(sample, Completion(text), task.score(sample, Completion(text)))
        for sample, text in zip(task.samples(rows), texts, strict=True)
    ]


def values(task: Task, records: list[Record]) -> dict[str, float | None]:
    return {name: measure(metric).value for name, metric in task.measures(records).items()}


def test_the_tasks_are_found_by_name() -> None:
    assert [find_task(name).name for name in ("memorize", "arbitrate", "classify")] == [
        "memorize",
        "arbitrate",
        "classify",
    ]


def test_what_differs_comes_last_in_the_prompt() -> None:
    for samples in (
        [memorize_sample(text) for text in ("one", "two")],
        [arbitrate_sample(text, STORED) for text in ("one", "two")],
        [classify_sample(text, OFFERS) for text in ("one", "two")],
    ):
        prompts = [[message.content for message in sample.messages] for sample in samples]
        assert prompts[0][0] == prompts[1][0] and prompts[0][1].removesuffix("one") == prompts[1][
            1
        ].removesuffix("two")


def test_a_fact_is_compared_with_numbered_lines() -> None:
    sample = arbitrate_sample("Ilse\nmoved", STORED)
    assert sample.messages[-1].content == "1. Ilse lives in Graz.\n2. Ilse drinks tea.\n3. x\nNew: Ilse moved"


def test_a_text_cannot_forge_a_candidate() -> None:
    forged = arbitrate_sample("a\n4. b\r\n5. c\u2028 6. d", [Candidate("m", "x\nNew: y")])
    assert len(forged.messages[-1].content.splitlines()) == 2
    with pytest.raises(ParseError, match="is none of the"):
        Arbitrate().decision(forged, '{"decision":"DELETE","id":4,"kind":"expiry"}')


@pytest.mark.parametrize("text", ["a" * 100_000, "\ud800", "", "\0", "{}", "字" * 5000])
def test_any_text_has_a_short_prompt_that_can_be_written(text: str) -> None:
    for sample in (
        memorize_sample(text),
        arbitrate_sample(text, [Candidate("m", text)]),
        classify_sample(text, [IntentOffer("weather", text)]),
    ):
        assert len(sample.messages[-1].content.encode()) < 3000


def test_too_many_candidates_are_refused() -> None:
    with pytest.raises(DataError, match="there are 17 candidates, expected at most 16; give the nearest"):
        arbitrate_sample("x", [Candidate(str(i), "y") for i in range(17)])


def test_every_decision_is_read_back() -> None:
    asked = arbitrate_sample("x", STORED)
    for task, sample, decisions in (
        (Memorize(), memorize_sample("x"), [Decision("SKIP"), Decision("SAVE", category="plan")]),
        (Arbitrate(), asked, [Decision("DELETE", target="m9", kind="expiry"), Decision("ADD", kind="new")]),
        (Classify(), classify_sample("x", OFFERS), [Decision("weather"), Decision("oos")]),
    ):
        constraint = task.constraint_of(sample)
        assert constraint is not None
        read = [task.decision(sample, text) for text in json.loads(constraint.value)]
        assert len(set(read)) == len(read) and set(decisions) <= set(read)


def test_constraints_offer_what_the_sample_does() -> None:
    one, three = (Arbitrate().constraint_of(arbitrate_sample("x", STORED[:n])) for n in (1, 3))
    assert '"id":3' not in json.dumps(json.loads(one.value)) and '\\"id\\":3' in three.value
    assert json.loads(Classify().constraint_of(classify_sample("x", OFFERS)).value) == [
        '{"intent":"book_flight"}',
        '{"intent":"weather"}',
        '{"intent":"oos"}',
    ]


def test_the_schema_admits_the_answers_and_no_others() -> None:
    for answers in (memorize_answers(), arbitrate_answers(2)):
        valid = Draft202012Validator(schema_of(answers)).is_valid
        assert all(valid(json.loads(written(answer))) for answer in answers)
        assert not any(
            valid(other) for other in ({}, {"decision": "SKIP", "id": 1}, {"decision": "UPDATE", "id": 3})
        )


@pytest.mark.parametrize(
    "text",
    [
        *("", "SKIP", "[]", "NaN", "[" * 10_000, "9" * 10_000),
        *('{"decision":"skip"}', '{"decision":"SKIP"} ok', '{"decision":"SAVE"}'),
        *('{"decision":"SKIP","decision":"SKIP"}', '{"decision":"SKIP","category":"fact"}'),
    ],
)
def test_what_is_not_an_answer_is_unparsed(text: str) -> None:
    score = Memorize().score(Memorize().samples(TEXTS)[2], Completion(text))
    assert not score.parsed and score.value == 0


def test_a_number_is_not_a_boolean() -> None:
    with pytest.raises(ParseError, match="is none of the"):
        Arbitrate().decision(arbitrate_sample("x", STORED), '{"decision":"UPDATE","id":true,"kind":"mixed"}')


@given(st.text())
def test_any_text_is_an_answer_or_a_parse_error(text: str) -> None:
    sample = arbitrate_sample("x", STORED)
    for read in (Memorize().parse, Arbitrate().parse, lambda said: Arbitrate().decision(sample, said)):
        try:
            read(text)
        except ParseError:
            continue


def test_all_failures_count_in_the_rates_of_memorize() -> None:
    task = Memorize()
    save, skip = '{"decision":"SAVE","category":"fact"}', '{"decision":"SKIP"}'
    found = values(task, answered(task, TEXTS, save, save, skip, "ok"))
    assert found["accuracy"] == 0.75 and found["category_accuracy"] == 0.5 and found["unparsed_rate"] == 0.25
    assert found["false_positive_rate"] == 0.5 and found["false_negative_rate"] == 0.0
    assert values(task, answered(task, TEXTS, skip, "ok", skip, skip))["false_negative_rate"] == 1.0
    details = task.details(answered(task, TEXTS, save, save, skip, "ok"))
    assert details["by_kind"]["log"] == {"rows": 1, "right": 0, "wrong": 0, "unparsed": 1}
    assert details["by_language"]["de"]["right"] == 1
    assert {"true": "preference", "predicted": "fact", "count": 1} in details["confusions"]


def test_both_orders_are_asked_and_mapped_back() -> None:
    task = Arbitrate()
    samples = {sample.id: sample for sample in task.samples(FACTS)}
    assert list(samples) == ["u#fwd", "u#rev", "n#fwd", "n#rev", "a#fwd"]
    assert task.target(samples["u#fwd"]) == '{"decision":"UPDATE","id":1,"kind":"correction"}'
    assert task.target(samples["u#rev"]) == '{"decision":"UPDATE","id":3,"kind":"correction"}'
    assert all(task.score(s, Completion(task.target(s))).value == 1 for s in samples.values())
    assert [sample.id for sample in task.training_samples(FACTS)] == ["u#fwd", "n#fwd", "a#fwd"]


def test_a_right_action_with_the_wrong_target_is_wrong() -> None:
    task, sample = Arbitrate(), Arbitrate().samples(FACTS)[0]
    wrong = Completion('{"decision":"UPDATE","id":2,"kind":"correction"}')
    assert task.score(sample, wrong).value == 0 and task.score(sample, wrong).answer == "UPDATE m2"


def test_a_model_that_prefers_a_number_shows_in_the_order_metrics() -> None:
    task, first = Arbitrate(), '{"decision":"UPDATE","id":1,"kind":"correction"}'
    found = values(task, answered(task, FACTS, *[first] * 5))
    assert found["position_bias"] == 1 and found["order_consistency"] == 0 and found["both_orders"] == 0
    assert found["accuracy"] == 0.2 and found["action_accuracy"] == 0.4
    assert found["none_duplicate"] == 0 and found["false_positive_rate"] == 1
    right = [task.target(sample) for sample in task.samples(FACTS)]
    found = values(task, answered(task, FACTS, *right))
    assert found["position_bias"] == 0 and found["order_consistency"] == 1 and found["both_orders"] == 1
    assert found["none_duplicate"] == found["macro_f1"] == found["kind_accuracy"] == 1
    nothing = values(task, answered(task, FACTS, *["?"] * 5))
    assert nothing["false_positive_rate"] == nothing["false_negative_rate"] == nothing["unparsed_rate"] == 1


def test_the_orders_of_a_row_are_one_cluster() -> None:
    task = Arbitrate()
    metric = task.measures(answered(task, FACTS, *["?"] * 5))["accuracy"]
    assert len(set(metric.clusters)) == 3


def test_movement_names_the_cases_that_changed_sides() -> None:
    task = Memorize()
    save, skip = '{"decision":"SAVE","category":"fact"}', '{"decision":"SKIP"}'
    base, now = answered(task, TEXTS, save, skip, skip, skip), answered(task, TEXTS, save, save, save, "?")
    moved = task.against_base(now, base)["movement"]
    assert moved["counts"] == {"right": {"right": 1, "wrong": 2}, "wrong": {"right": 1, "wrong": 0}}
    assert moved["became_right"] == ["2"] and moved["became_wrong"] == ["3", "4"]


def test_filled_candidates_come_from_other_rows_and_follow_from_the_ids() -> None:
    rows = [
        {"id": str(i), "fact": f"f{i}", "candidates": [{"id": "1", "text": f"t{i}"}], "decision": "NONE",
         "target": "1", "kind": "paraphrase"}
        for i in range(9)
    ]  # fmt: skip
    task = find_task("arbitrate", {"fill": 3})
    samples = task.training_samples(rows)
    assert {sample.metadata["count"] for sample in samples} == {3}
    assert len({task.target(sample) for sample in samples}) > 1
    for sample in samples:
        lines = sample.messages[-1].content.splitlines()
        number = json.loads(sample.target or "")["id"]
        assert lines[number - 1] == f"{number}. t{sample.id.partition('#')[0]}"
        assert len({line.partition(". ")[2] for line in lines[:-1]}) == 3
    assert samples == task.training_samples(rows)


def test_intents_are_offered_by_id_and_oos_is_right_where_the_right_one_is_not() -> None:
    rows = [{"id": str(i), "text": f"t{i}", "intent": name} for i, name in enumerate("abcdefgh" * 20)]
    task = find_task("classify", {"offered": 4}).prepare([*rows, {"text": "x", "intent": "oos"}])
    samples = task.samples(rows)
    right = [sample.metadata["intent"] == rows[i]["intent"] for i, sample in enumerate(samples)]
    assert 0.75 < sum(right) / len(right) < 0.97
    for sample, row in zip(samples, rows, strict=True):
        offered = sample.metadata["intents"]
        assert len(set(offered)) == 4 and (sample.metadata["intent"] == "oos") == (
            row["intent"] not in offered
        )
    assert samples == task.samples(rows)


def test_an_intent_that_is_not_on_offer_is_unparsed() -> None:
    task = Classify()
    rows = [
        {
            "id": "1",
            "text": "rain?",
            "intents": [{"name": "weather", "description": "the sky"}],
            "intent": "weather",
        }
    ]
    (sample,) = task.samples(rows)
    assert sample.messages[-1].content == "weather: the sky\nText: rain?"
    assert task.score(sample, Completion('{"intent":"weather"}')).value == 1
    assert not task.score(sample, Completion('{"intent":"book_flight"}')).parsed


def test_a_sample_without_a_label_is_for_the_runtime_only() -> None:
    assert isinstance(memorize_sample("x", id="7"), Sample) and memorize_sample("x", id="7").id == "7"


@pytest.mark.parametrize(
    ("languages", "fault"),
    [
        (["eng"], r"languages has 'eng'. Did you mean 'en'\? Known: en, de, zh, mixed"),
        (["mixed"], "has only 'mixed'"),
    ],
)
def test_unknown_languages_are_refused(languages: list[str], fault: str) -> None:
    with pytest.raises(ConfigError, match=fault):
        find_task("memorize", {"languages": languages})


@pytest.mark.parametrize("name", ["memorize", "arbitrate", "classify"])
def test_generated_rows_may_be_of_some_languages_only(name: str) -> None:
    task = find_task(name, {"languages": ["de"]})
    rows = task.world_rows("test", 30, 0)
    samples = task.training_samples(rows)
    assert len(samples) == 30 and all(task.score(s, Completion(s.target or "")).value == 1 for s in samples)
    assert not any("the user" in sample.messages[-1].content.casefold() for sample in samples)
    assert all(row.get("language", "de") == "de" and row.get("kind") != "cross-language" for row in rows)
