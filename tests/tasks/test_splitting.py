"""Files of several formats become one file, in which no prompt is on both sides."""

import json
import random
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smidgen.errors import ConfigError, DataError
from smidgen.tasks import find_task
from smidgen.tasks.splitting import held_out, mix_files, split_files


def write(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def own(count: int, per_prompt: int = 1) -> list[dict]:
    return [
        {"id": f"{number}-{copy}", "prompt": f"Say {number}", "a": "1", "b": str(copy), "better": "a"}
        for number in range(count)
        for copy in range(per_prompt)
    ]


@given(st.integers(4, 30), st.integers(1, 3), st.floats(0.2, 0.8), st.integers(0, 5))
def test_no_prompt_is_on_both_sides(
    tmp_path_factory: pytest.TempPathFactory, count: int, per_prompt: int, test: float, seed: int
):
    path = write(tmp_path_factory.mktemp("split") / "mine.jsonl", own(count, per_prompt))
    rows = split_files(find_task("judge"), [path], test=test, seed=seed).rows
    sides = {side: {row["prompt"] for row in rows if row["split"] == side} for side in ("train", "test")}
    assert not sides["train"] & sides["test"]
    assert len(sides["test"]) == round(test * count)
    assert len(rows) == count * per_prompt == len({row["id"] for row in rows})


def test_formats_are_joined_in_the_tasks_own(tmp_path: Path):
    panda = [
        {"idx": n, "instruction": f"Do {n}", "input": "", "response1": "x", "response2": "y",
         "annotator1": 1, "annotator2": 1, "annotator3": 2}
        for n in range(6)
    ]  # fmt: skip
    paths = [write(tmp_path / "mine.jsonl", own(6)), write(tmp_path / "panda.jsonl", panda)]
    judge = find_task("judge")
    rows = split_files(judge, paths, test=0.5).rows
    assert {row["subset"] for row in rows if row["split"] == "test"} == {"mine", "panda"}
    assert rows[0]["id"].startswith("mine/") and rows[-1]["id"].startswith("panda/")
    assert [pair["better"] for pair in rows] == ["a"] * 12
    assert len(judge.samples(rows)) == 24


def test_a_prompt_of_two_files_stays_on_one_side(tmp_path: Path):
    shouted = [{**row, "prompt": row["prompt"].upper() + " "} for row in own(20)]
    paths = [write(tmp_path / "one.jsonl", own(20)), write(tmp_path / "two.jsonl", shouted)]
    rows = split_files(find_task("judge"), paths, test=0.5).rows
    sides: dict[str, set[str]] = {}
    for row in rows:
        sides.setdefault(row["prompt"].strip().casefold(), set()).add(row["split"])
    assert all(len(found) == 1 for found in sides.values())


def test_few_rows_are_drawn_of_each_prompt(tmp_path: Path):
    path = write(tmp_path / "mine.jsonl", own(6, per_prompt=5))
    rows = split_files(find_task("judge"), [path], test=0.5, per_prompt=2, seed=1).rows
    assert len(rows) == 12
    assert rows == split_files(find_task("judge"), [path], test=0.5, per_prompt=2, seed=1).rows
    assert rows != split_files(find_task("judge"), [path], test=0.5, per_prompt=2, seed=2).rows


def test_rows_of_other_tasks_stay_as_they_are(tmp_path: Path):
    queries = [{"text": f"say {n}", "intent": "say", "extra": n} for n in range(4)]
    rows = split_files(find_task("intent"), [write(tmp_path / "q.jsonl", queries)], test=0.5).rows
    assert sorted(row["extra"] for row in rows) == [0, 1, 2, 3]
    assert {row["split"] for row in rows} == {"train", "test"}


def test_what_cannot_be_split_is_refused(tmp_path: Path):
    path = write(tmp_path / "mine.jsonl", own(2))
    with pytest.raises(
        DataError, match=r"has 2 different prompts, of which 0.1 are 0 for the test; expected"
    ):
        split_files(find_task("judge"), [path], test=0.1)
    with pytest.raises(ConfigError, match=r"two files have the name mine, which rows are told apart by"):
        split_files(find_task("judge"), [path, path], test=0.5)


LABELLED = st.lists(st.sampled_from("abcde"), min_size=2, max_size=60)


@given(LABELLED, st.integers(1, 59), st.integers(0, 5))
def test_held_out_items_are_of_every_label_in_proportion(labels: list[str], count: int, seed: int):
    count = min(count, len(labels) - 1)
    out = held_out(labels, count, random.Random(seed))
    assert len(out) == count and out == held_out(labels, count, random.Random(seed))
    sizes, taken = Counter(labels), Counter(labels[index] for index in out)
    spare = len(labels) - len(sizes)
    if spare >= count:
        assert all(taken[label] < sizes[label] for label in sizes), "a label is held out entirely"
        assert all(abs(taken[label] - count * (sizes[label] - 1) / spare) < 1.0001 for label in sizes)


def test_another_seed_holds_out_other_items():
    labels = list("ab") * 50
    assert len({frozenset(held_out(labels, 10, random.Random(seed))) for seed in range(5)}) == 5


def test_every_value_is_split_by_the_same_fraction_and_prompts_stay_together(tmp_path: Path):
    rows = [
        {"text": f"say {n // 2}", "intent": "rare" if n < 20 else "usual", "tone": n % 4 < 2}
        for n in range(100)
    ]
    found = split_files(
        find_task("intent"), [write(tmp_path / "q.jsonl", rows)], test=0.2, by=("intent", "tone"), seed=3
    )
    assert found.counts == {
        ("q", "rare", "True"): {"train": 8, "test": 2},
        ("q", "rare", "False"): {"train": 8, "test": 2},
        ("q", "usual", "True"): {"train": 32, "test": 8},
        ("q", "usual", "False"): {"train": 32, "test": 8},
    }
    sides = {row["text"]: set() for row in found.rows}
    for row in found.rows:
        sides[row["text"]].add(row["split"])
    assert all(len(side) == 1 for side in sides.values())
    with pytest.raises(
        ConfigError, match=r"no row of .* has the field 'intend' to split by. Did you mean 'intent'"
    ):
        split_files(find_task("intent"), [tmp_path / "q.jsonl"], test=0.2, by=("intend",))


@given(st.lists(st.floats(0.1, 10), min_size=2, max_size=2), st.integers(0, 3))
def test_a_mix_has_its_shares_and_no_row_twice(
    tmp_path_factory: pytest.TempPathFactory, weights: list[float], seed: int
):
    folder = tmp_path_factory.mktemp("mix")
    paths = [write(folder / "one.jsonl", own(30)), write(folder / "two.jsonl", own(10))]
    rows = mix_files(find_task("judge"), paths, weights, seed=seed)
    assert rows == mix_files(find_task("judge"), paths, weights, seed=seed)
    assert len({row["id"] for row in rows}) == len(rows) >= 10
    share = weights[0] / sum(weights)
    assert abs(sum(row["subset"] == "one" for row in rows) - share * len(rows)) < 1


def test_what_cannot_be_mixed_is_refused(tmp_path: Path):
    paths = [write(tmp_path / "one.jsonl", own(30)), write(tmp_path / "two.jsonl", own(10))]
    judge = find_task("judge")
    with pytest.raises(
        ConfigError, match=r"the weights are 1; expected a number above 0 for each of 2 files"
    ):
        mix_files(judge, paths, [1.0])
    with pytest.raises(ConfigError, match=r"the weights are 1, 0; expected a number above 0"):
        mix_files(judge, paths, [1.0, 0.0])
    with pytest.raises(
        DataError, match=r"two.jsonl has 10 rows, but its share of 30 rows is 15; give at most 20"
    ):
        mix_files(judge, paths, [1.0, 1.0], rows=30)
    with pytest.raises(ConfigError, match=r"two files have the name one"):
        mix_files(judge, [paths[0], paths[0]], [1.0, 1.0])
