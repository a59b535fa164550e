"""Ids that config files name, and a vocabulary that has not all of them."""

import json
import warnings
from pathlib import Path

import pytest

from smidgen.data.templates import load_tokenizer
from smidgen.data.token_ids import UnknownTokenId, known_ends, known_ids, unknown_in_configs
from smidgen.errors import ModelError

HERE = Path("folder")
KNOWN = range(10).__contains__


def test_known_ids_are_kept_without_a_word():
    assert known_ids([3, 0, 9], KNOWN, "pad token", HERE) == [3, 0, 9]
    assert known_ends({3, 9}, KNOWN, HERE) == {3, 9}
    assert known_ends((), KNOWN, HERE) == frozenset()


@pytest.mark.parametrize("unknown", [10, -1, 10**12])
def test_unknown_ids_are_left_out_with_a_warning(unknown):
    match = f"folder has the bos token {unknown}, which is not in the vocabulary; it is ignored"
    with pytest.warns(UnknownTokenId, match=match):
        assert known_ids([unknown], KNOWN, "bos token", HERE) == []
    with pytest.warns(UnknownTokenId, match=f"has the end token {unknown},"):
        assert known_ends({unknown, 3}, KNOWN, HERE) == {3}
    match = f"has the end tokens {unknown}, none of which is in the vocabulary, .* set eos_token_id in"
    with pytest.raises(ModelError, match=match):
        known_ends({unknown}, KNOWN, HERE)


def test_end_tokens_of_a_tokenizer_are_held_against_it_and_told_of_once(make_tokenizer_dir):
    folder = make_tokenizer_dir()
    (folder / "generation_config.json").write_text('{"eos_token_id": [2, 151645, 99999999999, -5]}')
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("default")
        ends = {load_tokenizer(folder).eos_token_ids for _ in range(3)}
    assert ends == {frozenset({0, 2})}
    (line,) = [str(warning.message) for warning in said]
    assert "the end token -5, 151645, 99999999999, which" in line


@pytest.mark.parametrize("number", [-1, 10**6, 2**32, 2**70])
def test_numbers_beyond_the_vocabulary_are_no_ids(make_tokenizer_dir, number):
    tokenizer = load_tokenizer(make_tokenizer_dir())
    assert not tokenizer.has_id(number)
    assert all(tokenizer.has_id(i) for i in tokenizer.vocabulary.values())


def test_configs_are_looked_through(tmp_path):
    (tmp_path / "config.json").write_text(
        json.dumps({"bos_token_id": 10, "eos_token_id": [3, -2, "x"], "pad_token_id": -1, "vocab_size": 99})
    )
    (tmp_path / "generation_config.json").write_text(json.dumps({"pad_token_id": 77, "bos_token_id": None}))
    assert unknown_in_configs(tmp_path, KNOWN) == [
        "bos_token_id in config.json is 10, which is not in the vocabulary",
        "eos_token_id in config.json is -2, which is not in the vocabulary",
        "eos_token_id in config.json is 'x', which is not in the vocabulary",
        "pad_token_id in generation_config.json is 77, which is not in the vocabulary",
    ]
    for no_object in ("[]", "{"):
        (tmp_path / "config.json").write_text(no_object)
        assert len(unknown_in_configs(tmp_path, KNOWN)) == 1
