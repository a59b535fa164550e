"""Completions by a model of mlx-lm, many rows at once.

Requests are read ahead, sorted by length and decoded in a bounded batch: a finished row leaves at once and
waiting ones take its place, as in Orca (https://www.usenix.org/conference/osdi22/presentation/yu). What their
prompts have in common at the beginning is run once, and tokens that a constraint leaves no choice about are
run together.
"""

import math
import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate, chain, islice, takewhile
from typing import Any

from smidgen.backend import device, mx, peak_memory_bytes
from smidgen.data.types import Completion, Request, Sample, Sampling, Scored
from smidgen.errors import DataError, ModelError
from smidgen.inference.constraints import Guide, Guides, check_constrained
from smidgen.inference.decoder import PREFILL_TOKENS, Decoder
from smidgen.inference.engine import Stream
from smidgen.inference.forward import forward_of
from smidgen.inference.prefixes import by_family
from smidgen.inference.row import Row
from smidgen.inference.sampling import RowState, check_sampling, draw, logprobs_of
from smidgen.inference.scoring import Tree, score_group
from smidgen.inference.stopping import Ending, GrowingText
from smidgen.models.load import LoadedModel

READ_AHEAD = 1024
"""Requests that are sorted together; also how late a fault in a later request may come up."""
CACHE_SHARE = 0.25
"""Keys and values of the rows that are decoded together take at most this share of the device's memory."""
JOIN_SHARE = 8
"""Waiting rows join when an eighth of the batch is free, so that prompts are run several at a time."""
FORCED_SCORES = 1 << 25
"""Scores of tokens that have to come, in one pass: 128 MB; more of them wait for the next."""


class MlxEngine:
    """An `Engine` on a loaded model. Weights must not change while it is in use."""

    def __init__(
        self,
        loaded: LoadedModel,
        *,
        thinking: bool = False,
        batch_size: int = 64,
        fast_forward: bool = True,
        kv_bits: int | None = None,
    ):
        """Serve `loaded`.

        Args:
            loaded: model and tokenizer.
            thinking: passed to the chat template.
            batch_size: rows decoded together at most.
            fast_forward: whether tokens that a constraint leaves no choice about are run together; the
                answers are the same either way.
            kv_bits: how many bits a number of the keys and values is held in, 8 or 4; as the model computes
                if None.

        Raises:
            ConfigError: the model's keys and values cannot be held so.
        """
        self._tokenizer = loaded.tokenizer
        self._vocab_size = loaded.tokenizer.vocab_size
        self._name = loaded.name
        self._context = int(loaded.config.get("max_position_embeddings") or 2**31)
        self._thinking = thinking
        self._batch_size = batch_size
        self._fast_forward = fast_forward
        self._forward = forward_of(loaded.model, kv_bits=kv_bits)
        self._idle: Decoder | None = None
        self._endings: dict[tuple[tuple[str, ...], bool], Ending] = {}
        self._guides = Guides(loaded.tokenizer)

    def complete(self, requests: Iterable[Request]) -> Iterator[tuple[Request, Completion]]:
        """Complete requests in finishing order; see `Engine.complete`.

        Raises:
            ConfigError: a sampling setting is out of range, or a constraint cannot be enforced.
            ModelError: the chat template does not take the messages, or the weights hold no numbers.
        """
        for rows in self._decode(requests):
            for row in rows:
                if row.finish_reason:
                    yield row.request, self._completion(row)

    def stream(self, request: Request) -> Stream:
        """Complete one request, handing out its text while it is made; raises as `complete` does.

        Raises:
            DataError: the prompt leaves no room in the model's context.
        """
        return Stream(self._pieces(request))

    def score(
        self, samples: Iterable[Sample], continuations: Sequence[str], *, least_share: float = 0.0
    ) -> Iterator[tuple[Sample, Scored]]:
        """Score continuations of every sample's prompt, many prompts at once; see `Engine.score`."""
        tree = Tree([self._tokenizer.encode(text) for text in continuations])
        source = iter(samples)
        with self._borrowed_decoder() as decoder:
            while read := [self._prompt(sample) for sample in islice(source, READ_AHEAD)]:
                fitting = [entry for entry in read if len(entry[1]) + tree.depth <= self._context]
                for sample, _ in (entry for entry in read if len(entry[1]) + tree.depth > self._context):
                    yield sample, Scored(None)
                fitting = [fitting[i] for i in by_family([prompt for _, prompt in fitting])]
                shared = decoder.share([prompt for _, prompt in fitting]) if fitting else 0
                while fitting:
                    longest = max(len(prompt) for _, prompt in fitting)
                    room = self._room(decoder, longest + tree.depth)
                    ahead = len(tree.common) - shared
                    size = self._joining(len(prompt) + ahead for _, prompt in fitting[:room])
                    group, fitting = fitting[:size], fitting[size:]
                    prompts = [prompt for _, prompt in group]
                    scored = score_group(decoder, self._forward.xp, prompts, tree, least_share, room)
                    yield from zip((sample for sample, _ in group), scored, strict=True)

    def _prompt(self, sample: Sample) -> tuple[Sample, list[int]]:
        return sample, self._tokenizer.render_prompt(sample.messages, thinking=self._thinking)

    def peak_memory_bytes(self) -> int:
        """Return the most memory used so far, as the backend counts it."""
        return peak_memory_bytes()

    def close(self) -> None:
        """Release the model and the memory of its rows."""
        self._idle = None
        vars(self).pop("_forward", None)
        mx.clear_cache()

    @contextmanager
    def _borrowed_decoder(self) -> Iterator[Decoder]:
        """A decoder without rows; the last one comes back with its prefix, unless another caller has it."""
        decoder, self._idle = self._idle or Decoder(self._forward), None
        try:
            yield decoder
        finally:
            decoder.clear()
            self._idle = decoder

    def _decode(self, requests: Iterable[Request], *, watch: bool = False) -> Iterator[list[Row]]:
        """Decode requests; after each step, hand out the rows that took a token, finished ones included.

        Rows whose prompt leaves no room for a token are finished as they are read, and handed out alone.
        """
        source, waiting, rows = iter(requests), deque[Row](), list[Row]()
        shared = room = 0
        with self._borrowed_decoder() as decoder:
            while True:
                if not waiting and (read := self._read(source, watch)):
                    if unfit := [row for row in read if row.finish_reason]:
                        yield unfit
                    waiting.extend(row for row in read if not row.finish_reason)
                    if not waiting:
                        continue
                    shared = decoder.share([row.prompt for row in waiting])
                    room = self._room(decoder, max(len(row.prompt) + row.max_tokens for row in waiting))
                if joining := self._take_waiting(waiting, len(rows), room, shared):
                    rows += joining
                elif not rows:
                    return
                taking = joining or list(rows)
                for row in taking:
                    row.look_ahead(self._most_ahead(len(taking)))
                unrun = [row.unrun for row in taking]
                if joining:
                    logits = decoder.add(unrun, last=[1 + len(row.ahead) for row in taking])
                else:
                    logits = decoder.step(unrun)
                self._advance(taking, logits)
                for i in reversed(range(len(rows))):
                    if rows[i].finish_reason:
                        decoder.remove(i)
                        rows[i] = rows[-1]
                        rows.pop()
                yield taking

    def _advance(self, rows: Sequence[Row], logits: Any) -> None:
        """Let rows take what they had ahead, and those that go on their next token.

        Args:
            rows: those that were run.
            logits: scores (T, V) of what follows a row's last token and those ahead of it, row after row.
        """
        xp, now = self._forward.xp, time.perf_counter
        stops = list(accumulate(1 + len(row.ahead) for row in rows))
        scored = [range(stop - 1 - len(row.ahead), stop - 1) for row, stop in zip(rows, stops, strict=True)]
        ahead = [token for row in rows for token in row.ahead]
        logprobs = iter(self._checked(logprobs_of(ahead, logits, xp, rows=list(chain(*scored)))))
        for row in rows:
            if row.ahead:
                row.take_ahead(list(islice(logprobs, len(row.ahead))), now())
        going = [(row, stop - 1) for row, stop in zip(rows, stops, strict=True) if not row.finish_reason]
        if not going:
            return
        if len(going) < len(logits):
            logits = logits[xp.array([at for _, at in going])]
        for row, _ in going:
            row.state.allowed = row.guide and row.guide.allowed()
        drawn, logprobs = draw(logits, [row.state for row, _ in going], xp)
        for (row, _), token_id, logprob in zip(going, drawn, self._checked(logprobs), strict=True):
            is_end = token_id in self._tokenizer.eos_token_ids
            row.take(token_id, logprob, is_end=is_end, now=now())

    def _checked(self, logprobs: list[float]) -> list[float]:
        if any(math.isnan(logprob) for logprob in logprobs):
            raise ModelError(
                f"{self._name} computes scores that are not numbers; its weights, or the adapter's, "
                "are damaged, so fetch or train them again"
            )
        return logprobs

    def _most_ahead(self, num_rows: int) -> int:
        """How many tokens each of so many rows may have ahead in one pass."""
        together = min(PREFILL_TOKENS, FORCED_SCORES // self._vocab_size)
        return max(1, together // num_rows) if self._fast_forward else 0

    def _take_waiting(self, waiting: deque[Row], num_rows: int, room: int, shared: int) -> list[Row]:
        """Take rows out of `waiting` that are to join now: none, until enough of them can join at once."""
        free = room - num_rows
        if not waiting or (num_rows and free < min(len(waiting), max(1, room // JOIN_SHARE))):
            return []
        num_taken = self._joining(len(row.prompt) - shared for row in islice(waiting, free))
        taken = [waiting.popleft() for _ in range(num_taken)]
        now = time.perf_counter()
        for row in taken:
            row.started = now
        return taken

    def _room(self, decoder: Decoder, longest: int) -> int:
        """How many rows of at most `longest` tokens may be there together."""
        fitting = CACHE_SHARE * device().memory_bytes / (decoder.bytes_per_token * longest)
        return max(1, min(self._batch_size, int(fitting)))

    def _joining(self, lengths: Iterable[int]) -> int:
        """How many of the next rows are run at once, padded to the longest of them."""
        padded = (count * longest for count, longest in enumerate(accumulate(lengths, max), start=1))
        return sum(1 for _ in takewhile(lambda tokens: tokens <= PREFILL_TOKENS, padded)) or 1

    def _read(self, source: Iterator[Request], watch: bool) -> list[Row]:
        """Read requests ahead, those that begin alike together: what they share is run once."""
        rows = [self._row(request, watch) for request in islice(source, READ_AHEAD)]
        return [rows[i] for i in by_family([row.prompt for row in rows])]

    def _row(self, request: Request, watch: bool) -> Row:
        sample, sampling = request.sample, request.sampling
        check_sampling(sampling)
        guide = self._guide(request)
        prompt = self._tokenizer.render_prompt(sample.messages, thinking=self._thinking)
        text = None
        if watch or sampling.stop:
            text = GrowingText(self._tokenizer.stream_decoder(), sampling.stop)
        max_tokens = min(sampling.max_tokens, self._context - len(prompt))
        state = RowState.begin(sample.id, sampling, prompt)
        row = Row(request, prompt, max_tokens, state, text, self._ending(sampling), guide)
        row.finish_reason = None if max_tokens > 0 else "context"
        return row

    def _guide(self, request: Request) -> Guide | None:
        """What keeps the answer to its constraint."""
        check_constrained(request, thinking=self._thinking)
        return self._guides.begin(request.constraint) if request.constraint else None

    def _ending(self, sampling: Sampling) -> Ending | None:
        """What watches for the answer's end; one for all rows, since it learns which tokens matter."""
        watched = sampling.stop_after, sampling.stop_at_boxed
        if any(watched) and watched not in self._endings:
            ends, boxed = watched
            self._endings[watched] = Ending(self._tokenizer, ends, boxed=boxed, thinking=self._thinking)
        return self._endings.get(watched)

    def _completion(self, row: Row) -> Completion:
        assert row.finish_reason is not None
        token_ids = row.token_ids
        if not token_ids:
            return Completion("", finish_reason=row.finish_reason)
        if row.text is not None:
            text = row.text.finish()
        else:
            ended = token_ids[-1] in self._tokenizer.eos_token_ids
            text = self._tokenizer.decode(token_ids[:-1] if ended else token_ids)
        if row.ending is not None:
            text = row.ending.cut(text)
        logprobs = tuple(row.logprobs) if row.request.logprobs else ()
        return Completion(text, tuple(token_ids), logprobs, row.finish_reason, row.timing)

    def _pieces(self, request: Request) -> Generator[str, None, Completion]:
        given, row = 0, None
        for (row,) in self._decode([request], watch=True):
            if row.finish_reason == "context":
                raise DataError(
                    f"the prompt has {len(row.prompt)} tokens and the context of {self._name} "
                    f"{self._context}, which leaves no room for an answer; shorten the prompt"
                )
            assert row.text is not None
            if row.text.settled > given and not row.finish_reason:
                piece = row.text.text[given : row.text.settled]
                given += len(piece)
                yield piece
        assert row is not None
        completion = self._completion(row)
        if completion.text[given:]:
            yield completion.text[given:]
        return completion
