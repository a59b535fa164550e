"""Both answers of a pair have the same prompt, cut alike."""

from pathlib import Path

import numpy as np
import pytest

from smidgen.config import DpoConfig, LoraConfig
from smidgen.data.templates import Tokenizer, load_tokenizer
from smidgen.data.types import Message, Preference, Sample
from smidgen.errors import DataError
from smidgen.training.preferences import pair_rows


@pytest.fixture
def tokenizer(tiny_tokenizer_dir: Path) -> Tokenizer:
    return load_tokenizer(tiny_tokenizer_dir)


def config(max_length: int = 512) -> DpoConfig:
    return DpoConfig(method="dpo", lora=LoraConfig(), max_length=max_length)


def preference(
    chosen: str = "the first", rejected: str = "user", asked: str = "the better answer"
) -> Preference:
    return Preference(Sample("p", (Message("user", asked),)), chosen, rejected)


def test_rows_are_prompt_and_answer_with_its_end(tokenizer: Tokenizer):
    (pair,) = pair_rows([preference()], tokenizer, config()).rows
    for row, text in ((pair.chosen, "the first"), (pair.rejected, "user")):
        answer = row.token_ids[row.loss_mask].tolist()
        assert tokenizer.decode(answer) == text and answer[-1] in tokenizer.eos_token_ids
    prompts = [row.token_ids[~row.loss_mask].tolist() for row in (pair.chosen, pair.rejected)]
    assert prompts[0] == prompts[1] and len(pair) == max(len(pair.chosen), len(pair.rejected))


def test_the_same_context_is_cut_from_both(tokenizer: Tokenizer):
    asked = "the better answer is the first " * 8
    full = pair_rows([preference(asked=asked)], tokenizer, config()).rows[0]
    found = pair_rows([preference(asked=asked), preference()], tokenizer, config(40))
    pair = found.rows[0]
    assert found.cut_rows == 1 and len(pair) == 40
    cut = len(full) - 40
    np.testing.assert_array_equal(pair.chosen.token_ids, full.chosen.token_ids[cut:])
    np.testing.assert_array_equal(pair.rejected.token_ids, full.rejected.token_ids[cut:])


@pytest.mark.parametrize(
    ("preferences", "message"),
    [
        ([], r"there are no training pairs"),
        ([preference("user")], r"1 of 1 pairs cannot be trained on: sample 'p': its two answers are equal"),
        (
            [preference("the better answer is the first " * 9)],
            r"an answer has \d+ tokens and max_length allows 40, prompt included; raise max_length to \d+ or",
        ),
    ],
)
def test_what_cannot_be_trained_on_is_said(tokenizer: Tokenizer, preferences: list[Preference], message: str):
    with pytest.raises(DataError, match=message):
        pair_rows(preferences, tokenizer, config(40))
