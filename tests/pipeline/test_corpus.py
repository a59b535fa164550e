"""The sources of a pretraining: what is held out is not trained on, and a tokenizer sees every source."""

import json
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from smidgen.config import PretrainRecipe, parse_recipe
from smidgen.data.corpus import OPENING, documents
from smidgen.errors import DataError
from smidgen.pipeline.corpus import Corpus, source_hashes
from smidgen.pipeline.events import result_of
from smidgen.pipeline.jobs import survey_sources

TEXTS = [f"{number} beans" for number in range(200)]


def recipe_of(data: dict[str, Any], **tables: Any) -> PretrainRecipe:
    table = {"name": "a", "model": {"architecture": {}}, "data": data}
    table["train"] = {"method": "pretrain", "total_tokens": 3000, "batch_size": 1, "max_length": 100}
    recipe = parse_recipe(table | tables, source="test")
    assert isinstance(recipe, PretrainRecipe)
    return recipe


def corpus_of(recipe: PretrainRecipe) -> Corpus:
    return Corpus(recipe, result_of(survey_sources(recipe)))


@pytest.fixture
def beans(tmp_path: Path) -> str:
    (tmp_path / "beans.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in TEXTS))
    return str(tmp_path / "beans.jsonl")


def sources(beans: str) -> list[dict[str, Any]]:
    return [{"name": "beans", "path": beans, "weight": 3}, {"name": "world", "path": "world"}]


def test_a_document_is_trained_on_or_held_out(beans: str):
    corpus = corpus_of(recipe_of({"train": beans, "validation_fraction": 0.1}))
    (source,) = corpus.training_sources()
    training = [text for _, text in source.documents(0)]
    held_out = list(corpus.held_out(corpus.configs[0]))
    assert len(held_out) == 20 and sorted([*training, *held_out]) == sorted(TEXTS)
    assert source.name == "" and source.num_documents == len(training) == 180
    places = [place for place, _ in source.documents(0)]
    assert [text for _, text in source.documents(places[100])] == training[100:]


def test_the_world_alone_opens_with_a_curriculum_and_beside_others_does_not(beans: str):
    (alone,) = corpus_of(recipe_of({})).training_sources()
    _, beside = corpus_of(recipe_of({"sources": sources(beans)})).training_sources()
    (based,) = corpus_of(recipe_of({}, model={"base": "smidgen:nano"})).training_sources()
    plain = list(islice(documents(0), 3))
    first = [[text for _, text in islice(source.documents(0), 3)] for source in (alone, beside, based)]
    assert first[0] != plain and first[1:] == [plain, plain]
    assert [text for _, text in islice(alone.documents(OPENING), 3)] == plain
    assert next(iter(beside.documents(7))).place == 7
    assert (alone.num_documents, beside.name) == (None, "world")


def test_a_tokenizer_sees_every_source_by_its_share(beans: str):
    corpus = corpus_of(recipe_of({"sources": sources(beans)}))
    assert corpus.shares == {"beans": 0.75, "world": 0.25}
    texts = list(corpus.tokenizer_texts(1))  # a thousand characters
    of_beans = [text for text in texts if text.endswith("beans")]
    assert 750 <= sum(map(len, of_beans)) < 770
    assert set(of_beans).isdisjoint(corpus.held_out(corpus.configs[0]))
    assert sum(map(len, texts[len(of_beans) : -1])) < 250


def test_files_are_known_by_their_content(beans: str):
    recipe = recipe_of({"sources": sources(beans)})
    before = source_hashes(recipe)
    assert before["world"] == "world" and len(before["beans"]) == 64
    Path(beans).write_text('{"text": "a"}')
    assert source_hashes(recipe)["beans"] != before["beans"]


def test_a_missing_file_is_refused_before_anything_is_written(tmp_path: Path):
    recipe = recipe_of({"train": str(tmp_path / "none.jsonl")})
    with pytest.raises(
        DataError, match=r"there is no data file at .*none\.jsonl; expected one with \.jsonl, "
    ):
        source_hashes(recipe)
