"""Continuous batching on one decoder: waiting rows take the places of finished ones.

As in Orca (https://www.usenix.org/conference/osdi22/presentation/yu). The shared prefix of a window's prompts
is computed once, and tokens forced by a constraint run together in one pass.
"""

import math
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, islice, takewhile
from typing import Any

from smidgen.backend import device
from smidgen.data.templates import Tokenizer
from smidgen.errors import ModelError
from smidgen.inference.decoder import PREFILL_TOKENS, Decoder
from smidgen.inference.inbox import Submitted
from smidgen.inference.prefixes import FAMILY_TOKENS, by_family, common_prefix
from smidgen.inference.row import DecodeRow
from smidgen.inference.sampling import RowState, draw, logprobs_of, top_logprobs_of
from smidgen.inference.speculation import Speculation

CACHE_SHARE = 0.25
"""Maximum share of the device's memory for the KV cache of a batch."""
JOIN_SHARE = 8
"""Waiting rows join when an eighth of the batch is free, so that several prompts are prefilled at a time."""
FORCED_SCORES = 1 << 25
"""Maximum logits of forced tokens in one pass: 128 MB; further tokens wait for the next pass."""


@dataclass(frozen=True)
class LaneSettings:
    """Settings of a lane.

    Attributes:
        tokenizer: the model's tokenizer.
        name: the model's name.
        batch_size: maximum number of rows in the batch.
        fast_forward: whether tokens forced by a constraint run together in one pass.
    """

    tokenizer: Tokenizer
    name: str
    batch_size: int
    fast_forward: bool


class Lane:
    """A decoder with its rows, and the requests that wait for a place.

    Attributes:
        arrived: requests that are not rows yet.
        rows: rows being decoded, in the decoder's order.
    """

    def __init__(
        self,
        decoder: Decoder,
        settings: LaneSettings,
        give_back: Callable[[Decoder], None],
        speculation: Speculation | None = None,
    ):
        """Decode with `decoder`, which has no rows; `close` passes it to `give_back`.

        With a `speculation`, drafts are verified along with the next token of each row.
        """
        self._speculation = speculation
        self._decoder = decoder
        self._settings = settings
        self._give_back = give_back
        self._windows: deque[deque[DecodeRow]] = deque()
        self._is_shared = False  # whether the prefix cache was filled for the first window
        self._shared = self._longest = self._room = 0
        self._latest: list[int] = []
        self.arrived: deque[Submitted] = deque()
        self.rows: list[DecodeRow] = []

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to decode."""
        return not (self.rows or self._windows or self.arrived)

    @property
    def has_waiting(self) -> bool:
        """Whether rows wait for a place."""
        return bool(self._windows)

    @property
    def is_full(self) -> bool:
        """Whether another row would have to wait."""
        return bool(self.rows) and len(self.rows) >= self._room

    @property
    def reserved_bytes(self) -> int:
        """KV-cache bytes of the rows at their maximum length."""
        count = len(self.rows) + sum(map(len, self._windows))
        return min(count, self._room) * self._longest * self._decoder.bytes_per_token

    def admit(self, rows: Sequence[DecodeRow], reserved: int = 0) -> None:
        """Queue a window of rows, grouped by shared prefix; no rows may be waiting.

        While other rows are running, the rows that match the prefix cache best form a window of their own and
        go first. In one window with the others, only the prefix shared by all of them could be reused.

        Args:
            rows: unfinished rows.
            reserved: bytes of memory used elsewhere.
        """
        assert not self._windows
        rows = [rows[i] for i in by_family([row.prompt for row in rows])]
        self._windows.extend(deque(part) for part in self._parts(rows) if part)
        self._is_shared = False
        self._longest = max(len(row.prompt) + row.max_tokens for row in chain(rows, self.rows))
        self._room = room_for(self._decoder, self._longest, self._settings.batch_size, reserved)

    def _parts(self, rows: Sequence[DecodeRow]) -> list[list[DecodeRow]]:
        """Split a window by what is already computed of its prompts: the prefix cache, and prefixes aside."""
        near: list[DecodeRow] = []
        aside: dict[int, list[DecodeRow]] = {}
        for row in rows:
            place = self._decoder.place_aside(row.prompt)
            (near if place is None else aside.setdefault(place, [])).append(row)
        cached = [self._decoder.num_cached(row.prompt) for row in near] if self.rows else []
        most = max(cached, default=0)
        parts = [near]
        if most >= FAMILY_TOKENS and min(cached) < most:
            parts = [
                [row for row, n in zip(near, cached, strict=True) if (n == most) == first]
                for first in (True, False)
            ]
        return [*parts, *aside.values()]

    def step(self) -> list[DecodeRow]:
        """Run one pass; return the rows that got a token, including finished ones."""
        joining = self._take_waiting()
        self.rows += joining
        taking = joining or list(self.rows)
        if not taking:
            return []
        most = self._most_scored(len(taking))
        for row in taking:
            row.plan_forced(most if self._settings.fast_forward else 0)
        if self._speculation is not None:
            prefilled = sum(len(row.prompt) - self._shared for row in joining) if joining else None
            self._speculation.plan(taking, most, prefilled)
        next_tokens = [row.next_tokens for row in taking]
        if joining:
            last = [1 + len(row.forced) + len(row.draft) for row in taking]
            logits = self._decoder.add(next_tokens, last=last)
        else:
            logits = self._decoder.step(next_tokens)
        if joining == self.rows and len(joining) == 1:
            self._decoder.adopt(joining[0].prompt)
        self._advance(taking, logits)
        self._leave(lambda row: row.is_finished)
        return taking

    def drop(self, tickets: Collection[int]) -> None:
        """Drop cancelled requests."""
        self.arrived = deque(one for one in self.arrived if one.ticket not in tickets)
        for window in list(self._windows):
            for row in [row for row in window if row.submitted.ticket in tickets]:
                window.remove(row)
            if not window:
                self._next_window(window)
        self._leave(lambda row: row.submitted.ticket in tickets)

    def close(self) -> None:
        """Drop all rows and give the decoder back."""
        self.arrived.clear()
        self._windows.clear()
        self._leave(lambda row: True)
        self._decoder.clear()
        self._give_back(self._decoder)

    def _leave(self, goes: Callable[[DecodeRow], bool]) -> None:
        before = len(self.rows)
        for i in reversed(range(len(self.rows))):
            if goes(self.rows[i]):
                self._decoder.remove(i)
                if self._speculation is not None:
                    self._speculation.forget(self.rows[i])
                self.rows[i] = self.rows[-1]
                self.rows.pop()
        if self.is_idle:
            self._decoder.clear()
        elif len(self.rows) < before:
            self._decoder.settle()

    def _take_waiting(self) -> list[DecodeRow]:
        """Return the rows that join now; none until enough of them can join at once."""
        free = self._room - len(self.rows)
        if not self._windows:
            return []
        waiting = self._windows[0]
        if self.rows and free < min(len(waiting), max(1, self._room // JOIN_SHARE)):
            return []
        if not self._is_shared:
            self._share([row.prompt for row in waiting])
        taken = [
            waiting.popleft()
            for _ in range(joining(islice((len(row.prompt) - self._shared for row in waiting), free)))
        ]
        if not waiting:
            self._next_window(waiting)
        now = time.perf_counter()
        for row in taken:
            row.started = now
        return taken

    def _next_window(self, window: deque[DecodeRow]) -> None:
        self._is_shared = self._is_shared and window is not self._windows[0]
        self._windows.remove(window)

    def _share(self, prompts: Sequence[list[int]]) -> None:
        """Fill the prefix cache for the prompts of a window.

        A single prompt reuses the prefix cache as it is, and while no others run takes its place. If it
        arrives while others run and shares more with the previous prompt, that prefix is computed and kept
        for the next prompts.
        """
        self._is_shared = True
        if len(prompts) > 1:
            self._shared = self._decoder.share(prompts)
        elif not self.rows:
            self._shared = self._decoder.reuse(prompts)
        else:
            (prompt,) = prompts
            known = self._decoder.num_cached(prompt)
            if len(common_prefix(self._latest, prompt)) >= known + FAMILY_TOKENS:
                self._shared = self._decoder.share([self._latest, prompt])
            else:
                self._shared = self._decoder.reuse(prompts)
        self._latest = prompts[-1]

    def _advance(self, rows: Sequence[DecodeRow], logits: Any) -> None:
        """Append the forced tokens of rows, then the tokens that each row that continues chooses.

        Args:
            rows: the rows of the pass.
            logits: logits (T, V) after each row's last token, its forced tokens and its draft, row by row.
        """
        stops = list(accumulate(1 + len(row.forced) + len(row.draft) for row in rows))
        # Of each row's logits, the first that choose freely.
        free = [stop - 1 - len(row.draft) for row, stop in zip(rows, stops, strict=True)]
        known = [len(row.token_ids) for row in rows]
        self._take_forced(rows, free, logits)
        going = [
            (row, at, states)
            for row, at in zip(rows, free, strict=True)
            if not row.is_finished and (states := row.ahead())
        ]
        if going:
            at = list(chain(*(range(at, at + len(states)) for _, at, states in going)))
            if len(at) < len(logits):
                logits = logits[self._decoder.xp.array(at)]
            self._choose([(row, states) for row, _, states in going], logits)
        if self._speculation is not None:
            self._settle_drafts(rows, known)

    def _choose(self, going: Sequence[tuple[DecodeRow, Sequence[RowState]]], logits: Any) -> None:
        """Choose a token in every state of rows, and append those up to the first that no draft expected.

        Args:
            going: rows, each with its states, of the next token and of those after tokens of its draft.
            logits: logits (T, V) of all states, row by row.
        """
        tokens, logprobs = draw(logits, list(chain(*(states for _, states in going))), self._decoder.xp)
        begin, taken = 0, []
        for row, states in going:
            end = begin + len(states)
            accepted = range(begin, begin + self._take(row, tokens[begin:end], logprobs[begin:end]))
            self._take_top(row, logits, accepted)
            taken += accepted
            begin = end
        if self._speculation is not None:
            self._speculation.learn(going, tokens, taken, logits)

    def _take_forced(self, rows: Sequence[DecodeRow], free: Sequence[int], logits: Any) -> None:
        """Append the forced tokens of rows, whose logits are those just before `free`."""
        scored = [range(at - len(row.forced), at) for row, at in zip(rows, free, strict=True)]
        forced = [token for row in rows for token in row.forced]
        wanted = [row.scores_forced for row in rows for _ in row.forced]
        at = list(chain(*scored))
        logprobs = iter(logprobs_of(forced, logits, self._decoder.xp, rows=at, wanted=wanted))
        for row, places in zip(rows, scored, strict=True):
            if row.forced:
                found = list(islice(logprobs, len(row.forced)))
                if self._are_numbers(row, found):
                    self._take_top(row, logits, places)
                    row.take_forced(found, time.perf_counter())

    def _take_top(self, row: DecodeRow, logits: Any, places: range) -> None:
        """Append the most probable tokens at places of the pass, if they are wanted."""
        if row.num_top and places:
            row.top_logprobs += top_logprobs_of(logits[places.start : places.stop], row.num_top)

    def _take(self, row: DecodeRow, tokens: Sequence[int], logprobs: Sequence[float]) -> int:
        """Append chosen tokens of a row up to the first that its draft did not expect; return how many."""
        taken = 0
        for token_id, logprob, guess in zip(tokens, logprobs, [*row.draft, None], strict=False):
            if not self._are_numbers(row, [logprob]):
                break
            is_end = token_id in self._settings.tokenizer.eos_token_ids
            row.take(token_id, logprob, is_end=is_end, now=time.perf_counter())
            taken += 1
            if row.is_finished or token_id != guess:
                break
        return taken

    def _settle_drafts(self, rows: Sequence[DecodeRow], known: Sequence[int]) -> None:
        """Undo what rows ran beyond their tokens; before the pass each had `known` of them."""
        for row, before in zip(rows, known, strict=True):
            row.committed.append(len(row.token_ids) - before)
        if any(row.draft for row in rows):
            # The last token of a row is run in its next pass.
            ends = [len(row.prompt) + len(row.token_ids) - 1 for row in self.rows]
            surplus = [size - end for size, end in zip(self._decoder.lengths, ends, strict=True)]
            self._decoder.rollback([max(0, count) for count in surplus])
        for row in rows:
            row.draft = []

    def _are_numbers(self, row: DecodeRow, logprobs: Sequence[float]) -> bool:
        if any(math.isnan(logprob) for logprob in logprobs):
            row.error = ModelError(
                f"{self._settings.name} computes logits that are NaN; its weights, or the adapter's, are "
                "damaged, so download or train them again"
            )
        return row.error is None

    def _most_scored(self, num_rows: int) -> int:
        """Return the maximum number of forced tokens, and of drafted ones, per row of `num_rows`."""
        together = min(PREFILL_TOKENS, FORCED_SCORES // self._settings.tokenizer.vocab_size)
        return max(1, together // num_rows)


def room_for(decoder: Decoder, longest: int, batch_size: int, reserved: int = 0) -> int:
    """Return how many rows of `longest` tokens fit in memory, with `reserved` bytes used elsewhere."""
    budget = CACHE_SHARE * device().memory_bytes - reserved
    return max(1, min(batch_size, int(budget / (decoder.bytes_per_token * longest))))


def joining(lengths: Iterable[int]) -> int:
    """Return how many of the next rows to prefill at once, padded to the longest of them."""
    padded = (count * longest for count, longest in enumerate(accumulate(lengths, max), start=1))
    return sum(1 for _ in takewhile(lambda tokens: tokens <= PREFILL_TOKENS, padded)) or 1
