"""The base model asked in several ways: what is asked, what is skipped and why, and which way is the best."""

import json
from pathlib import Path

import pytest

from smidgen.config import parse_recipe
from smidgen.errors import ConfigError, ModelError
from smidgen.evaluation.report_model import Report
from smidgen.files import read_json, write_json
from smidgen.pipeline import RunContext, asking, evaluating, plan_run, run_recipe, stages_of
from smidgen.pipeline.asking import PLAIN, Asked, Asking, Skipped, asked_samples, check_attacks
from smidgen.pipeline.budgets import Budgets
from smidgen.pipeline.events import MessageEvent, StageEvent, result_of
from smidgen.pipeline.exporting import check_exporting
from smidgen.pipeline.probes import Probes
from smidgen.runs import Run

SHORT = {"epochs": 1.0, "batch_size": 4, "max_length": 128}
OWN = {"message": "{{ word }}", "gold": "kind", "labels": "rows"}
FREE = {"message": "{{ word }}", "gold": "kind", "metric": "exact"}


def rows_file(folder: Path, rows: list[dict]) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def context_of(folder: Path, rows: list[dict], task: str, **tables) -> RunContext:
    path = rows_file(folder, rows)
    data = {"train": path, "test": path}
    table = {"name": "asked", "task": task, "data": data, "train": SHORT, "evaluate": {"max_tokens": 4}}
    return RunContext(parse_recipe(table | tables, source="test"), Run(folder / "run"))


WORDS = [
    {"id": str(n), "word": word, "kind": ("metal", "plant")[n % 2], "split": "test" if n < 3 else "train"}
    for n, word in enumerate("tin oak gold elm iron ash zinc fir lead pine brass rose".split())
]


@pytest.fixture
def words(tmp_path: Path) -> RunContext:
    return context_of(tmp_path, WORDS, "own", settings=OWN)


def asked(context: RunContext, how: Asking) -> Asked:
    found = asked_samples(context, context.tasks[0], how)
    assert isinstance(found, Asked)
    return found


def test_examples_come_from_training_rows_and_never_from_test_rows(words: RunContext):
    task = words.tasks[0]
    found = asked(words, Asking(examples=4))
    trained = {(s.messages[-1].content, s.target) for s in task.split_samples[0]}
    for sample, plain in zip(found.samples, task.test_samples, strict=True):
        turns = [m.content for m in sample.messages[:-1]]
        shown = set(zip(turns[::2], turns[1::2], strict=True))
        assert len(shown) == 4 and shown <= trained
        assert (sample.id, sample.metadata, sample.messages[-1:]) == (
            plain.id,
            plain.metadata,
            plain.messages,
        )
    facts = found.facts["examples"]
    assert facts["fewest"] == facts["per_prompt"] == 4 and len(facts["ids"]) == 4
    assert found == asked(words, Asking(examples=4))
    assert asked(words, PLAIN).samples == task.test_samples


def test_a_test_row_that_is_also_trained_on_is_no_example(tmp_path: Path):
    leaked = [*WORDS[:3], *(row | {"id": f"{row['id']}-again", "split": "train"} for row in WORDS[:3])]
    found = asked(context_of(tmp_path, [*leaked, *WORDS[3:6]], "own", settings=OWN), Asking(examples=9))
    tests = {row["word"] for row in WORDS[:3]}
    assert not any(m.content in tests for s in found.samples for m in s.messages[:-1])


def test_as_many_examples_as_fit(words: RunContext, monkeypatch: pytest.MonkeyPatch):
    room = asking._Room(words)
    most = asked(words, Asking(examples=4)).samples[0]
    tokens = len(room._tokenizer.render_prompt(most.messages))
    config = {"max_position_embeddings": tokens + 4 - 1}
    monkeypatch.setattr(asking, "read_config", lambda _: config)
    found = asked(words, Asking(examples=4))
    assert 0 < found.facts["examples"]["fewest"] < 4
    room = asking._Room(words)
    assert all(room.fits(sample) for sample in found.samples)
    config["max_position_embeddings"] = 8
    nothing = asked_samples(words, words.tasks[0], Asking(examples=4))
    assert nothing == Skipped("no worked example fits the context of the base model beside prompt and answer")


def test_what_cannot_be_asked_says_why(tmp_path: Path, words: RunContext):
    free = context_of(tmp_path / "free", WORDS, "own", settings=FREE)
    held, shown = Asking(constrained=True), Asking(examples=2)
    assert asked_samples(free, free.tasks[0], held) == Skipped("the task has no output constraint")
    assert asked(words, held).facts == {"constrained": True}
    sums = [
        {"id": str(n), "question": f"{n} + 1?", "answer": f"#### {n + 1}", "split": ("train", "test")[n > 7]}
        for n in range(10)
    ]
    shots = context_of(tmp_path / "math", sums, "math", settings={"shots": 2})
    assert len(shots.tasks[0].test_samples[0].messages) == 5
    assert asked_samples(shots, shots.tasks[0], shown) == Skipped(
        "its prompts already contain 2 worked examples"
    )
    assert asked_samples(shots, shots.tasks[0], held) == Skipped(
        "its answers are solutions in free text, in which any number is readable"
    )


def test_thinking_leaves_no_room_for_a_constraint(tmp_path: Path):
    context = context_of(tmp_path, WORDS, "own", settings=OWN, model={"thinking": True})
    assert asked_samples(context, context.tasks[0], Asking(constrained=True)) == Skipped(
        "the model thinks first, and a constraint holds from the first token on"
    )


@pytest.mark.slow
def test_the_best_way_is_compared_and_named(words: RunContext):
    result_of(run_recipe(words))
    report = Report.model_validate(read_json(words.run.path("report.json")))
    assert (
        report.base_constrained is not None and report.base_constrained.metrics["unparsed_rate"].value == 0.0
    )
    assert report.base_examples is not None and not report.skipped
    values = {
        name: facts.metrics["accuracy"].value
        for name in ("before", "base_constrained", "base_examples")
        if (facts := getattr(report, name)) is not None
    }
    best = max(values, key=lambda name: values[name] or 0.0)
    assert report.best_base is not None and report.best_base.name == best and report.best_base.ways == 3
    assert set(report.comparisons) == {f"after_vs_{best}"}
    assert report.sizes["base_examples"] == report.sizes["before"]
    page = words.run.path("report.html").read_text()
    assert "Base, constrained" in page and f"the {report.best_base.description}, the best of 3 ways" in page
    records = evaluating.records_of(words, words.tasks[0], "base_examples")
    assert all(len(record.sample.messages) == 9 for record in records)
    again = [event.state for event in run_recipe(words) if isinstance(event, StageEvent)]
    assert again == ["skipped"] * len(stages_of(words))


def test_of_equal_ways_the_first_counts_and_skipped_ones_do_not(words: RunContext):
    for name, value in (("before", None), ("base_constrained", 0.5), ("base_examples", 0.5)):
        result = {"metrics": {"accuracy": {"value": value}}}
        write_json(words.run.path(f"evaluations/{name}/evaluation.json"), result)
    names = ("before", "base_constrained", "base_examples")
    assert evaluating.best_of(words, words.tasks[0], names) == "base_constrained"
    write_json(words.run.path("evaluations/base_constrained/evaluation.json"), {"skipped": "why"})
    assert evaluating.best_of(words, words.tasks[0], names) == "base_examples"
    assert evaluating.best_of(words, words.tasks[0], names[:2]) == "before"


@pytest.mark.slow
def test_a_way_that_is_skipped_is_told_and_planned_with_no_time(tmp_path: Path):
    context = context_of(tmp_path, WORDS, "own", settings=FREE)
    minutes = {stage.name: stage.minutes for stage in plan_run(context).stages}
    assert minutes["base_constrained"] == 0.0 < min(minutes["before"], minutes["base_examples"])
    said = [event.text for event in run_recipe(context) if isinstance(event, MessageEvent)]
    assert "not evaluated: the task has no output constraint" in said
    report = Report.model_validate(read_json(context.run.path("report.json")))
    assert report.skipped == {"base_constrained": "the task has no output constraint"}
    assert report.base_constrained is None and report.best_base is not None and report.best_base.ways == 2
    page = context.run.path("report.html").read_text()
    assert "Base, constrained: not evaluated, since the task has no output constraint." in page


def test_both_ways_can_be_turned_off(tmp_path: Path):
    off = {"max_tokens": 4, "baseline_examples": 0, "baseline_constrained": False}
    context = context_of(tmp_path, WORDS, "own", settings=OWN, evaluate=off)
    assert [stage.name for stage in stages_of(context)] == ["data", "before", "train", "after", "report"]


@pytest.mark.slow
def test_a_specialist_in_sums_is_trained_on_solutions(tmp_path: Path):
    sums = [
        {
            "question": f"{n} + 1?",
            "answer": f"It is {n + 1}.\n#### {n + 1}",
            "split": ("train", "test")[n > 9],
        }
        for n in range(12)
    ]
    context = context_of(tmp_path, sums, "math")
    result_of(run_recipe(context))
    report = Report.model_validate(read_json(context.run.path("report.json")))
    assert report.skipped == {"base_constrained": context.tasks[0].task.why_unconstrained}
    assert report.base_examples is not None and report.base_examples.model_extra is not None
    assert report.base_examples.model_extra["examples"]["fewest"] == 4
    assert "held-out problems" in context.run.path("report.html").read_text()
    trained = context.run.path("data/train.jsonl").read_text()
    assert "The answer is \\\\boxed{" in trained and "####" not in trained


@pytest.mark.slow
def test_a_specialist_in_choices_is_trained_in_chat_and_scored(tmp_path: Path):
    rows = [
        row | {"question": f"Is {row['word']} a", "choices": ["metal", "plant"], "answer": row["kind"]}
        for row in WORDS
    ]
    context = context_of(tmp_path, rows, "choice", settings={"prompt": "chat"}, export={"formats": ["fused"]})
    result_of(run_recipe(context))
    report = Report.model_validate(read_json(context.run.path("report.json")))
    assert report.after is not None and report.after.method == "logits"
    assert report.after.metrics["accuracy"].n == 3 and report.base_examples is not None
    assert set(report.skipped) == {"base_constrained"} and set(report.exports) == {"fused"}


def test_what_llama_cpp_cannot_evaluate_is_not_exported_to_it(tmp_path: Path):
    rows = [row | {"question": "?", "choices": ["metal", "plant"], "answer": row["kind"]} for row in WORDS]
    context = context_of(tmp_path, rows, "choice", settings={"prompt": "chat"}, export={"formats": ["gguf"]})
    with pytest.raises(
        ConfigError, match=r"the task choice is answered by log-probabilities.* remove .gguf."
    ):
        check_exporting(context)
    with pytest.raises(ConfigError, match="is answered by log-probabilities"):
        result_of(run_recipe(context))


def test_a_template_without_turns_is_a_reason(words: RunContext, monkeypatch: pytest.MonkeyPatch):
    def refuse(self, sample):
        raise ModelError("the chat template of nano rejected the messages")

    monkeypatch.setattr(asking._Room, "fits", refuse)
    found = asked_samples(words, words.tasks[0], Asking(examples=2))
    assert isinstance(found, Skipped) and "rejected the messages" in found.reason


PAIRS = [
    {"id": f"p{n}", "prompt": f"{n}?", "a": "yes", "b": "no", "better": "ab"[n % 2], "split": split}
    for n, split in enumerate(["train"] * 6 + ["test"] * 4)
]


def judging(folder: Path, attacked: int, **settings) -> RunContext:
    return context_of(
        folder,
        PAIRS,
        "judge",
        settings={"template": "verdict", **settings},
        evaluate={"max_tokens": 4, "attacked": attacked, "baseline_examples": 0},
    )


def test_only_the_trained_judge_is_attacked_and_the_plan_counts_that(tmp_path: Path):
    context = judging(tmp_path, 2)
    task = context.tasks[0]
    found = asked(context, Asking(attacked=2))
    assert len(found.samples) == 8 and len(found.attacked) == 2 * 42
    assert not asked(context, PLAIN).attacked
    stages = {stage.name: stage.inputs(context) for stage in stages_of(context)}
    assert [name for name, given in stages.items() if "attacked" in given.get("asking", {})] == ["after"]
    budgets = Budgets(context)
    plain, attacked = budgets.prompts(task, PLAIN), budgets.prompts(task, Asking(attacked=2))
    assert (plain.number, attacked.number) == (8, 8 + 2 * 42) and attacked.longest > plain.longest + 50
    expected = {stage.name: stage.minutes(context, Probes(context)) for stage in stages_of(context)}
    assert expected["after"] > 5 * expected["before"] > 0


@pytest.mark.slow
def test_a_run_attacks_its_judge_and_reports_it(tmp_path: Path):
    settings = {"attacks": ["padding"], "attack_share": 0.5}
    context = judging(tmp_path, 1, **settings)
    longer = context.recipe.train.model_copy(update={"max_length": 1024})
    context = RunContext(context.recipe.model_copy(update={"train": longer}), context.run)
    list(run_recipe(context))
    report = read_json(tmp_path / "run/report.json")
    assert report["after"]["attacks"]["trained_on"] == ["padding"] and "attacks" not in report["before"]
    assert report["after"]["attacks"]["pairs"] == 1 and report["after"]["n"] == 8
    assert "Resistance to manipulation" in (tmp_path / "run/report.html").read_text()
    records = tmp_path / "run/evaluations/after/attacked.jsonl"
    whole = records.read_text()
    assert whole.count("\n") == 42
    # killed in the middle of the attacks: the answers so far are kept
    records.write_text("".join(whole.splitlines(keepends=True)[:20]))
    for name in ("after.json", "report.json"):
        (tmp_path / "run/stages" / name).unlink()
    list(run_recipe(context))
    assert records.read_text().startswith("".join(whole.splitlines(keepends=True)[:20]))
    again = read_json(tmp_path / "run/report.json")["after"]["attacks"]
    assert again["families"] == report["after"]["attacks"]["families"]


def test_attacks_without_anything_to_attack_are_refused_before_anything_is_written(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"evaluate\.attacked is 3, but the prompts of own show no answers"):
        words = context_of(tmp_path, WORDS, "own", settings=OWN, evaluate={"max_tokens": 4, "attacked": 3})
        list(run_recipe(words))
    with pytest.raises(ConfigError, match="the template grade grades every answer alone"):
        check_attacks(judging(tmp_path / "grade", 1, template="grade"))
    check_attacks(judging(tmp_path / "none", 0, template="grade"))
    assert not (tmp_path / "run").exists()
