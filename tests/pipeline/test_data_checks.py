"""The data doctor finds every planted fault in its rows, and nothing in the clean files."""

from pathlib import Path

import pytest
from tests.tools import poisoned
from tests.tools.poisoned import Found, write

from smidgen.config import SftConfig, parse_recipe, read_recipe
from smidgen.data.templates import load_tokenizer
from smidgen.errors import ConfigError, DataError
from smidgen.pipeline import RunContext
from smidgen.pipeline.data_checks import DataReport, check_files, check_recipe
from smidgen.pipeline.data_lengths import Renderer
from smidgen.pipeline.shown_rows import samples_of_file
from smidgen.runs import Run
from smidgen.tasks import find_task

SHARED = Path(__file__).parents[3] / "shared/data"


def found(report: DataReport) -> Found:
    kinds = {finding.kind: finding.ids for finding in report.findings}
    assert len(kinds) == len(report.findings), "a kind was found twice"
    return kinds


@pytest.mark.parametrize(
    ("clean", "poison"),
    [
        (poisoned.clean_pairs, poisoned.poisoned_pairs),
        (poisoned.clean_completions, poisoned.poisoned_completions),
        (poisoned.clean_chats, poisoned.poisoned_chats),
    ],
    ids=["pairs", "completions", "chats"],
)
def test_each_planted_fault_is_found_in_its_rows_and_nothing_else(tmp_path: Path, clean, poison):
    rows = clean()
    assert found(check_files([write(tmp_path / "clean.jsonl", rows)])) == {}
    bad, expected = poison(rows)
    assert found(check_files([write(tmp_path / "bad.jsonl", bad)])) == expected


def test_faults_between_training_and_test_rows(tmp_path: Path):
    train, test = poisoned.clean_queries()
    files = write(tmp_path / "train.jsonl", train), write(tmp_path / "test.jsonl", test)
    assert found(check_files(files[:1], tests=files[1:])) == {}
    *bad, expected = poisoned.poisoned_queries(train, test)
    files = write(tmp_path / "train.jsonl", bad[0]), write(tmp_path / "test.jsonl", bad[1])
    report = check_files(files[:1], tests=files[1:])
    assert {kind: set(ids) for kind, ids in found(report).items()} == {k: set(v) for k, v in expected.items()}
    # the same rows in one file with a column `split`
    marked = [
        {**row, "split": side} for side, rows in zip(("train", "val"), bad, strict=True) for row in rows
    ]
    alone = check_files([write(tmp_path / "both.jsonl", marked)])
    assert found(alone) == found(report)
    assert (alone.train_rows, alone.test_rows) == (report.train_rows, report.test_rows) == (42, 25)


PAIRS, QUERIES = poisoned.clean_pairs(), poisoned.clean_queries()[0]


@pytest.mark.parametrize(
    ("kind", "rows"),
    [
        ("one side", [{**row, "better": "a"} for row in PAIRS]),
        ("length", [{**row, row["better"]: row[row["better"]] + " more"} for row in PAIRS]),
        ("one label", [{**row, "intent": "pay_bill"} for row in QUERIES]),
        ("imbalance", [{**row, "intent": "pay_bill" if n > 6 else "play"} for n, row in enumerate(QUERIES)]),
        ("label in prompt", [{**row, "text": f"{row['text']} {row['intent']}"} for row in QUERIES]),
        (
            "constant answer",
            [
                {"prompt": poisoned.words(12), "completion": poisoned.words(5) if n % 4 else "Done."}
                for n in range(40)
            ],
        ),
        ("unknown format", [{"title": poisoned.words(9), "body": [poisoned.words(9)]} for _ in range(5)]),
    ],
)
def test_faults_of_all_rows_together(tmp_path: Path, kind: str, rows: list):
    assert found(check_files([write(tmp_path / "rows.jsonl", rows)])) == {kind: ()}
    few = rows[:5]
    if kind != "unknown format":  # a share of few rows tells nothing
        assert found(check_files([write(tmp_path / "few.jsonl", few)])) == {}


def test_lengths_in_tokens(tmp_path: Path, tiny_tokenizer_dir: Path):
    tokenizer = load_tokenizer(tiny_tokenizer_dir)
    rows = [{"prompt": "p", "completion": "c"}, {"prompt": "p " * 90, "completion": "c"},
            {"prompt": "q", "completion": "c" * 150}, {"prompt": "r" * 20, "completion": "d"}]  # fmt: skip
    path = write(tmp_path / "rows.jsonl", rows)
    report = check_files([path], renderer=Renderer(tokenizer, SftConfig(max_length=120)))
    assert found(report) == {"completion too long": ("3",), "prompt cut": ("2",)}
    assert "does not fit max_length = 120; raise it to 152 or more" in report.findings[0].message
    lengths = report.lengths
    assert lengths is not None and lengths.completion is not None
    prompt = len(tokenizer.render_prompt(find_sample(path, 1).messages))
    assert lengths.prompt[2] == prompt and lengths.completion == (2, 151, 151)
    assert (lengths.cut_rows, lengths.cut_tokens) == (1, prompt + 2 - 120)
    assert found(check_files([path], renderer=Renderer(tokenizer, SftConfig(max_length=500)))) == {}


def find_sample(path: Path, number: int):
    return samples_of_file(path, None, 4)[number]


def test_pairs_are_measured_by_their_prompts_if_they_have_no_gold(tmp_path: Path, tiny_tokenizer_dir: Path):
    path = write(tmp_path / "rows.jsonl", PAIRS[:3])
    renderer = Renderer(load_tokenizer(tiny_tokenizer_dir), SftConfig(max_length=64))
    rubric = check_files([path], renderer=renderer)
    assert rubric.lengths is not None and rubric.lengths.completion is None
    assert found(rubric) == {"prompt cut": ("r1", "r2", "r3")}
    verdict = check_files([path], task=find_task("judge", {"template": "verdict"}), renderer=renderer)
    assert verdict.lengths is not None and verdict.lengths.completion is not None


def test_rows_of_several_files_are_told_apart(tmp_path: Path):
    files = [write(tmp_path / name, PAIRS[:2]) for name in ("one.jsonl", "two.jsonl")]
    report = check_files(files)
    assert found(report) == {"duplicate": ("two.jsonl:r1", "two.jsonl:r2")}


def test_the_pairs_of_one_row_may_be_versions_of_each_other(tmp_path: Path):
    answer = poisoned.words(12)
    row = {
        "id": 1,
        "prompt": poisoned.words(9),
        "chosen": [answer, f"{answer} more"],
        "rejected": [poisoned.words(9)],
    }
    assert found(check_files([write(tmp_path / "rows.jsonl", [row])])) == {}


def recipe(
    folder: Path, model: Path, train: list, test: list, *, task: str = "intent", max_length: int = 200
) -> RunContext:
    table = {
        "name": "checked",
        "task": task,
        "model": {"base": str(model)},
        "data": {
            "train": str(write(folder / "train.jsonl", train)),
            "test": str(write(folder / "test.jsonl", test)),
        },
        "train": {"max_length": max_length},
    }
    return RunContext(parse_recipe(table, source="test"), Run(folder / "runs"))


def test_a_recipe_is_checked_as_it_would_train(tmp_path: Path, tiny_tokenizer_dir: Path):
    train, test = poisoned.clean_queries()
    (report,) = check_recipe(recipe(tmp_path, tiny_tokenizer_dir, train, test))
    assert found(report) == {} and report.lengths is not None and report.lengths.completion is not None
    assert (report.train_rows, report.test_rows) == (40, 20)
    bad = ["{", {"text": "no intent"}, *train]
    (report,) = check_recipe(recipe(tmp_path, tiny_tokenizer_dir, bad, [*test, train[0]]))
    assert found(report) == {"unreadable line": ("line 1",), "missing field": ("line 2",), "leak": ("q0",)}
    (report,) = check_recipe(recipe(tmp_path, tiny_tokenizer_dir, train, test, max_length=60))
    assert list(found(report)) == ["prompt cut"]
    judged = recipe(tmp_path, tiny_tokenizer_dir, PAIRS, PAIRS[:1], task="judge")
    (report,) = check_recipe(judged)
    assert set(found(report)) == {"no training", "leak"}
    assert "'criteria' is None; training needs a list of texts" in report.findings[0].message


def test_what_cannot_be_checked_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match="there is no data file at"):
        check_files([tmp_path / "none.jsonl"])
    path = Path(__file__).parents[2] / "recipes"
    pretraining = next(
        file for file in sorted(path.glob("*.toml")) if 'method = "pretrain"' in file.read_text()
    )
    with pytest.raises(
        ConfigError, match=r"pretrains on a stream of text and has no rows of a task; give the recipe of a"
    ):
        check_recipe(RunContext(read_recipe(pretraining), Run(tmp_path)))


@pytest.mark.skipif(not SHARED.exists(), reason="the published files are not in this checkout")
def test_published_files_have_what_they_have():
    math = check_files([SHARED / "solve/gsm8k_test_a.jsonl"])
    assert found(math) == {"unread columns": ()} and math.train_rows == 660
    judge = found(check_files([SHARED / "judge/llmbar_a.jsonl"]))
    # one pair is about nothing but capitals
    assert judge == {"alike answers": ("Adversarial/Manual/39",), "outlier": ("Natural/57",), "length": ()}
