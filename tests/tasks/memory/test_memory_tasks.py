import json
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from smidgen.data.memories import KINDS_OF, Candidate, Decision, IntentOffer
from smidgen.data.types import Completion, Record, Sample
from smidgen.errors import ConfigError, DataError, ParseError
from smidgen.evaluation.metrics import measure
from smidgen.tasks import Arbitrate, Classify, Memorize, Task, find_task
from smidgen.tasks.memory import arbitrate_samples, classify_sample, memorize_sample
from smidgen.tasks.memory.answers import arbitrate_answers, memorize_answers, schema_of, written
from smidgen.tasks.memory.comparing import Comparison, decided, read_comparison

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


def said(action: str, kind: str) -> str:
    return json.dumps({"decision": action, "kind": kind}, separators=(",", ":"))


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
        [arbitrate_samples("x", [Candidate("m", text)])[0] for text in ("one", "two")],
        [classify_sample(text, OFFERS) for text in ("one", "two")],
    ):
        prompts = [[message.content for message in sample.messages] for sample in samples]
        assert prompts[0][0] == prompts[1][0] and prompts[0][1].removesuffix("one") == prompts[1][
            1
        ].removesuffix("two")


def test_a_fact_is_compared_with_each_candidate_alone() -> None:
    samples = arbitrate_samples("Ilse\nmoved", STORED, id="7")
    assert [(sample.id, sample.metadata["candidate"]) for sample in samples] == [
        ("7#1", "m7"),
        ("7#2", "m2"),
        ("7#3", "m9"),
    ]
    assert samples[1].messages[-1].content == "New: Ilse moved\nStored: Ilse drinks tea."
    assert arbitrate_samples("x", []) == []


def test_a_text_cannot_forge_a_candidate() -> None:
    (forged,) = arbitrate_samples("a\nStored: b\r\nc\u2028 d", [Candidate("m", "x\nNew: y")])
    assert len(forged.messages[-1].content.splitlines()) == 2
    with pytest.raises(ParseError, match="is none of the 17 answers"):
        read_comparison(forged, Completion('{"decision":"DELETE","id":4,"kind":"expiry"}'))


@pytest.mark.parametrize("text", ["a" * 100_000, "\ud800", "", "\0", "{}", "字" * 5000])
def test_any_text_has_a_short_prompt_that_can_be_written(text: str) -> None:
    for sample in (
        memorize_sample(text),
        *arbitrate_samples(text, [Candidate("m", text)]),
        classify_sample(text, [IntentOffer("weather", text)]),
    ):
        assert len(sample.messages[-1].content.encode()) < 3000


def test_too_many_candidates_are_refused() -> None:
    with pytest.raises(DataError, match="there are 17 candidates, expected at most 16; give the nearest"):
        arbitrate_samples("x", [Candidate(str(i), "y") for i in range(17)])


def test_every_decision_is_read_back() -> None:
    for task, sample, decisions in (
        (Memorize(), memorize_sample("x"), [Decision("SKIP"), Decision("SAVE", category="plan")]),
        (Classify(), classify_sample("x", OFFERS), [Decision("weather"), Decision("oos")]),
    ):
        constraint = task.constraint_of(sample)
        assert constraint is not None
        read = [task.decision(sample, text) for text in json.loads(constraint.value)]
        assert len(set(read)) == len(read) and set(decisions) <= set(read)


def test_every_comparison_is_read_back() -> None:
    (sample, *_) = arbitrate_samples("x", STORED)
    texts = json.loads(Arbitrate().constraint.value)
    found = [read_comparison(sample, Completion(text, logprobs=(-0.5, -0.25))) for text in texts]
    assert {each.candidate for each in found} == {"m7"} and len(set(found)) == len(texts) == 17
    assert all(each.confidence == pytest.approx(math.exp(-0.75)) for each in found)
    assert {(each.action, each.kind) for each in found} == {
        (action, kind) for action, kinds in KINDS_OF.items() for kind in kinds
    }


def test_the_surest_comparison_decides() -> None:
    new, sure = Comparison("a", "ADD", "new", 0.9), Comparison("b", "UPDATE", "correction", 0.6)
    surer, unsure = Comparison("c", "NONE", "synonym", 0.7), Comparison("d", "ADD", "relational", 0.3)
    assert decided([new, sure, surer]) == Decision("NONE", target="c", kind="synonym")
    assert decided([new, unsure]) == Decision("ADD", kind="relational")
    assert decided([]) == Decision("ADD", kind="new")
    blind = [replace(each, confidence=0.0) for each in (new, sure, surer)]
    assert decided(blind) == Decision("UPDATE", target="b", kind="correction")


def test_constraints_offer_what_the_sample_does() -> None:
    assert json.loads(Classify().constraint_of(classify_sample("x", OFFERS)).value) == [
        '{"intent":"book_flight"}',
        '{"intent":"weather"}',
        '{"intent":"oos"}',
    ]


def test_the_schema_admits_the_answers_and_no_others() -> None:
    for answers in (memorize_answers(), arbitrate_answers()):
        valid = Draft202012Validator(schema_of(answers)).is_valid
        assert all(valid(json.loads(written(answer))) for answer in answers)
        assert not any(
            valid(other)
            for other in ({}, {"decision": "SKIP", "id": 1}, {"decision": "UPDATE", "kind": "new"})
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
        Arbitrate().parse('{"decision":true,"kind":"mixed"}')


@given(st.text())
def test_any_text_is_an_answer_or_a_parse_error(text: str) -> None:
    for read in (Memorize().parse, Arbitrate().parse):
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


def test_a_sample_per_candidate_is_asked() -> None:
    task = Arbitrate()
    samples = {sample.id: sample for sample in task.samples(FACTS)}
    assert list(samples) == ["u#1", "u#2", "u#3", "n#1", "n#2", "n#3", "a#1"]
    assert task.target(samples["u#1"]) == said("UPDATE", "correction")
    assert task.target(samples["u#2"]) == said("ADD", "new")
    assert all(task.score(s, Completion(task.target(s))).value == 1 for s in samples.values())


@pytest.mark.parametrize(("others", "count"), [(1, 5), (2, 7), (9, 7)])
def test_training_compares_with_the_one_concerned_and_some_others(others: int, count: int) -> None:
    task = find_task("arbitrate", {"others": others})
    samples = task.training_samples(FACTS)
    assert len(samples) == count and {"u#1", "n#2"} <= {sample.id for sample in samples}
    assert samples == task.training_samples(FACTS)
    assert [replace(s, target=None) for s in samples] == task.training_prompts(FACTS)


def test_what_a_mixed_fact_does_to_the_others_is_not_guessed() -> None:
    both = {"decision": "NONE", "kind": "mixed", "target": None}
    one = {"id": "o", "decision": "UPDATE", "kind": "mixed"}
    rows = [FACTS[0] | both, FACTS[0] | one]
    assert [sample.id for sample in Arbitrate().training_samples(rows)] == ["o#1"]


def test_a_fact_that_is_stored_nobody_says_where_is_not_trained_on() -> None:
    unsaid = {"decision": "NONE", "kind": "paraphrase", "target": None}
    assert Arbitrate().training_samples([FACTS[0] | unsaid]) == []
    with pytest.raises(ConfigError, match="'others' is 0: input should be greater than or equal to 1"):
        find_task("arbitrate", {"others": 0})


def decisions(rows: list, *answers: str) -> dict[str, float | None]:
    return values(Arbitrate(), answered(Arbitrate(), rows, *answers))


def test_a_right_action_with_the_wrong_target_is_wrong() -> None:
    new, changed = said("ADD", "new"), said("UPDATE", "correction")
    found = decisions(FACTS[:1], new, changed, new)
    assert found["accuracy"] == 0 and found["action_accuracy"] == 1 and found["kind_accuracy"] == 1
    assert decisions(FACTS[:1], changed, new, new)["accuracy"] == 1


def test_whole_rows_are_counted() -> None:
    task = Arbitrate()
    right = [task.target(sample) for sample in task.samples(FACTS)]
    found = decisions(FACTS, *right)
    assert found["accuracy"] == found["none_duplicate"] == found["macro_f1"] == found["kind_accuracy"] == 1
    assert found["false_positive_rate"] == found["false_negative_rate"] == found["unparsed_rate"] == 0
    nothing = decisions(FACTS, *["?"] * 7)
    assert nothing["false_positive_rate"] == nothing["false_negative_rate"] == nothing["unparsed_rate"] == 1
    one = decisions(FACTS, "?", *right[1:])
    assert one["accuracy"] == pytest.approx(2 / 3) and one["unparsed_rate"] == pytest.approx(1 / 3)
    metric = task.measures(answered(task, FACTS, *right))["accuracy"]
    assert len(metric.values) == 3 and measure(task.baselines(task.samples(FACTS))["most_frequent"]).n == 3
    details = task.details(answered(task, FACTS, "?", *right[1:]))
    assert details["by_kind"]["correction"] == {"rows": 1, "right": 0, "wrong": 0, "unparsed": 1}
    assert details["by_candidates"]["3"]["rows"] == 2


def test_a_confident_answer_outweighs_an_earlier_one() -> None:
    task, changed = Arbitrate(), said("UPDATE", "correction")
    texts = [(changed, -2.0), (changed, -0.1), (said("ADD", "new"), -0.01)]
    rows = [FACTS[0] | {"target": "m2"}]
    completions = [Completion(text, logprobs=(logprob,)) for text, logprob in texts]
    samples = task.samples(rows)
    records = [Record(s, c, task.score(s, c)) for s, c in zip(samples, completions, strict=True)]
    assert values(task, records)["accuracy"] == 1
    assert values(task, records[::-1])["accuracy"] == 1, "their order says nothing"
    unsaid = [replace(r, score=replace(r.score, confidence=None)) for r in records]
    assert values(task, unsaid)["accuracy"] == values(task, unsaid[::-1])["accuracy"] == 0
    assert task.score(samples[0], Completion(changed)).confidence is None


def test_a_row_is_shown_with_its_candidates() -> None:
    shown = Arbitrate().show(FACTS[0])
    assert shown["target"] == "UPDATE m7 (correction)"
    assert shown["prompt"].splitlines() == [
        "New: Ilse moved to Linz.",
        *(f"{c.id}: {c.text}" for c in STORED),
    ]


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
    samples = task.samples(rows)
    assert {sample.metadata["count"] for sample in samples} == {3} and len(samples) == 27
    right = [sample for sample in samples if sample.metadata["candidate"] == "1"]
    assert len({sample.id.partition("#")[2] for sample in right}) > 1
    for sample in right:
        assert sample.messages[-1].content.endswith(f"Stored: t{sample.id.partition('#')[0]}")
    assert len({sample.messages[-1].content for sample in samples}) == 27
    assert samples == task.samples(rows)
    alike = [rows[0], rows[1] | {"candidates": rows[0]["candidates"]}, rows[2]]
    for sample in (each for each in task.samples(alike) if each.metadata["row"] in ("0", "1")):
        assert sample.metadata["candidate"] == "1" or not sample.messages[-1].content.endswith("t0")


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
    assert len(samples) >= 30 and all(task.score(s, Completion(s.target or "")).value == 1 for s in samples)
    assert not any("the user" in sample.messages[-1].content.casefold() for sample in samples)
    assert all(row.get("language", "de") == "de" and row.get("kind") != "cross-language" for row in rows)
