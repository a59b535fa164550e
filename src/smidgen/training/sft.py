"""Training rows for supervised fine-tuning: the loss mask covers the answer, not the prompt."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from smidgen.config import FinetuneConfig, SftConfig
from smidgen.data.templates import Tokenizer, fit
from smidgen.data.types import Message, Sample
from smidgen.errors import DataError
from smidgen.models.load import LoadedModel
from smidgen.models.lora import save_adapter
from smidgen.models.save import save_model
from smidgen.training.batches import TrainRow
from smidgen.training.rendering import RenderedRows, render_all


def sft_rows(
    samples: Sequence[Sample], tokenizer: Tokenizer, config: SftConfig, *, thinking: bool = False
) -> RenderedRows[TrainRow]:
    """Render samples with their targets as assistant turns, cutting context beyond `config.max_length`.

    Raises:
        DataError: there are no samples, or some have no target or an answer that does not fit.
        ModelError: the tokenizer cannot render them.
    """
    return render_all(
        samples,
        lambda sample: sft_row(sample, tokenizer, config, thinking=thinking),
        name=lambda sample: sample.id,
        noun="samples",
    )


def sft_row(
    sample: Sample, tokenizer: Tokenizer, config: SftConfig, *, thinking: bool = False
) -> tuple[TrainRow, int]:
    """Render one sample with its target; also return how many tokens of its context were cut.

    Raises:
        DataError: it has no target, its answer does not fit, or none of its tokens is in the loss.
        ModelError: the tokenizer cannot render it.
    """
    if sample.target is None:
        raise DataError("it has no target, which is the answer to train on")
    conversation = [*sample.messages, Message("assistant", sample.target)]
    rendered = tokenizer.render_conversation(conversation, thinking=thinking, mask=config.mask)
    rendered, cut = fit(rendered, config.max_length)
    row = TrainRow(
        np.array(rendered.token_ids, np.int32),
        np.array(rendered.loss_mask, bool),
        id=sample.id,
        source=sample.source,
    )
    if row.trained_tokens == 0:
        raise DataError("none of its tokens is in the loss")
    return row, cut


def saver(loaded: LoadedModel, config: FinetuneConfig) -> Callable[[Path], None]:
    """Return a function that writes a run's `best/`: the adapter if one is trained, else the full model."""
    if config.lora is not None:
        lora = config.lora
        return lambda path: save_adapter(path, loaded.model, lora)
    return lambda path: save_model(path, loaded.model, loaded.config, loaded.path)
