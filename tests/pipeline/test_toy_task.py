"""A new task is one file: here a toy one goes through a whole run, from rows to report, without any other."""

import csv
import importlib.util
from pathlib import Path

import pytest

from smidgen.config import parse_recipe
from smidgen.data.types import Message, Sample
from smidgen.evaluation.report_model import Report
from smidgen.files import read_json
from smidgen.pipeline import RunContext, run_recipe, stages_of
from smidgen.pipeline.data_stage import facts_by_task
from smidgen.pipeline.events import MetricEvent, StageEvent, result_of
from smidgen.runs import Run
from smidgen.tasks import TASKS
from smidgen.tasks.task import Row, Task
from smidgen.tasks.words import ClaimWords, TaskWords


class Shouting(Task):
    """A word goes in and comes out in capitals."""

    name = "shouting"
    words = TaskWords(ClaimWords("model", "shouts", "words", "words"), limits="Only short words were tried.")

    def samples(
        self, rows: list[Row], *, source: str = "rows", rejected: list[str] | None = None
    ) -> list[Sample]:
        return [Sample(row["word"], (Message("user", row["word"]),)) for row in rows]

    def target(self, sample: Sample) -> str:
        return sample.id.upper()


@pytest.fixture
def words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A CSV of words, and the task registered."""
    monkeypatch.setitem(TASKS, Shouting.name, Shouting)
    path = tmp_path / "words.csv"
    with path.open("w", newline="") as file:
        names = "tin oak silk glass stone wool iron straw clay brass"
        writer = csv.DictWriter(file, ["word", "split"])
        writer.writeheader()
        for number, word in enumerate(names.split()):
            writer.writerow({"word": word, "split": "test" if number > 6 else "train"})
    return path


def context_of(table: dict, folder: Path) -> RunContext:
    return RunContext(parse_recipe(table, source="test"), Run(folder / table["name"]))


REVIEWS = [
    ("good", "positive", "train"), ("bad", "negative", "train"), ("fine", "positive", "train"),
    ("dull", "negative", "train"), ("great", "positive", "test"), ("awful", "negative", "test"),
]  # fmt: skip
SHORT = {"train": {"epochs": 1.0, "batch_size": 4, "max_length": 64}, "evaluate": {"max_tokens": 4}}


def test_a_toy_task_goes_through_a_whole_run(words: Path, tmp_path: Path):
    table = {"name": "toy", "task": "shouting", "data": {"train": str(words), "test": str(words)}, **SHORT}
    context = context_of(table, tmp_path)
    events = list(run_recipe(context))
    finished = [
        event.stage for event in events if isinstance(event, StageEvent) and event.state == "finished"
    ]
    names = ["data", "before", "base_constrained", "base_examples", "train", "after", "report"]
    assert finished == names == [stage.name for stage in stages_of(context)]
    assert [set(event.metrics) for event in events if isinstance(event, MetricEvent)] == [
        {"accuracy", "unparsed_rate"}
    ] * 3
    report = Report.model_validate(read_json(context.run.path("report.json")))
    assert report.task == "shouting" and report.after is not None and report.after.n == 3
    assert report.limits[0] == "Only short words were tried."
    page = context.run.path("report.html").read_text()
    assert "shouts" in page and "Held-out words with the answer of each model" in page
    logged = [row["kind"] for row in context.run.read_jsonl("events.jsonl")]
    assert {"stage", "step", "metric", "message"} == set(logged)


def test_a_single_task_may_have_a_name(words: Path, tmp_path: Path):
    data = {"train": str(words), "test": str(words)}
    table = {"name": "one", "tasks": [{"name": "loud", "task": "shouting", "data": data}], **SHORT}
    context = context_of(table, tmp_path)
    result_of(run_recipe(context, only=("data",)))
    assert facts_by_task(context)["loud"].data["test"].rows == 3


@pytest.mark.slow
def test_several_tasks_are_learnt_together_and_reported_each(words: Path, tmp_path: Path):
    own = {"message": "{{ word }}", "gold": "split", "labels": ["train", "test"]}
    data = {"train": str(words), "test": str(words)}
    table = {
        "name": "two",
        "tasks": [
            {"name": "loud", "task": "shouting", "data": data},
            {"name": "which", "task": "own", "settings": own, "data": data},
        ],
        **SHORT,
    }
    context = context_of(table, tmp_path)
    result_of(run_recipe(context))
    names, tasks = [stage.name for stage in stages_of(context)], ("loud", "which")
    bases = [f"{way}-{task}" for way in ("before", "base_constrained", "base_examples") for task in tasks]
    assert names == ["data", *bases, "train", "after-loud", "after-which", "report"]
    report = Report.model_validate(read_json(context.run.path("report.json")))
    assert set(report.tasks) == {"loud", "which"} and report.after is None
    assert report.tasks["which"].after is not None and report.tasks["which"].task == "own"
    assert report.data is not None and report.data["test_rows"] == 6
    page = context.run.path("report.html").read_text()
    assert "One model for 2 tasks." in page and ">loud</h2>" in page and ">which</h2>" in page
    again = [event.state for event in run_recipe(context) if isinstance(event, StageEvent)]
    assert again == ["skipped"] * len(names)


@pytest.mark.slow
def test_the_worked_example_of_the_guide_is_a_whole_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    guide = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text(encoding="utf-8")
    code = guide.partition("```python\n")[2].partition("```")[0]
    assert len(code.splitlines()) <= 60
    (tmp_path / "sentiment.py").write_text(code)
    spec = importlib.util.spec_from_file_location("sentiment", tmp_path / "sentiment.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setitem(TASKS, "sentiment", module.Sentiment)
    rows = tmp_path / "reviews.tsv"
    lines = [f"{word} film\t{label}\t{split}" for word, label, split in REVIEWS]
    rows.write_text("\n".join(["review\tlabel\tsplit", *lines]))
    table = {"name": "mood", "task": "sentiment", "data": {"train": str(rows), "test": str(rows)}, **SHORT}
    context = context_of(table, tmp_path)
    result_of(run_recipe(context))
    report = Report.model_validate(read_json(context.run.path("report.json")))
    assert report.after is not None and set(report.after.metrics) == {"accuracy", "macro_f1", "unparsed_rate"}
    assert report.after.baselines["most_frequent"].value == 0.5
