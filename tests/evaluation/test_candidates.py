"""Which answers are kept, and the reason of every one that is not."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smidgen.data.types import Completion, Message, Record, Sample, Score
from smidgen.errors import DataError
from smidgen.evaluation.candidates import (
    Candidate,
    Reason,
    by_gold,
    candidates_of,
    contradictory,
    filter_facts,
    keep_best,
    keep_whole,
    refuse_clashing_ids,
    repeated,
    taught,
)
from smidgen.evaluation.collect import measured
from smidgen.tasks import Intent

TASK = Intent(["yes", "no"])


def sample(name: str = "s", gold: str = "yes", prompt: str | None = None) -> Sample:
    return Sample(name, (Message("user", prompt or name),), gold, {"intent": gold})


def candidate(text: str, number: int = 1, reason: str = "stop", of: Sample | None = None) -> Candidate:
    asked = of or sample()
    score = TASK.score(asked, Completion(text))
    name = asked.id if number == 1 else f"{asked.id}#{number}"
    return Candidate(name, asked, text, reason, 3, score)


def filtered(*candidates: Candidate, **settings):
    given_ = {"fits": lambda sample: "", "at_most": 9, "prefer": "first"} | settings
    kept, rejected = keep_best(candidates, by_gold, **given_)
    return [one.id for one in kept], {one.candidate.id: one.fault for one in rejected}


@pytest.mark.parametrize(
    ("text", "reason", "why", "detail"),
    [
        ("yes", "context", Reason.UNANSWERED, "the prompt does not fit the model's context"),
        ("yes", "error", Reason.UNANSWERED, "the server failed on this request, although it answers others"),
        ("yes", "length", Reason.CUT_OFF, ""),
        (" \n", "stop", Reason.EMPTY, ""),
        ("perhaps", "stop", Reason.UNPARSED, "'perhaps' is none of the 2 labels"),
        ("no", "stop", Reason.WRONG, "no"),
    ],
)
def test_the_reason_of_an_answer_that_is_not_kept(text: str, reason: str, why: Reason, detail: str):
    assert filtered(candidate(text, reason=reason)) == ([], {"s": (why, detail)})


def test_equal_answers_are_kept_once_and_only_so_many():
    answers = [candidate(text, n) for n, text in enumerate(["Yes", " Yes ", "yes", "YES"], start=1)]
    kept, rejected = filtered(*answers)
    assert kept == ["s", "s#3", "s#4"] and rejected == {"s#2": (Reason.DUPLICATE, "s")}
    kept, rejected = filtered(*answers, at_most=1)
    assert kept == ["s"] and rejected["s#3"] == rejected["s#4"] == (Reason.SURPLUS, "")
    longer = [candidate("yes" + " " * n, n, of=replace(sample(), id="t")) for n in (1,)]
    assert filtered(*answers, *longer, at_most=1)[0] == ["s", "t"], "at most one of each sample"


def test_the_shortest_answer_can_be_preferred():
    labels = Intent(["a_b"])
    asked = sample(gold="a_b")
    found = [
        Candidate(name, asked, text, "stop", 1, labels.score(asked, Completion(text)))
        for name, text in (("s", "a   b"), ("s#2", "a b"), ("s#3", "A  B"))
    ]
    assert filtered(*found, at_most=1, prefer="shortest")[0] == ["s#2"]
    assert filtered(*found, at_most=2, prefer="shortest")[0] == ["s#2", "s#3"]


def test_what_cannot_be_trained_on_makes_room_for_another():
    answers = [candidate("yes", 1), candidate("Yes", 2)]
    kept, rejected = filtered(*answers, at_most=1, fits=lambda s: "too long" if s.target == "yes" else "")
    assert kept == ["s#2"] and rejected == {"s": (Reason.UNTRAINABLE, "too long")}


def test_the_student_is_shown_the_prompt_of_the_task_and_the_answer_without_space():
    asked = sample()
    learnt = taught(candidate(" Yes\n", 2, of=asked))
    assert (learnt.id, learnt.messages, learnt.target) == ("s#2", asked.messages, "Yes")


@given(st.permutations(range(6)), st.integers(1, 3))
def test_candidates_are_in_the_order_of_the_samples(order: list[int], times: int):
    samples = [sample(f"s{n}") for n in range(2)]
    asked = repeated(samples, times)
    assert len({one.id for one in asked}) == len(asked) == 2 * times
    records = [Record(one, Completion(one.id), Score(0.0, None, parsed=False)) for one in asked]
    shuffled = [records[index] for index in order if index < len(records)]
    found = candidates_of(samples, shuffled, times)
    assert [one.id for one in found] == [one.text for one in found] == [one.id for one in asked]
    assert [one.sample for one in found] == [one for one in samples for _ in range(times)]


def test_a_candidate_is_read_back_as_it_was_written():
    said = candidate("perhaps", 2)
    assert Candidate.from_json(said.to_json(), said.sample) == said


def test_labels_that_contradict_each_other_are_found():
    same = [sample("a", "yes", "q"), sample("b", "yes", "q")]
    assert contradictory(TASK, same) == []
    other = sample("c", "no", "q")
    assert contradictory(TASK, [*same, other, sample("d", "no")]) == [*same, other]
    spelled = [sample("a", "yes", "q"), sample("b", "Yes", "q")]
    assert contradictory(TASK, spelled) == [], "another spelling of the same label"


def test_ids_of_candidates_that_would_clash_are_refused():
    rows = [sample("a"), sample("a#2")]
    refuse_clashing_ids(rows, 1, "rows.jsonl")
    with pytest.raises(DataError, match=r"rows\.jsonl: the id 'a#2' belongs to a row and to a further cand"):
        refuse_clashing_ids(rows, 2, "rows.jsonl")


def test_facts_tell_the_ceiling_and_what_the_filter_left():
    rows = [sample(f"s{n}", "yes" if n < 3 else "no") for n in range(4)]
    said = [["yes", "no"], ["no", "yes"], ["no", "no"], ["No", "no"]]
    candidates = [
        candidate(text, number, of=row)
        for row, texts in zip(rows, said, strict=True)
        for number, text in enumerate(texts, start=1)
    ]
    kept, rejected = keep_best(candidates, by_gold, fits=lambda _: "", at_most=1, prefer="first")
    facts = measured(filter_facts(candidates, kept, rejected))
    assert facts["ceiling"]["value"] == 0.75 and facts["ceiling"]["n"] == 4
    assert facts["accuracy"]["value"] == 0.5 and facts["accuracy"]["n"] == 8
    assert (facts["kept"], facts["kept_samples"], facts["kept_right"], facts["same_as_gold"]) == (3, 3, 3, 2)
    assert facts["rejected"] == {"wrong": 4, "more than at_most": 1}
    assert facts["kept"] + sum(facts["rejected"].values()) == facts["answers"] == 8
    assert facts["by_label"] == {"no": {"asked": 1, "kept": 1}, "yes": {"asked": 3, "kept": 2}}
    unlike = [candidate(text, of=sample(text, text)) for text in ("yes", "no")]
    assert filter_facts(unlike, [], [])["by_label"] is None, "no two samples have the same target"


def test_only_whole_groups_are_kept_if_wished():
    first, second, third = (sample(name) for name in ("1#ab", "1#ba", "2#ab"))
    kept = [candidate("yes", of=first), candidate("yes", of=second), candidate("yes", of=third)]
    whole, rejected = keep_whole(kept, [], [[first, second], [third, sample("2#ba")]])
    assert [one.id for one in whole] == ["1#ab", "1#ba"]
    assert [(one.candidate.id, one.fault.reason) for one in rejected] == [("2#ab", Reason.ALONE)]
