"""A smaller model that drafts for another."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tests.conftest import TINY_CONFIG, random_qwen3, write_tokenizer
from tests.inference.test_speculation import FREE, SETTINGS, answers, assert_same, longest_pass, requests_of

from smidgen.errors import ConfigError, ModelError
from smidgen.inference import open_engine
from smidgen.inference.drafting import Drafting
from smidgen.inference.mlx import MlxEngine
from smidgen.inference.pass_costs import PassCosts
from smidgen.models.load import LoadedModel, load
from smidgen.models.truncated import load_first
from smidgen.options import EngineOptions


@pytest.fixture(scope="module")
def near(tiny_model_dir, tmp_path_factory) -> LoadedModel:
    """The tiny model with disturbed weights, which agrees with it now and then, and a padded vocabulary."""
    path = write_tokenizer(tmp_path_factory.mktemp("near"))
    rng = np.random.default_rng(0)
    weights = load_file(tiny_model_dir / "model.safetensors")
    weights = {n: (v + rng.normal(0, 0.02, v.shape)).astype(np.float32) for n, v in weights.items()}
    embedding = weights["model.embed_tokens.weight"]
    weights["model.embed_tokens.weight"] = np.concatenate([embedding, 9 * embedding[:8]])  # often the largest
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    config = TINY_CONFIG | {"vocab_size": TINY_CONFIG["vocab_size"] + 8}
    (path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return load(str(path))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("batch_size", "width", "costs"),
    [(1, 4, None), (3, 3, None), (3, None, {1: 0.01, 64: 0.01}), (4, 1, None)],
)
def test_answers_are_those_of_one_token_a_pass(loaded, near, batch_size, width, costs):
    requests = requests_of(SETTINGS)
    plain = answers(MlxEngine(loaded, batch_size=batch_size), requests)
    drafting = Drafting("draft", near, width=width, costs=FREE, draft_costs=costs and PassCosts(costs))
    found = answers(MlxEngine(loaded, batch_size=batch_size, drafting=drafting), requests)
    assert_same(found, plain)
    assert longest_pass(found) > 1


def test_a_model_that_drafts_for_itself_is_always_right(loaded):
    requests = [replace(one, sampling=replace(one.sampling, max_tokens=13)) for one in requests_of([{}])]
    found = answers(MlxEngine(loaded, drafting=Drafting("draft", loaded, width=3)), requests)
    assert [one.passes.committed for one in found.values() if one.passes] == [(4, 4, 4, 1)] * 2


def test_a_draft_that_costs_more_than_it_saves_is_not_made(loaded):
    costly = PassCosts({1: 1.0, 64: 64.0})
    found = answers(
        MlxEngine(loaded, drafting=Drafting("draft", loaded, costs=costly, draft_costs=FREE)),
        requests_of([{}]),
    )
    assert all(one.passes and one.passes.drafted == 0 for one in found.values())


def test_the_first_blocks_of_a_model_draft_for_it(loaded, tiny_model_dir):
    name = str(tiny_model_dir)
    first = load_first(f"{name}[:1]")
    assert len(first.model.model.layers) == 1 and first.config["num_hidden_layers"] == 1
    assert len(loaded.model.model.layers) == len(load_first(name).model.model.layers) == 2
    requests = requests_of(SETTINGS[:2])
    plain = answers(MlxEngine(loaded), requests)
    options = EngineOptions(name, engine="mlx", decode="draft", draft_model=f"{name}[:1]")
    assert_same(answers(open_engine(options), requests), plain)
    with pytest.raises(ModelError, match=r"\[:2\] asks for 2 blocks; expected 1 to 1 of "):
        load_first(f"{name}[:2]")


def test_another_vocabulary_is_refused(loaded, tmp_path: Path):
    path = write_tokenizer(tmp_path / "other")
    tokenizer = json.loads((path / "tokenizer.json").read_text(encoding="utf-8"))
    tokenizer["added_tokens"][-1]["content"] = "</thought>"
    (path / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    (path / "config.json").write_text(json.dumps(TINY_CONFIG), encoding="utf-8")
    save_file(random_qwen3(TINY_CONFIG), path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"another vocabulary than .*; choose one with the same tokenizer"):
        MlxEngine(loaded, drafting=Drafting("draft", load(str(path))))
