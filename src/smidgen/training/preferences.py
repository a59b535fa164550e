"""Training rows for preferences: both answers with their prompt; the loss mask covers the answers."""

from collections.abc import Sequence

import numpy as np

from smidgen.config import DpoConfig
from smidgen.data.templates import Rendered, Tokenizer
from smidgen.data.types import Message, Preference
from smidgen.errors import DataError
from smidgen.training.batches import TrainRow
from smidgen.training.objectives.preference import PreferencePair
from smidgen.training.rendering import RenderedRows, render_all


def pair_rows(
    preferences: Sequence[Preference], tokenizer: Tokenizer, config: DpoConfig, *, thinking: bool = False
) -> RenderedRows[PreferencePair]:
    """Render both answers of every sample, cutting the same context of both beyond `config.max_length`.

    Raises:
        DataError: there are no samples, or some have equal answers or one that does not fit.
        ModelError: the tokenizer cannot render them.
    """
    return render_all(
        preferences,
        lambda preference: _pair(preference, tokenizer, config.max_length, thinking),
        name=lambda preference: preference.sample.id,
        noun="pairs",
    )


def _pair(
    preference: Preference, tokenizer: Tokenizer, max_length: int, thinking: bool
) -> tuple[PreferencePair, int]:
    """Return the rows of one pair, and how many context tokens both have lost."""
    answers = (preference.chosen, preference.rejected)
    if answers[0] == answers[1]:
        raise DataError("its two answers are equal, so neither can be preferred; remove it")
    rendered = [
        tokenizer.render_conversation(
            [*preference.sample.messages, Message("assistant", answer)], thinking=thinking
        )
        for answer in answers
    ]
    cut = max(0, *(len(one.token_ids) - max_length for one in rendered))
    longest = max(sum(one.loss_mask) for one in rendered)
    if longest + 1 > max_length:
        raise DataError(
            f"an answer has {longest} tokens and max_length allows {max_length}, prompt included; raise "
            f"max_length to {longest + 1} or more, or remove the pair"
        )
    return PreferencePair(*(_row(one, cut) for one in rendered)), cut


def _row(rendered: Rendered, cut: int) -> TrainRow:
    return TrainRow(np.array(rendered.token_ids[cut:], np.int32), np.array(rendered.loss_mask[cut:], bool))
