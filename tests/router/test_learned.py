"""Intents that an adapter has learnt: another adapter, no list in the prompt, the labels of its run."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.router.scripted import Scripted

from smidgen import Router
from smidgen.errors import ConfigError, DataError
from smidgen.router.learned import LearnedIntents
from smidgen.router.lines import read_lines

RECIPE = """
name = "intents"
task = "intent"
[settings]
system = "Name it."
[data]
train = "rows.jsonl"
"""


def write_run(folder: Path, recipe: str = RECIPE, *, adapter: bool = True) -> Path:
    (folder / "data").mkdir(parents=True)
    (folder / "best").mkdir()
    (folder / "config.toml").write_text(recipe)
    if adapter:
        (folder / "best/adapters.safetensors").touch()
    for part, labels in {"train": ["book_flight", "oos"], "validation": ["weather"]}.items():
        rows = [{"id": label, "metadata": {"intent": label}} for label in labels]
        (folder / f"data/{part}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return folder


def test_an_adapter_names_the_intents_that_it_has_learnt(
    make: Callable[..., Router], engine: Scripted, tmp_path: Path
):
    router = make(classifier=write_run(tmp_path / "run"))
    engine.say = lambda request: "book flight"
    assert router.classify("a plane to Linz").decision.action == "book_flight"  # type: ignore[union-attr]
    (request,) = engine.asked
    assert request.adapter == tmp_path / "run/best"
    assert [(m.role, m.content) for m in request.sample.messages] == [
        ("system", "Name it."),
        ("user", "a plane to Linz"),
    ]
    assert request.constraint is not None
    assert json.loads(request.constraint.value) == ["book flight", "oos", "weather"]


def test_other_questions_are_for_the_adapter_of_the_router(
    make: Callable[..., Router], engine: Scripted, tmp_path: Path
):
    router = make(classifier=write_run(tmp_path / "run"))
    assert router.memorize("I moved.").status == "decided"
    assert router.classify("rain?", ["weather", "flights"]).decision.action == "weather"  # type: ignore[union-attr]
    assert [request.adapter for request in engine.asked] == [None, None]
    assert "flights" in engine.asked[1].sample.messages[-1].content


def test_lines_of_classify_are_asked_about_them(tmp_path: Path):
    learned = LearnedIntents.of_run(write_run(tmp_path / "run"))
    data = [b'{"text": "x", "task": "classify"}', b'{"text": "x", "intents": ["a"]}']
    first, second = [line.question for line in read_lines(data, intents=learned)]
    assert first is not None and first.adapter == learned.adapter
    assert second is not None and second.adapter is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"recipe": 'name = "a"\ntask = "judge"\n'}, 'is not the run of a recipe with task = "intent"'),
        ({"adapter": False}, r"has no adapter in best/; train it with \[train.lora\]"),
    ],
)
def test_what_has_learnt_no_intents_is_refused(change: dict[str, Any], said: str, tmp_path: Path):
    with pytest.raises(DataError, match=said):
        LearnedIntents.of_run(write_run(tmp_path / "run", **change))


def test_a_folder_that_is_no_run_is_refused_and_intents_beside_it(tmp_path: Path):
    with pytest.raises(DataError, match=r"is no run of a recipe, which has a config\.toml; name one"):
        LearnedIntents.of_run(tmp_path)
    with pytest.raises(ConfigError, match="both intents and a classifier, which has its own, are given"):
        Router("scripted", classifier=tmp_path, intents=["weather"])
