"""Distillation of answers: whatever happens to the teacher, nothing is lost, asked twice, or taken over."""

import json
import random
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from tests.tools.fake_server import FakeServer, completion

from smidgen.config import parse_recipe
from smidgen.data.types import Completion, Request, Timing
from smidgen.errors import ConfigError, DataError, ModelError, WorkError
from smidgen.evaluation.report_model import Report
from smidgen.files import read_json
from smidgen.inference import Engine, open_engine
from smidgen.inference.http_server import Patience
from smidgen.pipeline import RunContext, plan_run, run_recipe, stages_of, teaching
from smidgen.pipeline.budgets import Budgets
from smidgen.pipeline.events import MessageEvent, StageEvent, StepEvent
from smidgen.pipeline.runner import check
from smidgen.pipeline.teaching_forecast import forecast_teaching
from smidgen.runs import Run

LABELS = ("pay", "card", "loan")
TAUGHT = ("data", "teach", "keep")
pytestmark = [
    pytest.mark.filterwarnings("ignore::smidgen.inference.http_server.TriedAgain"),
    pytest.mark.filterwarnings("ignore::smidgen.inference.http.NotAnswered"),
]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def query(number: int, split: str = "train", **changes: Any) -> dict[str, Any]:
    intent = LABELS[number % len(LABELS)]
    return {
        "id": f"{split}{number}",
        "split": split,
        "text": f"{split} about {number}",
        "intent": intent,
    } | changes


QUERIES = [*(query(n) for n in range(12)), *(query(n, "test") for n in range(3))]


def answers(times: int, said: Callable[[dict[str, Any], int], str]) -> list[dict[str, Any]]:
    """A recording of `times` candidates for every training query."""
    return [
        {"id": row["id"] if time == 1 else f"{row['id']}#{time}", "text": said(row, time)}
        for row in QUERIES
        if row["split"] == "train"
        for time in range(1, times + 1)
    ]


def mostly_right(row: dict[str, Any], time: int) -> str:
    """Right, but for the third candidate, which is wrong, and the fourth, which is no label."""
    return {3: "card" if row["intent"] != "card" else "pay", 4: "who knows"}.get(time, row["intent"])


class Distillation:
    """A recipe, its rows and its teacher in a folder."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.rows = write(folder / "rows.jsonl", QUERIES)
        self.teacher: dict[str, Any] = {"model": self.recorded(answers(4, mostly_right))}
        self.changes: dict[str, Any] = {}
        self.name = "taught"

    def recorded(self, rows: list[dict[str, Any]], name: str = "teacher") -> str:
        return str(write(self.folder / f"{name}.jsonl", rows))

    @property
    def context(self) -> RunContext:
        table = {
            "name": self.name,
            "task": "intent",
            "data": {"train": str(self.rows), "test": str(self.rows), "validation_fraction": 0.25},
            "train": {"method": "distill", "epochs": 1.0, "batch_size": 4, "max_length": 64},
            "teacher": {"max_tokens": 8} | self.teacher,
            "evaluate": {"max_tokens": 4, "baseline_constrained": False, "baseline_examples": 0},
        }
        return RunContext(parse_recipe(table | self.changes, source="test"), Run(self.folder / self.name))

    def go(self, only: tuple[str, ...] = TAUGHT) -> list[str]:
        """Run some stages; return the names of those that were not skipped."""
        self.events = list(run_recipe(self.context, only=only))
        return [event.stage for event in self.events if is_stage(event, "finished")]

    def file(self, name: str) -> Path:
        return self.folder / self.name / name

    def lines(self, name: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.file(name).read_text().splitlines()]

    def reasons(self) -> dict[str, str]:
        return {row["id"]: row["reason"] for row in self.lines("distilled/rejected.jsonl")}


def is_stage(event: Any, state: str) -> bool:
    return isinstance(event, StageEvent) and event.state == state


@pytest.fixture
def distillation(tmp_path: Path) -> Distillation:
    return Distillation(tmp_path)


def test_every_answer_is_kept_or_has_a_reason(distillation: Distillation):
    assert distillation.go() == list(TAUGHT)
    said, kept = distillation.lines("teaching/candidates.jsonl"), distillation.lines("distilled/kept.jsonl")
    assert len(said) == 48 and [row["id"] for row in said[:2]] == ["train0", "train0#2"]
    assert [row["id"] for row in kept] == [f"train{n}" for n in range(12)]
    assert all(row["target"] == row["gold"] for row in kept)
    reasons = distillation.reasons()
    assert {name.partition("#")[2]: why for name, why in reasons.items()} == {
        "2": "duplicate", "3": "wrong", "4": "unparsed",
    }  # fmt: skip
    assert {row["id"] for row in said} == reasons.keys() | {row["id"] for row in kept}
    (told,) = [event.text for event in distillation.events if isinstance(event, MessageEvent)]
    assert told == (
        "kept 12 of 48 answers, to 12 of 12 samples; dropped: 12 duplicate, 12 wrong, 12 unparsed"
    )
    held_out = [row["metadata"]["intent"] for row in kept if row["split"] == "validation"]
    assert sorted(held_out) == sorted(LABELS), "a quarter, of every label in proportion"
    context = distillation.context
    assert {one.id for one in context.validation_samples} == {
        row["id"] for row in kept if row["split"] == "validation"
    }
    assert len(context.training_samples) == 9
    assert not any("validation" in path.name for path in distillation.file("data").iterdir())


class Interrupted(Exception):
    """The process dies here."""


class Dying:
    """A recording that is finished in any order, and dies after some answers."""

    def __init__(self, path: str, generator: random.Random):
        self.texts = {row["id"]: row["text"] for row in map(json.loads, Path(path).read_text().splitlines())}
        self.generator, self.left, self.asked = generator, 0, []

    def complete(self, requests: list[Request]) -> Iterator[tuple[Request, Completion]]:
        waiting = list(requests)
        self.generator.shuffle(waiting)
        for request in waiting:
            if self.left == 0:
                raise Interrupted
            self.left -= 1
            self.asked.append(request.sample.id)
            yield request, Completion(self.texts[request.sample.id], timing=Timing(0.1, 0.2, 5, 1))

    def close(self) -> None:
        pass


@pytest.mark.slow
def test_after_twenty_interruptions_every_file_is_as_without(
    distillation: Distillation, monkeypatch: pytest.MonkeyPatch
):
    generator = random.Random(7)
    engine = Dying(distillation.teacher["model"], generator)
    monkeypatch.setattr(teaching, "open_engine", lambda options: engine)
    engine.left = 99
    distillation.go()
    results = [
        f"teaching/{teaching.CANDIDATES}",
        *(f"distilled/{name}" for name in ("kept.jsonl", "facts.json")),
    ]
    results.append("distilled/rejected.jsonl")
    whole = [distillation.file(name).read_bytes() for name in results]
    assert sorted(engine.asked) == sorted(engine.texts)
    distillation.name, engine.asked = "broken", []
    log = distillation.file("teaching/records.jsonl")
    for _ in range(20):
        engine.left = generator.randrange(4)
        with pytest.raises(Interrupted):
            distillation.go()
        if log.exists():  # killed in the middle of a line
            log.write_bytes(log.read_bytes() + b'{"id": "train3", "te'[: generator.randrange(20)])
    engine.left = 99
    assert distillation.go() == ["teach", "keep"]
    assert sorted(engine.asked) == sorted(engine.texts), "no answer was lost or asked for again"
    assert [distillation.file(name).read_bytes() for name in results] == whole
    assert read_json(distillation.file("teaching/spent.json")) | {"seconds": 0} == {
        "requests": 48, "prompt_tokens": 240, "completion_tokens": 48, "seconds": 0,
    }  # fmt: skip


class CutShort:
    """An engine that dies after some answers."""

    ANSWERS = 17

    def __init__(self, engine: Engine):
        self._engine = engine
        self.close = engine.close

    def complete(self, requests: list[Request]) -> Iterator[tuple[Request, Completion]]:
        yield from islice(self._engine.complete(requests), self.ANSWERS)
        raise Interrupted


def right(question: dict[str, Any]) -> str:
    return LABELS[int(question["messages"][-1]["content"].split()[-1]) % len(LABELS)]


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server is given up on soon."""
    quick = partial(Patience, retries=1, backoff=0.01)
    monkeypatch.setattr("smidgen.inference.http_server.Patience", quick)
    monkeypatch.setattr("smidgen.inference.http.Patience", quick)


@pytest.fixture
def server(distillation: Distillation, patience: None) -> Iterator[FakeServer]:
    """A teacher behind a URL, which answers one request after another and is right."""
    fake = FakeServer()
    fake.script = [answer_right] * 1000
    distillation.teacher = {"model": fake.url, "candidates": 2, "batch_size": 1}
    yield fake
    fake.close()


def answer_right(question: dict[str, Any]) -> tuple[int, dict[str, str], str]:
    return 200, {}, completion(right(question))


def test_a_teacher_that_dies_midway_loses_nothing(distillation: Distillation, server: FakeServer):
    def die(question: dict[str, Any]) -> None:
        server.stop()

    server.script[9] = die
    with pytest.raises(
        WorkError, match=r"cannot be reached .*; finished answers are kept, so fix the server"
    ):
        distillation.go()
    assert len(distillation.lines("teaching/records.jsonl")) == 9
    port = int(server.url.rpartition(":")[2].partition("/")[0])
    again = FakeServer(port)
    try:
        again.script = [answer_right] * 1000
        assert distillation.go() == ["teach", "keep"]
        assert len(again.requests) == 24 - 9
    finally:
        again.close()
    steps = [event for event in distillation.events if isinstance(event, StepEvent)]
    assert [step.is_new for step in steps] == [False] * 9 + [True] * 15
    assert {step.total for step in steps} == {24} and steps[-1].tokens == 3


def test_a_teacher_that_only_fails_is_named(distillation: Distillation, server: FakeServer):
    server.script[9:] = [(503, {}, "overloaded")] * 1000
    with pytest.raises(
        WorkError, match=r"answered 503: overloaded \(attempts: 2\); finished answers are kept"
    ):
        distillation.go()
    assert len(distillation.lines("teaching/records.jsonl")) == 9
    server.script = [answer_right] * 1000
    assert distillation.go() == ["teach", "keep"]


@pytest.mark.slow
def test_a_slow_teacher_is_waited_for_as_long_as_was_said(distillation: Distillation, server: FakeServer):
    distillation.teacher |= {"timeout": 0.1}
    server.script = [0.5] * 1000
    with pytest.raises(WorkError, match=r"did not answer within 0\.1 seconds \(attempts: 2\); finished"):
        distillation.go()
    distillation.teacher |= {"timeout": 30.0, "batch_size": 24}
    server.script = [answer_right] * 1000
    assert distillation.go() == ["teach", "keep"], "another timeout does not discard what was answered"


def test_what_is_no_answer_is_rejected_and_never_a_crash(distillation: Distillation, server: FakeServer):
    odd = [
        (200, {}, completion("")),
        (200, {}, completion(None)),
        (200, {}, "<html>busy</html>"),
        (200, {}, completion('{"intent": "pay"}')),
        (200, {}, completion("pay" * 5000)),
        (200, {}, completion("pay", reason="length")),
        (200, {}, completion("pay", reason="content_filter")),
        (200, {}, completion("\ud800<|im_end|>\x00")),
        (200, {}, completion("card", usage=None)),
    ]
    for number, answer in enumerate(odd):
        server.script[2 * number] = answer
    distillation.go()
    reasons = distillation.reasons()
    assert [reasons.get(f"train{n}") for n in range(9)] == [
        "empty", "empty", "not answered", "unparsed", "unparsed", "cut off at max_tokens", "not answered",
        "unparsed", "wrong",
    ]  # fmt: skip
    assert len(distillation.lines("distilled/kept.jsonl")) == 12
    assert read_json(distillation.file("teaching/spent.json"))["prompt_tokens"] is None


def test_the_training_alone_brings_what_it_needs(distillation: Distillation):
    assert distillation.go(only=("train",)) == [*TAUGHT, "train"]


def test_labels_that_contradict_each_other_confirm_nothing(distillation: Distillation):
    write(distillation.rows, [*QUERIES, query(0, id="other", intent="card")])
    assert distillation.go() == list(TAUGHT)
    messages = [event.text for event in distillation.events if isinstance(event, MessageEvent)]
    assert any("1 row: an earlier row has the same prompt but another label" in text for text in messages)
    told = "2 training samples, such as 'train0', are not asked: another row has the same prompt and another"
    assert any(told in text for text in messages)
    reasons = distillation.reasons()
    assert reasons["train0"] == reasons["other"] == "contradictory gold"
    assert len(distillation.lines("teaching/candidates.jsonl")) == 44
    assert read_json(distillation.file("distilled/facts.json"))["contradictory"] == 2


def test_nothing_kept_is_one_sentence_and_the_reasons_stay(distillation: Distillation):
    distillation.teacher = {"model": distillation.recorded(answers(4, lambda row, time: "who knows"))}
    with pytest.raises(
        WorkError, match=r"^0 rows have an answer of .*teacher\.jsonl that was kept, and at le"
    ):
        distillation.go()
    assert set(distillation.reasons().values()) == {"unparsed"}


def test_an_answer_that_does_not_fit_a_row_is_rejected(distillation: Distillation):
    said = answers(1, lambda row, time: row["intent"])
    said[0]["text"] = f"pay, that is {'x' * 300}"
    settings = {"message": "{{ text }}", "gold": "intent", "regex": "pay|card|loan"}
    train = {"method": "distill", "max_length": 40, "batch_size": 4}
    distillation.changes = {"task": "own", "settings": settings, "train": train}
    distillation.teacher = {"model": distillation.recorded(said), "candidates": 1}
    distillation.go()
    assert distillation.reasons() == {"train0": "does not fit a training row"}
    assert len(distillation.lines("distilled/kept.jsonl")) == 11


def judged(distillation: Distillation, **changes: Any) -> None:
    """A judge that grades the first candidates 5, the second 4, and does not grade the third of one row."""
    grades = {1: "[RESULT] 5", 2: "[RESULT] 4", 3: "no idea"}
    said = answers(3, lambda row, time: grades[time])
    different = answers(3, lambda row, time: f"answer {time}" if time < 3 else row["intent"])
    judge = {"model": distillation.recorded(said, "judge")} | changes
    distillation.teacher = {
        "model": distillation.recorded(different), "candidates": 3, "at_most": 3,
        "keep": "judge", "judge": judge,
    }  # fmt: skip


def test_a_judge_decides_and_another_threshold_asks_no_one_again(distillation: Distillation):
    judged(distillation)
    stages = ("data", "teach", "grade", "keep")
    assert distillation.go(stages) == list(stages)
    kept = distillation.lines("distilled/kept.jsonl")
    assert len(kept) == 24 and {row["target"] for row in kept} == {"answer 1", "answer 2"}
    assert set(distillation.reasons().values()) == {"not graded"}
    facts = read_json(distillation.file("distilled/facts.json"))
    assert (facts["kept_right"], facts["ceiling"]["value"]) == (0, 1.0), "the judge goes by no label"
    shown = distillation.lines("grading/records.jsonl")[0]["messages"][-1]["content"]
    assert "about 0" in shown and "answer 1" in shown and "Reference" not in shown
    sides: dict[str, set[str]] = {}
    for row in kept:
        sides.setdefault(row["messages"][-1]["content"], set()).add(row["split"])
    assert all(len(side) == 1 for side in sides.values()), "answers to one prompt are on the same side"
    judged(distillation, threshold=4.5)
    assert distillation.go(stages) == ["keep"]
    assert len(distillation.lines("distilled/kept.jsonl")) == 12
    assert list(distillation.reasons().values()).count("graded below the threshold") == 12
    judged(distillation, threshold=4.5, reference=True)
    assert distillation.go(stages) == ["grade", "keep"]
    shown = distillation.lines("grading/records.jsonl")[0]["messages"][-1]["content"]
    assert "###Reference Answer (Score 5):\npay" in shown


def test_what_changes_the_answers_asks_again_and_what_does_not_does_not(distillation: Distillation):
    distillation.go()
    distillation.teacher |= {"batch_size": 2, "at_most": 2, "prefer": "shortest"}
    assert distillation.go() == ["keep"]
    distillation.teacher |= {"seed": 1}
    assert distillation.go() == ["teach", "keep"]
    distillation.recorded(answers(4, lambda row, time: row["intent"]))
    assert distillation.go() == ["teach", "keep"]


def test_the_teacher_has_a_system_message_of_its_own(distillation: Distillation, server: FakeServer):
    distillation.teacher |= {"system": "Answer with pay, card or loan."}
    distillation.changes = {"settings": {"system": "Name it."}}
    distillation.go()
    assert {question["messages"][0]["content"] for question in server.requests} == {
        "Answer with pay, card or loan."
    }
    assert len({question["seed"] for question in server.requests}) == 24, "each candidate has its own seed"
    for row in distillation.lines("distilled/kept.jsonl"):
        assert row["messages"][0] == {"role": "system", "content": "Name it."}


def test_both_orders_of_a_pair_are_on_one_side(distillation: Distillation):
    data = {"train_limit": 8, "test_limit": 2, "validation_fraction": 0.3}
    train = {"method": "distill", "max_length": 512}
    distillation.changes = {"task": "judge", "data": data, "train": train}
    distillation.teacher = {"model": distillation.recorded([]), "candidates": 1, "max_tokens": 200}
    samples = distillation.context.tasks[0].training_samples
    distillation.recorded([{"id": one.id, "text": one.target} for one in samples])
    distillation.go()
    sides: dict[str, set[str]] = {}
    kept = distillation.lines("distilled/kept.jsonl")
    for row in kept:
        sides.setdefault(row["metadata"]["pair"], set()).add(row["split"])
    assert len(kept) == 16 and all(len(side) == 1 for side in sides.values())
    assert [next(iter(side)) for side in sides.values()].count("validation") == 2


def test_several_tasks_are_each_taught_and_learnt_together(distillation: Distillation):
    data = {"train": str(distillation.rows), "test": str(distillation.rows)}
    own = {"message": "Which? {{ text }}", "gold": "intent", "labels": list(LABELS)}
    tasks = [
        {"name": "intents", "task": "intent", "data": data},
        {"name": "queues", "task": "own", "settings": own, "data": data},
    ]
    table = {
        "name": "taught",
        "tasks": tasks,
        "teacher": distillation.teacher,
        "train": {"method": "distill", "max_length": 64},
    }
    context = RunContext(parse_recipe(table, source="test"), Run(distillation.folder / "taught"))
    only = ("data", "teach-intents", "keep-intents", "teach-queues", "keep-queues")
    list(run_recipe(context, only=only))
    learnt = context.training_samples
    assert len(learnt) + len(context.validation_samples) == 24
    assert {sample.messages[0].content.startswith("Which?") for sample in learnt} == {True, False}
    entries = [stage.entry(context) for stage in stages_of(context) if stage.name.startswith("keep-")]
    assert [
        entry["tasks"][name]["distillation"]["kept"]
        for entry, name in zip(entries, ("intents", "queues"), strict=True)
    ] == [12, 12]


@pytest.mark.parametrize(
    ("teacher", "changes", "kind", "message"),
    [
        ({"adapter": "nowhere"}, {}, ConfigError, "there is no adapter folder nowhere; check the path"),
        ({"model": "nowhere.jsonl"}, {}, ConfigError, r"there is no recording nowhere\.jsonl; expected"),
        ({"model": "no/where/at/all"}, {}, ModelError, "there is no folder no/where/at/all"),
        ({"candidates": 6}, {}, ConfigError, r"lacks 24 of the answers that .*, such as 'train0#5'"),
        ({"temperature": 1e-9}, {}, ConfigError, "temperature is 1e-09, expected 0 for greedy decoding, or"),
        (
            {"keep": "judge", "judge": {"model": "smidgen:nano", "rubric": " "}},
            {}, ConfigError, "the rubric is empty",
        ),
        (
            {"keep": "judge", "judge": {"model": "smidgen:nano", "adapter": "gone"}},
            {}, ConfigError, "there is no adapter folder gone",
        ),
        (
            {"constrained": True},
            {"task": "own", "settings": {"message": "{{ text }}", "gold": "intent"}},
            ConfigError, "cannot be constrained",
        ),
    ],
)  # fmt: skip
def test_what_could_not_be_finished_is_refused_before_anything_is_written(
    distillation: Distillation, teacher: dict, changes: dict, kind: type[Exception], message: str
):
    given = {"model": "smidgen:nano"} if "adapter" in teacher else {}
    distillation.teacher |= given | teacher
    distillation.changes = changes
    with pytest.raises(kind, match=message):
        distillation.go()
    assert not distillation.file("").exists()


def test_tasks_without_written_answers_are_refused(distillation: Distillation):
    question = {"question": "which?", "choices": ["a", "b"], "answer": 0}
    splits = ["train"] * 4 + ["test"]
    rows = [question | {"id": f"q{n}", "split": split} for n, split in enumerate(splits)]
    write(distillation.rows, rows)
    distillation.changes = {"task": "choice", "settings": {"prompt": "chat"}}
    with pytest.raises(ConfigError, match="the task choice has no written answers that are right or wrong"):
        check(distillation.context)


def test_clashing_ids_are_refused(distillation: Distillation):
    write(distillation.rows, [*QUERIES, query(20, id="train0#2")])
    with pytest.raises(DataError, match=r"rows\.jsonl: the id 'train0#2' belongs to a row and to a further"):
        distillation.go()


@pytest.mark.slow
def test_a_whole_distillation_with_its_report_and_card(distillation: Distillation):
    held_out = [{"id": row["id"], "text": "pay"} for row in QUERIES if row["split"] == "test"]
    distillation.recorded([*answers(4, mostly_right), *held_out])
    train = {"method": "distill", "epochs": 2.0, "batch_size": 4, "max_length": 64, "lora": {"rank": 2}}
    distillation.changes = {"train": train, "export": {"formats": ["peft"]}}
    names = [stage.name for stage in stages_of(distillation.context)]
    assert names == [
        "data", "teacher", "teach", "keep", "before", "train", "after", "export-peft", "peft", "report",
    ]  # fmt: skip
    assert distillation.go(()) == names
    report = Report.model_validate(read_json(distillation.file("report.json")))
    assert report.teacher is not None and report.teacher.metrics["accuracy"].value == pytest.approx(1 / 3)
    assert {"after_vs_teacher", "after_vs_before"} == set(report.comparisons)
    facts = report.distillation
    assert facts is not None and facts["accuracy"]["value"] == 0.5 and facts["ceiling"]["value"] == 1.0
    assert facts["rejected"] == {"duplicate": 12, "wrong": 12, "unparsed": 12}
    assert report.data is not None and report.data["train_rows"] == 9
    assert report.provenance.seeds["teacher"] == 0
    assert any("12 of the 12 kept answers are, word for word, the answer" in text for text in report.limits)
    page = distillation.file("report.html").read_text()
    assert "What it was taught" in page and "Dropped: unparsed" in page and ">Teacher</span>" in page
    card = distillation.file("exports/peft/README.md").read_text()
    assert "| accuracy of the teacher, held-out rows | 0.333 (" in card
    assert "| dropped: wrong | 12 |" in card and "| teacher | teacher.jsonl |" in card
    assert distillation.go(()) == []


def test_a_recording_without_the_held_out_rows_says_so(distillation: Distillation):
    assert distillation.go(("data", "teacher")) == ["data", "teacher"]
    found = read_json(distillation.file("evaluations/teacher/evaluation.json"))
    assert found == {"skipped": "the recording has no answers to these rows"}


def test_answers_of_one_run_are_the_recorded_teacher_of_another(distillation: Distillation):
    distillation.go()
    first = distillation.file("distilled/kept.jsonl").read_bytes()
    distillation.teacher = {"model": str(distillation.file("teaching/candidates.jsonl"))}
    distillation.name = "again"
    distillation.go()
    assert distillation.file("distilled/kept.jsonl").read_bytes() == first


def test_a_local_teacher_answers_alike_whatever_it_is_asked_together_with(distillation: Distillation):
    distillation.teacher = {
        "model": "smidgen:nano", "engine": "mlx", "constrained": True, "temperature": 1.5, "batch_size": 5,
    }  # fmt: skip
    distillation.go()
    whole = distillation.file("teaching/candidates.jsonl").read_bytes()
    distillation.name = "again"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(teaching, "open_engine", lambda options: CutShort(open_engine(options)))
        with pytest.raises(Interrupted):
            distillation.go()
    assert len(distillation.lines("teaching/records.jsonl")) == CutShort.ANSWERS
    distillation.go()
    assert distillation.file("teaching/candidates.jsonl").read_bytes() == whole
    assert len({row["text"] for row in distillation.lines("teaching/candidates.jsonl")}) > 1


def test_a_plan_counts_the_requests_and_prices_those_of_a_server(distillation: Distillation):
    distillation.teacher = {"model": "http://localhost:9/v1", "model_name": "gpt-4o-mini", "candidates": 4}
    found = forecast_teaching(Budgets(distillation.context))
    assert found is not None and (found.requests, found.held_out) == (12 * 4 + 3, 3)
    assert found.most_tokens == 51 * 8 and 51 * 2 <= found.likely_tokens < found.most_tokens
    assert found.likely_cost == pytest.approx((found.prompt_tokens * 0.15 + found.likely_tokens * 0.6) / 1e6)
    distillation.teacher |= {"model_name": "mine"}
    unpriced = forecast_teaching(Budgets(distillation.context))
    assert unpriced is not None and unpriced.most_cost is None
    distillation.teacher = {"model": "smidgen:nano"}
    local = forecast_teaching(Budgets(distillation.context))
    assert local is not None and not local.is_server and local.prompt_tokens == found.prompt_tokens
    distillation.teacher = {"model": distillation.recorded(answers(4, mostly_right))}
    assert forecast_teaching(Budgets(distillation.context)) is None


def test_a_dry_run_measures_a_local_teacher_and_asks_no_server(
    distillation: Distillation, server: FakeServer
):
    plan = plan_run(distillation.context)
    minutes = {stage.name: stage.minutes for stage in plan.stages}
    assert [stage.name for stage in stages_of(distillation.context)] == list(minutes)
    assert minutes["teacher"] == minutes["teach"] == 0.0 < minutes["keep"] and server.requests == []
    assert plan.notes == [
        f"the time of {server.url} is not in it: a plan asks no server; `smidgen plan` counts the requests"
    ]
    distillation.teacher = {"model": "smidgen:nano", "engine": "mlx", "candidates": 4}
    plan = plan_run(distillation.context)
    minutes = {stage.name: stage.minutes for stage in plan.stages}
    assert minutes["teach"] == pytest.approx(minutes["teacher"] * 12 * 4 / 3) and minutes["teach"] > 0
    assert plan.notes == [] and not distillation.file("").exists()


def critique(first: int, second: int) -> str:
    return (
        "<specific_criteria>Right (weight 1)</specific_criteria>\n<analysis>Checked.</analysis>\n"
        f"<scores>\n\\boxed{{{first}, {second}}}\n</scores>"
    )


def test_a_judge_learns_from_its_own_critiques_of_pairs_without_any(tmp_path: Path):
    rows = [
        {"id": str(n), "prompt": f"What is {n}?", "a": "right", "b": "wrong", "better": "a"} for n in range(4)
    ]
    said = {"ab": (9, 2), "ba": (2, 9)}
    recorded = [
        # the second order of pair 3 is judged wrongly
        {"id": f"{n}#{order}", "text": critique(*(said["ab"] if (n, order) == (3, "ba") else said[order]))}
        for n in range(4)
        for order in ("ab", "ba")
    ]
    pairs = str(write(tmp_path / "pairs.jsonl", rows))
    table = {
        "name": "critic",
        "task": "judge",
        "data": {"train": pairs, "test": "world", "test_limit": 2, "validation_fraction": 0.25},
        "teacher": {
            "model": str(write(tmp_path / "said.jsonl", recorded)),
            "candidates": 1,
            "whole_groups": True,
        },
        "train": {"method": "distill", "batch_size": 4},
        "evaluate": {"baseline_constrained": False, "baseline_examples": 0},
    }
    context = RunContext(parse_recipe(table, source="test"), Run(tmp_path / "critic"))
    assert context.awaits_answers and "has not been asked yet" in Budgets(context).batches.unread
    list(run_recipe(context, only=TAUGHT))
    kept = [json.loads(line) for line in context.run.path("distilled/kept.jsonl").read_text().splitlines()]
    assert sorted(row["id"] for row in kept) == [f"{n}#{order}" for n in range(3) for order in ("ab", "ba")]
    rejected = [
        json.loads(line) for line in context.run.path("distilled/rejected.jsonl").read_text().splitlines()
    ]
    assert {row["id"]: row["reason"] for row in rejected} == {
        "3#ba": "wrong",
        "3#ab": "another prompt of its group has no kept answer",
    }
    again = RunContext(context.recipe, context.run)
    assert not again.awaits_answers and {one.target for one in again.training_samples} <= {
        critique(9, 2),
        critique(2, 9),
    }
