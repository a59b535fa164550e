"""Several tokens a pass: drafts for the rows of a lane, and what is learned from their verification."""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from smidgen.backend import mx
from smidgen.errors import ConfigError
from smidgen.inference.acceptance import MOST_DRAFT, Acceptance, Windows, worthwhile
from smidgen.inference.constraints import Guide
from smidgen.inference.drafts import Draft, Drafter
from smidgen.inference.pass_costs import PassCosts
from smidgen.inference.prefixes import common_prefix
from smidgen.inference.row import DecodeRow
from smidgen.inference.sampling import RowState, logprobs_of, near_ties

ROUNDING = 32
"""Rounding error of a logit in units of the arithmetic's epsilon times the largest logit. Measured between
passes of 1 to 64 tokens in float32: 11 for the bundled model, 20 for SmolLM2-135M."""
LIKELY = 0.5
"""Chance of an end token from which on guesses behind it are not worth their time."""


class Speculation:
    """Plans the drafts of the rows of a lane."""

    def __init__(
        self,
        drafter: Drafter,
        acceptance: Acceptance,
        windows: Windows,
        costs: PassCosts | None,
        *,
        end_tokens: Collection[int],
        xp: Any,
        epsilon: float,
        width: int | None = None,
    ):
        """Draft with `drafter`.

        Args:
            drafter: guesses tokens.
            acceptance: what is known of its guesses.
            windows: minimum number of tokens to draft.
            costs: times of passes, which decide how many tokens to draft; None if `width` does.
            end_tokens: ids of end tokens, after which nothing is drafted.
            xp: module of the logits, `numpy` or `mlx.core`.
            epsilon: smallest relative difference of two numbers of the arithmetic.
            width: number of tokens drafted for each row; by their expected worth if None.
        """
        self._drafter = drafter
        self._acceptance = acceptance
        self._windows = windows
        self._costs = costs
        self._end_tokens = frozenset(end_tokens)
        self._xp = xp
        self._width = width
        self._drafts: dict[DecodeRow, Draft] = {}
        self._is_first = False  # whether the pass is the first one of its rows
        self._noise = ROUNDING * epsilon

    def plan(self, rows: Sequence[DecodeRow], most: int, prefilled: int | None = None) -> None:
        """Set the drafts of rows whose forced tokens are set.

        Args:
            rows: the rows of a pass.
            most: maximum number of tokens of a draft.
            prefilled: tokens of prompts that the pass runs, if it is the first one of these rows.
        """
        self._is_first = prefilled is not None
        limit = min(most, MOST_DRAFT if self._width is None else self._width)
        room = [min(limit, row.draftable()) for row in rows]
        drafts = [
            self._fitting(row, draft, count)
            for row, draft, count in zip(rows, self._drafter.propose(rows, room), room, strict=True)
        ]
        for row, draft, size in zip(rows, drafts, self._sizes(rows, drafts, prefilled), strict=True):
            if not size and draft.tokens:
                self._acceptance.fade(draft)
            self._drafts[row] = draft.first(size)
            row.draft = self._drafts[row].tokens
            row.drafted += size

    def learn(
        self,
        going: Sequence[tuple[DecodeRow, Sequence[RowState]]],
        tokens: Sequence[int],
        taken: Sequence[int],
        logits: Any,
    ) -> None:
        """Learn from a pass.

        Args:
            going: rows, each with its states, of the next token and of those after tokens of its draft.
            tokens: the T tokens that the model chose in these states, row by row.
            taken: indices of those that are part of the answers.
            logits: the logits (T, V) of all states.
        """
        self._count_near_ties(going, taken, logits)
        self._judge_window(going, len(taken))
        begin, kept = 0, set(taken)
        wanted = [at not in kept for at in range(len(tokens))]
        logprobs = logprobs_of(tokens, logits, self._xp, wanted=wanted) if self._drafter.refines else []
        for row, states in going:
            choices = tokens[begin : begin + len(states)]
            num_taken = sum(at in kept for at in range(begin, begin + len(states)))
            draft = self._drafts.pop(row, Draft()).first(num_taken)
            accepted = len(common_prefix(draft.tokens, choices))
            self._acceptance.learn(draft, accepted)
            first = begin + max(0, num_taken - 1)
            self._drafter.learn(
                row, tokens[first : begin + len(states)], logprobs[first : begin + len(states)]
            )
            begin += len(states)

    def forget(self, row: DecodeRow) -> None:
        """Drop what is known of a row that leaves."""
        self._drafts.pop(row, None)
        self._drafter.forget(row)

    def _sizes(self, rows: Sequence[DecodeRow], drafts: Sequence[Draft], prefilled: int | None) -> list[int]:
        """Return how many tokens of each draft to run."""
        sizes = [len(draft.tokens) for draft in drafts]
        if self._costs is None or not any(sizes):
            return sizes
        survivals = [self._survival(draft) for draft in drafts]
        padded, forced = self._xp is mx, sum(len(row.forced) for row in rows)
        if prefilled is None:
            chosen = worthwhile(survivals, len(rows) + forced, self._costs, padded=padded)
        else:  # prompts are run in any case, so a token is worth the time that it would take later
            later = self._costs.of(len(rows)) / (len(rows) * self._windows.gain(len(rows)))
            chosen = worthwhile(survivals, prefilled + forced, self._costs, padded=padded, worth=later)
        window = self._windows.size(len(rows))
        return [max(size, min(window, most)) for size, most in zip(chosen, sizes, strict=True)]

    def _survival(self, draft: Draft) -> np.ndarray:
        """Return for every token of a draft the chance that it gives one more; an end token gives none."""
        chances = self._acceptance.survival(draft)
        for at in self._ends(draft)[:1]:
            chances[at:] = 0.0
        return chances

    def _ends(self, draft: Draft) -> list[int]:
        """Return the places of end tokens."""
        return [i for i, token in enumerate(draft.tokens) if token in self._end_tokens]

    def _fitting(self, row: DecodeRow, draft: Draft, most: int) -> Draft:
        """Cut a draft to what the row's constraint allows, and before an end token.

        If guesses are refined, those behind an end token that is not likely are run too.
        """
        draft = draft.first(most)
        if ends := self._ends(draft):
            if row.guide is None and self._drafter.refines:
                survival = np.append(
                    self._acceptance.survival(draft), 1.0
                )  # the last one is before the first
                ends = [at for at in ends if survival[at] >= LIKELY * survival[at - 1]]
            draft = draft.first(min(ends, default=most))
        if row.guide is None or most <= 0:
            return draft
        tokens = _followed(row.guide, draft.tokens, most)
        same = len(common_prefix(tokens, draft.tokens))
        return draft.first(same).then(Draft.of("forced", tokens[same:]))

    def _judge_window(self, going: Sequence[tuple[DecodeRow, Sequence[RowState]]], num_taken: int) -> None:
        """Tell the windows what a planned pass gave."""
        rows = [row for row, _ in going if row in self._drafts]
        if rows and self._costs is not None and not self._is_first:
            guessed = sum(len(self._drafts[row].tokens) for row in rows)
            slowdown = self._costs.of(len(rows) + guessed) / self._costs.of(len(rows))
            self._windows.learn(len(rows), num_taken / len(rows) / slowdown)

    def _count_near_ties(
        self, going: Sequence[tuple[DecodeRow, Sequence[RowState]]], taken: Sequence[int], logits: Any
    ) -> None:
        if not taken:
            return
        pairs = [(row, state) for row, states in going for state in states]
        kept = [pairs[at] for at in taken]
        if len(taken) < len(logits):
            logits = logits[self._xp.array(taken)]
        found = near_ties(logits, [state for _, state in kept], self._xp, self._noise)
        for (row, _), is_near in zip(kept, found, strict=True):
            row.near_ties += is_near


def _followed(guide: Guide, tokens: Sequence[int], most: int) -> list[int]:
    """Return the first of `tokens` that a constraint allows, at most `most`; the guide stays as it is.

    Tokens that the constraint forces stand where they are due, and at the end.
    """
    guide, followed, rest = guide.fork(), [], list(tokens)
    try:
        while len(followed) < most and not guide.is_complete:
            if forced := guide.force(most - len(followed)):
                followed += forced
                rest = rest[len(forced) :] if rest[: len(forced)] == forced else []
            elif rest and guide.allows(rest[0]):
                guide.take(rest[0])
                followed.append(rest.pop(0))
            else:
                break
    except ConfigError:
        pass  # where no text could come next, the draft ends
    return followed
