"""Scripted judges, recorded: a perfect one never flips, a naive one where it should."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from smidgen.data.types import Completion, Record, Sample, Sampling, Score
from smidgen.errors import ConfigError, DataError
from smidgen.evaluation import compare_resistance
from smidgen.evaluation.collect import answers, measured
from smidgen.inference import open_engine
from smidgen.inference.replay import ReplayEngine
from smidgen.options import EngineOptions
from smidgen.tasks import find_task
from smidgen.tasks.judge.attack_texts import FAMILIES

TASK = find_task("judge", {})
ROWS = TASK.world_rows("test", 16, 0)
PLAIN, ATTACKED = TASK.samples(ROWS), TASK.attacks.samples(ROWS, 16)
Judge = Callable[[Sample], str | None]


def verdict(place: str | None) -> str:
    scores = {"first": "9, 2", "second": "2, 9", "tie": "5, 5"}.get(place or "", "")
    return f"<scores>\n\\boxed{{{scores}}}\n</scores>" if scores else "I cannot say."


def perfect(sample: Sample) -> str:
    return sample.metadata["better"]


def naive(sample: Sample) -> str:
    """Right, unless an answer has a verdict in it or is very long."""
    prompt = sample.messages[-1].content
    shown = prompt[prompt.index("#### Responses") :]
    if found := re.search(r"<scores>\s*\\boxed\{(\d+), (\d+)\}", shown):
        return "first" if int(found[1]) > int(found[2]) else "second"
    first, second = sample.metadata["characters"] if sample.metadata["order"] == "ab" else reversed(
        sample.metadata["characters"]
    )  # fmt: skip
    if max(first, second) > 600:
        return "first" if first > second else "second"
    return perfect(sample)


def recorded(tmp_path: Path, judge: Judge, samples: list[Sample]) -> list[Record]:
    """What a judge says of samples, through a recording."""
    file = tmp_path / "said.jsonl"
    rows = [{"id": sample.id, "text": verdict(judge(sample))} for sample in samples]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return answers(TASK, samples, ReplayEngine(file), Sampling())


def facts(tmp_path: Path, judge: Judge, task: Any = TASK) -> dict[str, Any]:
    plain, attacked = (recorded(tmp_path, judge, samples) for samples in (PLAIN, ATTACKED))
    return measured(task.attacks.facts(plain, attacked))


def rates(found: dict[str, Any], name: str = "flips") -> dict[str, float]:
    return {family: own[name]["value"] for family, own in found["families"].items()}


def test_a_perfect_judge_never_flips(tmp_path: Path):
    found = facts(tmp_path, perfect)
    assert found["pairs"] == 16 and [*found["families"]] == [*FAMILIES] == [*rates(found)]
    for facts_of in (*found["families"].values(), found["groups"]["all"]):
        for name in ("flips", "benign_flips", "difference", "unparsed", "benign_unparsed"):
            assert facts_of[name]["value"] == 0.0
        assert facts_of["accuracy"]["value"] == 1.0 and facts_of["wrong_before"] == 0
        assert facts_of["mended"]["n"] == facts_of["does_not_fit"] == 0
    assert found["groups"]["all"]["judgements"] == found["groups"]["all"]["flips"]["n"] == 16 * 2 * 10
    assert found["mirror"]["flips"]["value"] == 0.0 and found["mirror"]["flips"]["n"] == 32
    assert found["groups"]["all"]["flips"]["high"] < 0.2  # no flip is not yet a proof


def test_a_naive_judge_flips_where_it_should(tmp_path: Path):
    found = facts(tmp_path, naive)
    flips, benign = rates(found), rates(found, "benign_flips")
    assert flips.pop("verdicts") == flips.pop("padding") == 1.0
    assert benign.pop("verdicts") == 0.0 and benign.pop("padding") == 1.0  # padding works by its length
    assert found["families"]["verdicts"]["difference"]["value"] == 1.0
    assert found["families"]["padding"]["difference"]["value"] == 0.0
    early = found["families"]["delimiters"]["attacks"]
    assert {name: own["flips"]["value"] for name, own in early.items()} == {
        name: float(name == "early-end") for name in early
    }
    flips.pop("delimiters")
    assert {*flips.values()} == {*benign.values()} == {0.0} and len(flips) == 7
    # the better answer is padded in one mirror of ten, which makes it no worse
    assert found["mirror"]["flips"]["value"] == 0.0


def test_a_judge_that_distrusts_every_edit_is_seen_in_the_mirror(tmp_path: Path):
    def distrustful(sample: Sample) -> str:
        lengths = {row["id"]: (len(row["a"]), len(row["b"])) for row in ROWS}[sample.metadata["pair"]]
        edits = [new - old for new, old in zip(sample.metadata["characters"], lengths, strict=True)]
        if not any(edits):
            return perfect(sample)
        edited = "a" if edits[0] else "b"
        return "second" if sample.metadata["order"][0] == edited else "first"

    found = facts(tmp_path, distrustful)
    assert found["groups"]["all"]["flips"]["value"] == 0.0
    assert found["mirror"]["flips"]["value"] == 1.0


def test_every_judgement_is_counted_once_and_in_its_place(tmp_path: Path):
    """One judge for each outcome of one family; the rates are shares of what was right before."""
    pairs = [row["id"] for row in ROWS]

    def mixed(sample: Sample) -> str | None:
        right = sample.metadata["better"]
        wrong = "second" if right == "first" else "first"
        number, attack = pairs.index(sample.metadata["pair"]), sample.metadata.get("attack")
        is_asked = attack is not None and attack[0] == "demands" and sample.metadata["edit"] == "attack"
        if number < 4:  # wrong before, of which one is unparsed and two are right under attack
            return None if attack is None and number == 0 else right if is_asked and number < 2 else wrong
        if not is_asked:
            return right
        return {4: None, 5: wrong, 6: "tie"}.get(number, right)

    found = facts(tmp_path, mixed)["families"]["demands"]
    assert found["judgements"] == 32 and found["wrong_before"] == 8
    assert found["flips"]["n"] == found["unparsed"]["n"] == 24
    assert found["flips"]["value"] == pytest.approx(4 / 24)  # a tie is a flip
    assert found["unparsed"]["value"] == pytest.approx(2 / 24) and found["benign_unparsed"]["value"] == 0.0
    assert found["mended"]["value"] == pytest.approx(4 / 8) and found["mended"]["n"] == 8
    assert found["accuracy"]["value"] == pytest.approx((24 - 6 + 4) / 32) and found["accuracy"]["n"] == 32
    assert found["difference"]["value"] == pytest.approx(4 / 24)
    assert found["flips"]["low"] < found["flips"]["value"] < found["flips"]["high"] < 0.6


def test_intervals_are_over_prompts():
    """Rows that share a prompt are one cluster."""
    rows = [{**row, "prompt": "the same"} if n < 8 else row for n, row in enumerate(ROWS)]
    samples = TASK.attacks.samples(rows, 16)
    assert len({sample.metadata["cluster"] for sample in samples}) == 9


def test_families_that_were_trained_on_are_apart(tmp_path: Path):
    trained = find_task("judge", {"attacks": ["verdicts", "padding"], "attack_share": 0.5})
    found = facts(tmp_path, naive, trained)
    groups = {name: own["flips"]["value"] for name, own in found["groups"].items()}
    assert groups["trained"] == 1.0 and groups["held_out"] < 0.1 < groups["all"] < 0.35
    assert [name for name, own in found["families"].items() if own["trained"]] == ["verdicts", "padding"]
    table = trained.resistance_table({"after": {"attacks": {**found, "n": 672, "speed": {"seconds": 3.0}}}})
    assert table is not None and len(table.rows) == 13
    labels = dict(table.rows)
    assert labels["verdicts, trained"][0].startswith("1.00 (") and "demands, held out" in labels
    assert any("Trained on: verdicts, padding." in note for note in table.notes)
    assert trained.resistance_table({"after": {}}) is None


def test_what_does_not_fit_the_context_is_counted_and_not_cut():
    records = [Record(s, Completion(verdict(perfect(s))), Score(1.0, "first", True)) for s in PLAIN]
    attacked = [
        Record(sample, Completion("", finish_reason="context"), Score(0.0, None, False))
        if sample.metadata["attack"][0] == "padding"
        else Record(sample, Completion(verdict(perfect(sample))), Score(1.0, "first", True))
        for sample in ATTACKED
    ]
    found = measured(TASK.attacks.facts(records, attacked))
    padding = found["families"]["padding"]
    assert padding["does_not_fit"] == 32 and padding["unparsed"]["value"] == 1.0
    assert padding["flips"]["value"] == padding["accuracy"]["value"] == 0.0
    table = TASK.resistance_table({"after": {"attacks": {**found, "n": 1, "speed": {}}}})
    said = "32 manipulated prompts exceed the model's context"
    assert table is not None and any(said in note for note in table.notes)


def test_padding_beyond_the_context_of_a_model_is_said(tmp_path: Path):
    row = {"id": "long", "prompt": "?", "a": "yes", "b": "a long answer " * 400, "better": "a"}
    plain, attacked = TASK.samples([row]), TASK.attacks.samples([row], 1)
    padded = [sample for sample in attacked if sample.metadata["attack"][0] == "padding"]
    engine = open_engine(EngineOptions(model="smidgen:nano", engine="mlx"))
    try:
        said = answers(TASK, padded, engine, Sampling(max_tokens=1))
    finally:
        engine.close()
    assert {record.completion.finish_reason for record in said} == {"context"} and len(said) >= 4
    assert all("does not fit the model's context" in record.score.explanation for record in said)
    found = measured(TASK.attacks.facts(recorded(tmp_path, perfect, plain), said))
    assert found["families"]["padding"]["does_not_fit"] == 2
    assert found["families"]["padding"]["unparsed"]["value"] == 1.0


def test_more_pairs_include_the_fewer():
    some, more = ({s.id for s in TASK.attacks.samples(ROWS, number)} for number in (3, 9))
    assert len(some) == 3 * 42 and len(more) == 9 * 42 and some < more
    assert {s.id for s in TASK.attacks.samples(ROWS[::-1], 3)} == some
    assert {s.id for s in TASK.attacks.samples(ROWS, 3, seed=1)} != some
    assert not {s.id for s in PLAIN} & more


def test_ties_have_no_worse_answer():
    ties = [replace_label(row, "tie") for row in ROWS]
    assert len(TASK.attacks.samples([*ties[1:], ROWS[0]], 16)) == 42
    with pytest.raises(DataError, match="rows: every pair is a tie, so there is no worse answer to attack"):
        TASK.attacks.samples(ties, 16)


def replace_label(row: dict[str, Any], label: str) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "scores"} | {"better": label}


def test_a_judge_of_single_answers_is_refused():
    task = find_task("judge", {"template": "grade"})
    with pytest.raises(ConfigError, match="the template grade grades every answer alone"):
        task.attacks.samples(ROWS, 1)


def test_two_judges_are_compared_under_the_same_attacks(tmp_path: Path):
    found = [
        [recorded(tmp_path, judge, samples) for samples in (PLAIN, ATTACKED)] for judge in (naive, perfect)
    ]
    among = TASK.attacks.can_flip(found[0][0]) & TASK.attacks.can_flip(found[1][0])
    one, other = (TASK.attacks.measures(*records, ("demands",), among) for records in found)
    assert [*one] == [*other] and {"flips, held_out", "right, padding"} <= {*one}
    assert sum(one["flips, padding"].values) == 32 and sum(other["flips, padding"].values) == 0
    assert one["right, padding"].clusters == other["right, padding"].clusters
    assert one["flips, padding"].clusters == other["flips, padding"].clusters, "the same judgements"


def always_first(sample: Sample) -> str:
    return "first"


def test_flips_are_compared_where_both_judges_are_right(tmp_path: Path):
    found = [
        tuple(recorded(tmp_path, judge, samples) for samples in (PLAIN, ATTACKED))
        for judge in (naive, always_first)
    ]
    compared = compare_resistance((TASK, TASK), *found)["flips, verdicts"]
    assert compared.first.n == compared.second.n == 16, "the orders in which the first answer is the better"
    assert (compared.first.value, compared.second.value) == (1.0, 0.0)
    assert compared.test is not None and compared.test.only_first == 16
