"""Drafts of a smaller model with the same vocabulary (https://arxiv.org/abs/2211.17192)."""

from collections.abc import Sequence

import numpy as np

from smidgen.errors import ConfigError
from smidgen.inference.acceptance import MOST_DRAFT, Acceptance
from smidgen.inference.decoder import Decoder
from smidgen.inference.drafts import Draft, text_of
from smidgen.inference.pass_costs import PassCosts
from smidgen.inference.prefixes import common_prefix
from smidgen.inference.row import DecodeRow
from smidgen.models.load import LoadedModel

SOURCE = "model"


class ModelDrafter:
    """Drafts that a smaller model decodes greedily, all rows of a lane together.

    Each token takes a pass of that model, so the number is decided before.
    """

    refines = False

    def __init__(
        self,
        decoder: Decoder,
        acceptance: Acceptance,
        costs: tuple[PassCosts, PassCosts] | None,
        *,
        vocab_size: int,
        width: int | None = None,
    ):
        """Draft with a decoder of the smaller model.

        Args:
            decoder: has no rows.
            acceptance: what is known of its drafts.
            costs: times of passes of the model that verifies, and of the smaller one; None with a `width`.
            vocab_size: number of tokens of both; the logits may be padded to more.
            width: number of tokens to draft; by their expected worth if None.
        """
        self._decoder = decoder
        self._acceptance = acceptance
        self._costs = costs
        self._vocab_size = vocab_size
        self._width = width
        self._rows: list[DecodeRow] = []
        self._cached: list[list[int]] = []

    def propose(self, rows: Sequence[DecodeRow], most: Sequence[int]) -> list[Draft]:
        """Return the smaller model's continuations, all of the same length where they may be.

        Rows that join others get none yet, since all rows of the decoder run together.
        """
        count = min(self._count(rows), max(most, default=0))
        if not count or not set(self._rows) <= set(rows):
            return [Draft() for _ in rows]
        texts = {row: text_of(row).tolist() for row in rows}
        self._join([row for row in rows if row not in self._rows], texts)
        guesses = self._decode([texts[row] for row in self._rows], count)
        found = dict(zip(self._rows, guesses, strict=True))
        return [Draft.of(SOURCE, found[row][:limit]) for row, limit in zip(rows, most, strict=True)]

    def learn(self, row: DecodeRow, choices: Sequence[int], logprobs: Sequence[float]) -> None:
        """Nothing is noted: what was wrong is undone before the next draft."""

    def forget(self, row: DecodeRow) -> None:
        """Remove the row from the decoder."""
        if row in self._rows:
            at = self._rows.index(row)
            self._decoder.remove(at)
            for kept in (self._rows, self._cached):
                kept[at] = kept[-1]  # type: ignore[index]
                kept.pop()

    def _count(self, rows: Sequence[DecodeRow]) -> int:
        """Return how many tokens to draft, so that drafting and verification give most tokens per second."""
        if self._width is not None:
            return self._width
        assert self._costs is not None
        verifying, drafting = self._costs
        longest = Draft.of(SOURCE, [0] * MOST_DRAFT)
        accepted = np.concatenate([[0.0], np.cumsum(self._acceptance.survival(longest))])
        running, sizes = sum(1 + len(row.forced) for row in rows), np.arange(len(accepted))
        seconds = verifying(running + len(rows) * sizes) + sizes * drafting.of(len(rows))
        best = int(np.argmax((running + len(rows) * accepted) / seconds))
        if not best:
            self._acceptance.fade(longest)
        return best

    def _join(self, rows: Sequence[DecodeRow], texts: dict[DecodeRow, list[int]]) -> None:
        """Prefill new rows, except their last token."""
        if rows:
            prompts = [texts[row][:-1] for row in rows]
            self._decoder.share(prompts)
            self._decoder.add(prompts)
            self._rows += rows
            self._cached += prompts

    def _decode(self, texts: Sequence[list[int]], count: int) -> list[list[int]]:
        """Return `count` tokens after each text, in the order of the decoder's rows."""
        kept = [
            len(common_prefix(cached, text[:-1])) for cached, text in zip(self._cached, texts, strict=True)
        ]
        self._decoder.rollback([len(cached) - n for cached, n in zip(self._cached, kept, strict=True)])
        blocks = [text[n:] for text, n in zip(texts, kept, strict=True)]
        guesses: list[list[int]] = [[] for _ in texts]
        for _ in range(count):
            logits = self._decoder.step(blocks)
            ends = np.cumsum([len(block) for block in blocks]) - 1
            xp = self._decoder.xp
            tokens = np.asarray(xp.argmax(logits[xp.array(ends), : self._vocab_size], axis=-1)).tolist()
            for guess, token in zip(guesses, tokens, strict=True):
                guess.append(token)
            blocks = [[token] for token in tokens]
        self._cached = [text + guess[:-1] for text, guess in zip(texts, guesses, strict=True)]
        return guesses


def check_vocabulary(draft: LoadedModel, model: LoadedModel) -> None:
    """Refuse a draft model whose tokens are not those of the model.

    Raises:
        ConfigError: the vocabularies differ.
    """
    if draft.tokenizer.vocabulary != model.tokenizer.vocabulary:
        raise ConfigError(
            f"the draft model {draft.name} has another vocabulary than {model.name}; choose one with the "
            "same tokenizer"
        )
