"""Training rows for supervised fine-tuning: the loss mask covers the answer, not the prompt."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from smidgen.config import SftConfig
from smidgen.data.templates import Tokenizer, fit
from smidgen.data.types import Message, Sample
from smidgen.errors import DataError, first_few
from smidgen.models.load import LoadedModel
from smidgen.models.lora import save_adapter
from smidgen.models.save import save_model
from smidgen.training.batches import TrainRow


@dataclass(frozen=True)
class SftRows:
    """Training rows in the order of their samples.

    Attributes:
        rows: one per sample.
        cut_rows: number of rows that lost context to fit.
    """

    rows: list[TrainRow]
    cut_rows: int


def sft_rows(
    samples: Sequence[Sample], tokenizer: Tokenizer, config: SftConfig, *, thinking: bool = False
) -> SftRows:
    """Render samples with their targets as assistant turns, cutting context beyond `config.max_length`.

    Raises:
        DataError: there are no samples, or some have no target or an answer that does not fit.
        ModelError: the tokenizer cannot render them.
    """
    if not samples:
        raise DataError("there are no training samples; check the file, its splits and the limits in [data]")
    rows, faults, cuts = [], [], []
    for sample in samples:
        try:
            row, cut = sft_row(sample, tokenizer, config, thinking=thinking)
        except DataError as error:
            faults.append(f"sample '{sample.id}': {error}")
            continue
        rows.append(row)
        cuts.append(cut)
    if faults:
        raise DataError(f"{len(faults)} of {len(samples)} samples cannot be trained on: {first_few(faults)}")
    return SftRows(rows, cut_rows=sum(cut > 0 for cut in cuts))


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
    row = TrainRow(np.array(rendered.token_ids, np.int32), np.array(rendered.loss_mask, bool), id=sample.id)
    if row.trained_tokens == 0:
        raise DataError("none of its tokens is in the loss")
    return row, cut


def saver(loaded: LoadedModel, config: SftConfig) -> Callable[[Path], None]:
    """Return a function that writes a run's `best/`: the adapter if one is trained, else the full model."""
    if config.lora is not None:
        lora = config.lora
        return lambda path: save_adapter(path, loaded.model, lora)
    return lambda path: save_model(path, loaded.model, loaded.config, loaded.path)
