"""Answers out of a list, in the encoding that a tokenizer gives them."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smidgen.data.templates import Tokenizer, load_tokenizer
from smidgen.inference.choice_guide import ChoiceGuide, encoded


@pytest.fixture(scope="module")
def tokenizer(tiny_tokenizer_dir: Path) -> Tokenizer:
    return load_tokenizer(tiny_tokenizer_dir)


TEXTS = st.lists(st.text("abé😀 {", min_size=1, max_size=6), min_size=1, max_size=6, unique=True)


@given(TEXTS, st.data())
def test_a_walk_ends_with_a_choice_as_encoded(
    tiny_tokenizer_dir: Path, texts: list[str], data: st.DataObject
):
    tokenizer = load_tokenizer(tiny_tokenizer_dir)
    choices = encoded(texts, tokenizer)
    assert choices is not None
    guide, token_ids = ChoiceGuide(choices, tokenizer), []
    while not guide.is_complete:
        token_ids += guide.force(data.draw(st.integers(0, 3)))
        if guide.is_complete:
            break
        if rest := guide.end(data.draw(st.integers(0, 9))):
            token_ids += rest
            break
        chosen = data.draw(st.sampled_from(np.flatnonzero(guide.allowed()).tolist()))
        if chosen in tokenizer.eos_token_ids:
            break
        guide.take(chosen)
        token_ids.append(chosen)
    assert token_ids in choices


def test_what_has_no_alternative_is_forced(tokenizer: Tokenizer):
    choices = encoded(["the better", "the first", "the first one"], tokenizer)
    assert choices is not None
    same = next(i for i, ids in enumerate(zip(*choices, strict=False)) if len(set(ids)) > 1)
    guide = ChoiceGuide(choices, tokenizer)
    assert guide.end(99) == [] and guide.force(1) + guide.force(99) == choices[0][:same]
    assert guide.force(99) == [] and guide.end(99) == []
    guide.take(choices[0][same])
    assert guide.end(len(choices[0]) - same - 2) == []
    assert guide.end(99) == choices[0][same + 1 :] and guide.is_complete


def test_an_answer_may_end_where_another_goes_on(tokenizer: Tokenizer):
    guide = ChoiceGuide([[5, 6], [5, 6, 7]], tokenizer)
    assert guide.force(9) == [5, 6] and not guide.is_complete and guide.force(9) == []
    assert set(np.flatnonzero(guide.allowed())) == {7, *tokenizer.eos_token_ids}


def test_texts_that_a_tokenizer_changes_are_left_to_the_grammar(tokenizer: Tokenizer):
    assert encoded(["e\u0301"], tokenizer) is None  # the tokenizer composes it to é
    assert encoded(["a", "a", "b"], tokenizer) == encoded(["a", "b"], tokenizer)
