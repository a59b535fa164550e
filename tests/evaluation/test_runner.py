import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from smidgen.data.types import Completion, Constraint, Request, Sample, Sampling, Timing
from smidgen.errors import ConfigError, DataError, WorkError
from smidgen.evaluation import collect_records, compare, evaluate, read_log, read_records, summarise
from smidgen.files import exclusive
from smidgen.tasks import Answers, Intent, JudgeTask

TASK = JudgeTask()
ANSWERS = {"a": "yes", "b": "no"}
SAMPLES = TASK.samples(
    [
        ANSWERS | {"id": f"p{n}", "prompt": f"{n}?", "better": "ab"[n % 2], "subset": f"s{n % 2}"}
        for n in range(6)
    ]
)
OTHERWISE = (
    "'p5#ba' was asked with other messages, labels, sampling, constraint, model or task version: "
    "another engine, adapter, --decode or --kv-bits counts as another model"
)
FIRST = "<scores>\\boxed{9, 2}</scores>"
SECOND = "<scores>\\boxed{2, 9}</scores>"


class Scripted:
    """Answers from a function, the last request first, and counts what it was asked."""

    def __init__(self, answer=lambda sample: FIRST, *, stop_after: int | None = None) -> None:
        self.answer = answer
        self.stop_after = stop_after
        self.requests: list[Request] = []

    def complete(self, requests: Iterable[Request]) -> Iterator[tuple[Request, Completion]]:
        for number, request in enumerate(reversed(list(requests))):
            if number == self.stop_after:
                raise KeyboardInterrupt
            self.requests.append(request)
            timing = Timing(time_to_first_token=0.1, seconds=0.5, prompt_tokens=7, completion_tokens=4)
            yield request, Completion(self.answer(request.sample), (1, 2, 3, 4), timing=timing)


def right(sample: Sample) -> str:
    return FIRST if sample.metadata["better"] == "first" else SECOND


def run(path: Path, engine: Scripted, **changes):
    return evaluate(
        **{
            "task": TASK,
            "samples": SAMPLES,
            "engine": engine,
            "sampling": Sampling(),
            "records_path": path,
            "model": "scripted",
            "data": "six pairs",
            **changes,
        }
    )


class Cramped(Scripted):
    """As its parent, but two prompts fill its context."""

    def complete(self, requests: Iterable[Request]) -> Iterator[tuple[Request, Completion]]:
        for request, completion in super().complete(requests):
            fits = not request.sample.id.startswith("p3")
            yield request, completion if fits else Completion("", finish_reason="context")


def test_a_prompt_that_does_not_fit_is_wrong_and_named(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    evaluation = run(path, Cramped(right)).to_json()
    assert evaluation["details"] == {"unparsed": {"the prompt does not fit the model's context": 2}}
    assert evaluation["metrics"]["accuracy"]["value"] == pytest.approx(10 / 12)
    assert evaluation["metrics"]["unparsed_rate"]["value"] == pytest.approx(2 / 12)
    assert evaluation["speed"]["completion_tokens"] == 40  # those that were asked
    again = Cramped(right)
    assert run(path, again).to_json() == evaluation
    assert not again.requests


def test_an_evaluation_as_json(tmp_path: Path) -> None:
    evaluation = run(tmp_path / "records.jsonl", Scripted()).to_json()
    assert json.loads(json.dumps(evaluation, allow_nan=False)) == evaluation
    assert {key: evaluation[key] for key in ("task", "version", "model", "data", "n")} == {
        "task": "judge",
        "version": 3,
        "model": "scripted",
        "data": "six pairs",
        "n": 12,
    }
    assert evaluation["metrics"]["accuracy"] == {"value": 0.5, "low": 0.5, "high": 0.5, "n": 12}
    assert evaluation["metrics"]["consistency"]["value"] == 0.0
    assert evaluation["metrics"]["consistency"]["high"] > 0.3  # six pairs prove little
    assert set(evaluation["baselines"]) == {"longer", "first", "random"}
    assert set(evaluation["subsets"]) == {"s0", "s1"}
    assert evaluation["subsets"]["s0"]["accuracy"]["n"] == 6
    assert evaluation["details"] == {"unparsed": {}}
    assert evaluation["speed"]["latency_p50"] == evaluation["speed"]["latency_p95"] == 0.5
    assert evaluation["speed"]["completion_tokens"] == 48
    assert evaluation["speed"]["tokens_per_second"] == pytest.approx(48 / evaluation["speed"]["seconds"])


def test_records_are_rows_that_other_tools_can_read(tmp_path: Path) -> None:
    run(tmp_path / "records.jsonl", Scripted())
    row = json.loads((tmp_path / "records.jsonl").read_text().splitlines()[0])
    assert row["id"] == "p5#ba" and row["text"] == FIRST and row["token_count"] == 4
    assert row["messages"][0]["role"] == "system" and row["metadata"]["pair"] == "p5"
    assert (row["score"], row["answer"], row["parsed"]) == (1.0, "first", True)


def test_records_read_back_are_those_that_were_yielded(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    yielded = list(collect_records(TASK, SAMPLES, Scripted(), Sampling(), path, model="m"))
    kept = [
        replace(record, completion=replace(record.completion, token_ids=()), sample=record.sample)
        for record in yielded
    ]
    assert read_records(path) == kept


def test_a_killed_run_goes_on_where_it_was(tmp_path: Path) -> None:
    path, whole = tmp_path / "records.jsonl", tmp_path / "whole.jsonl"
    with pytest.raises(KeyboardInterrupt):
        run(path, Scripted(right, stop_after=5))
    content = path.read_bytes()
    path.write_bytes(content[:-10])  # a torn last line
    engine = Scripted(right)
    resumed, uninterrupted = run(path, engine), run(whole, Scripted(right))
    assert len(engine.requests) == 12 - 4
    assert replace(resumed, speed=uninterrupted.speed) == uninterrupted
    assert [json.loads(line)["session"] for line in path.read_text().splitlines()] == [0] * 4 + [1] * 8
    assert resumed.speed.completion_tokens == 48
    assert sorted(record.sample.id for record in read_records(path)) == sorted(s.id for s in SAMPLES)


def test_a_finished_run_asks_nothing(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    first, engine = run(path, Scripted()), Scripted()
    assert run(path, engine) == first
    assert engine.requests == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "another"}, OTHERWISE),
        ({"sampling": Sampling(max_tokens=7)}, OTHERWISE),
        (
            {"samples": SAMPLES[:-1]},
            "'p5#ba' is not one of these samples: --limit, --seed or the data differ",
        ),
        ({"samples": [replace(s, messages=s.messages[:1]) for s in SAMPLES]}, OTHERWISE),
    ],
)
def test_records_of_another_evaluation_are_refused(tmp_path: Path, changes: dict, message: str) -> None:
    path = tmp_path / "records.jsonl"
    run(path, Scripted())
    before = path.read_bytes()
    with pytest.raises(
        DataError, match=f"contains the records of another evaluation \\({message}\\); give another --out"
    ):
        run(path, Scripted(), **changes)
    assert path.read_bytes() == before


def test_a_row_that_stands_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    run(path, Scripted())
    path.write_bytes(path.read_bytes() * 2)
    with pytest.raises(DataError, match="'p5#ba' occurs twice"):
        run(path, Scripted())


def test_unanswered_samples_fail_the_run_and_keep_the_rest(tmp_path: Path) -> None:
    class Forgetful(Scripted):
        def complete(self, requests: Iterable[Request]) -> Iterator[tuple[Request, Completion]]:
            return super().complete(list(requests)[2:])

    path = tmp_path / "records.jsonl"
    with pytest.raises(WorkError, match=r"the engine left 2 of 12 samples unanswered, including 'p0#ab'"):
        run(path, Forgetful())
    assert len(read_records(path)) == 10
    with pytest.raises(
        DataError, match=r"2 of 12 samples have no record, beginning with 'p0#ab'; run the evaluation again"
    ):
        summarise(TASK, SAMPLES, read_log(path), model="scripted")


def test_what_is_not_a_records_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"records file .*none\.jsonl not found; run the evaluation first"):
        read_records(tmp_path / "none.jsonl")
    (tmp_path / "other.jsonl").write_text('{"id": "p"}\n')
    with pytest.raises(DataError, match=r"other\.jsonl: row 1 is not a record \(KeyError: 'messages'\)"):
        read_records(tmp_path / "other.jsonl")


def test_the_stop_strings_of_a_task_are_asked_for(tmp_path: Path) -> None:
    task, engine = JudgeTask(), Scripted()
    task.stop, task.stop_after = ("END",), ("</x>",)
    run(tmp_path / "records.jsonl", engine, task=task, sampling=Sampling(stop=("X",), max_tokens=9))
    assert {request.sampling for request in engine.requests} == {
        Sampling(stop=("X", "END"), stop_after=("</x>",), max_tokens=9)
    }


def test_the_constraint_of_a_task_is_asked_for_where_it_is_wanted(tmp_path: Path) -> None:
    task, engine = JudgeTask(), Scripted()
    task.form.constraint = Constraint("regex", "a|b")
    for name, constrained in (("free", False), ("held", True)):
        run(tmp_path / f"{name}.jsonl", engine, task=task, constrained=constrained)
    assert [request.constraint for request in engine.requests] == [None] * 12 + [task.constraint] * 12
    for name, constrained in (("free", True), ("held", False)):
        with pytest.raises(DataError, match="with other messages, labels, sampling, constraint, model"):
            run(tmp_path / f"{name}.jsonl", engine, task=task, constrained=constrained)
    task.form.constraint = Constraint("regex", "a")
    with pytest.raises(DataError, match="with other messages, labels, sampling, constraint, model"):
        run(tmp_path / "held.jsonl", engine, task=task, constrained=True)
    rows = [{"prompt": "1 + 1?", "answer": "2"}]
    refused = "the task answers cannot be constrained: the task has no output constraint; turn constrained"
    with pytest.raises(ConfigError, match=refused):
        run(
            tmp_path / "none.jsonl", engine, task=Answers(), samples=Answers().samples(rows), constrained=True
        )


def test_a_constraint_says_itself_where_an_answer_ends(tmp_path: Path) -> None:
    engine = Scripted()
    run(tmp_path / "free.jsonl", engine)
    run(tmp_path / "held.jsonl", engine, constrained=True)
    stops = [request.sampling.stop_after for request in engine.requests]
    assert stops == [("</scores>",)] * 12 + [()] * 12


def test_a_recording_has_no_speed(tmp_path: Path) -> None:
    class Recording:
        def complete(self, requests: Iterable[Request]) -> Iterator[tuple[Request, Completion]]:
            return ((request, Completion(FIRST)) for request in requests)

    speed = run(tmp_path / "records.jsonl", Recording()).speed  # type: ignore[arg-type]
    assert (
        speed.tokens_per_second is speed.latency_p50 is speed.latency_p95 is speed.completion_tokens is None
    )


def test_intent_goes_through_the_same_runner(tmp_path: Path) -> None:
    rows = [{"id": str(n), "text": f"{n}?", "intent": ("time", "oos")[n % 2]} for n in range(4)]
    task = Intent().prepare(rows)
    engine = Scripted(lambda sample: "time")
    evaluation = run(tmp_path / "r.jsonl", engine, task=task, samples=task.samples(rows)).to_json()
    assert evaluation["metrics"]["in_scope_accuracy"]["value"] == 1.0
    assert evaluation["metrics"]["oos_recall"]["value"] == 0.0
    assert evaluation["details"]["confusions"] == [{"true": "oos", "predicted": "time", "count": 2}]
    assert evaluation["subsets"] == {}


# --- two models on the same rows ---


def records_of(path: Path, answer) -> list:
    return list(collect_records(TASK, SAMPLES, Scripted(answer), Sampling(), path, model="m"))


def test_comparison(tmp_path: Path) -> None:
    good, poor = records_of(tmp_path / "a", right), records_of(tmp_path / "b", lambda sample: FIRST)
    comparisons = compare(TASK, good, poor[::-1])
    accuracy = comparisons["accuracy"].to_json()
    assert accuracy["first"]["value"] == 1.0 and accuracy["second"]["value"] == 0.5
    assert accuracy["difference"] == {"value": 0.5, "low": 0.5, "high": 0.5, "n": 6}
    assert (accuracy["only_first"], accuracy["only_second"], accuracy["n"]) == (6, 0, 6)
    assert accuracy["p_value"] == pytest.approx(2 * 0.5**6)
    assert comparisons["consistency"].to_json()["only_first"] == 6


def test_no_test_where_the_units_differ(tmp_path: Path) -> None:
    decided = records_of(tmp_path / "a", right)
    silent = records_of(tmp_path / "b", lambda s: FIRST if s.id == "p0#ab" else "?")
    comparison = compare(TASK, decided, silent)["prefer_first_rate"].to_json()
    assert comparison["second"]["n"] == 1
    assert comparison["p_value"] is comparison["only_first"] is None


def test_different_rows_are_not_compared(tmp_path: Path) -> None:
    records = records_of(tmp_path / "a", right)
    with pytest.raises(DataError, match=r"different rows \(12 and 11, and only the first has 'p5#ba'\)"):
        compare(TASK, records, records[1:])
    other = replace(records[0].sample, messages=records[0].sample.messages[:1])
    with pytest.raises(
        DataError, match="have different prompts for 'p5#ba'; compare runs of the same task version"
    ):
        compare(TASK, records, [replace(records[0], sample=other), *records[1:]])


def test_models_are_compared_in_the_metrics_that_both_have(tmp_path: Path) -> None:
    """A base whose answers do not parse has no scores, so nothing that is made of scores."""
    run(tmp_path / "trained.jsonl", Scripted(right))
    run(tmp_path / "base.jsonl", Scripted(lambda sample: "no idea"))
    records = [read_records(tmp_path / name) for name in ("trained.jsonl", "base.jsonl")]
    found = compare(TASK, *records)
    assert found["accuracy"].difference.value == 1.0
    assert "length_correlation" in TASK.measures(records[0])
    assert "length_correlation" not in found
    assert set(compare(TASK, *records[::-1])) == set(found)


def test_a_file_of_records_is_written_by_one_process_alone(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    with (
        exclusive(path),
        pytest.raises(WorkError, match=r"jsonl is in use by another process; wait"),
    ):
        run(path, Scripted())
    assert path.read_bytes() == b""
    run(path, Scripted())
