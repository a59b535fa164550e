"""Completions by llama.cpp in this process: the engine for models of real size on a CPU.

Prompts are rendered by smidgen's own tokenizer and given as token ids, and what comes back is read as token
ids too, so a request means the same here as in the engine `mlx`. llama.cpp decodes the rows of all slots
together (continuous batching). What neighbouring prompts have in common is run once.

Rows that are decoded together are one matrix product, whose rounding depends on its size; so where two tokens
are all but equally probable, the same request may go either way from one run to the next.
"""

import hashlib
import json
import queue
import threading
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

from smidgen.backend import device, peak_memory_bytes
from smidgen.data.types import Completion, Constraint, Request, Sample, Sampling, Scored
from smidgen.errors import ConfigError, DataError, ModelError
from smidgen.inference.constraints import check_constrained, grammar_of
from smidgen.inference.engine import Stream
from smidgen.inference.kv_cache import group_size_of
from smidgen.inference.llama_files import LlamaModel
from smidgen.inference.llama_row import LlamaRow
from smidgen.inference.llama_server import LlamaServer, Refused
from smidgen.inference.prefixes import stem_of
from smidgen.inference.sampling import check_sampling
from smidgen.inference.slots import Shares
from smidgen.inference.stopping import Ending, GrowingText

READ_AHEAD = 1024
"""Requests that are sorted together; also how late a fault in a later request may come up."""
MOST_SLOTS = 16
"""Rows decoded together at most. On a CPU more of them only make each other wait."""
CACHE_SHARE = 0.25
"""Keys and values of all slots take at most this share of the device's memory."""
CONTEXT_STEP = 256
"""A slot's length is a multiple of this, so that a slightly longer prompt does not load the model anew."""


class LlamaEngine:
    """An `Engine` on a GGUF file."""

    def __init__(
        self,
        model: LlamaModel,
        *,
        thinking: bool = False,
        batch_size: int = MOST_SLOTS,
        kv_bits: int | None = None,
    ):
        """Serve `model`, which is loaded with the first request.

        Args:
            model: the file and its tokenizer.
            thinking: passed to the chat template.
            batch_size: rows decoded together at most; never more than `MOST_SLOTS`.
            kv_bits: how many bits a number of the keys and values is held in, 8 or 4; 16 if None, and 32 for
                a file of 32 bits.

        Raises:
            ConfigError: the model's keys and values cannot be held so.
        """
        self._model = model
        self._thinking = thinking
        self._kv_bits = kv_bits
        if kv_bits is not None:
            group_size_of(model.head_dim)
        self._most_slots = min(batch_size, MOST_SLOTS)
        self._server: LlamaServer | None = None

    def complete(self, requests: Iterable[Request]) -> Iterator[tuple[Request, Completion]]:
        """Complete requests in finishing order; see `Engine.complete`.

        Raises:
            ConfigError: a sampling setting is out of range or llama.cpp has none like it, or a constraint
                cannot be enforced.
            ModelError: the chat template does not take the messages, or llama.cpp cannot run the model.
        """
        source = iter(requests)
        while rows := [self._row(request) for request in islice(source, READ_AHEAD)]:
            yield from ((row.request, row.completion()) for row in rows if row.finish_reason)
            fitting = sorted((row for row in rows if not row.finish_reason), key=lambda row: row.prompt)
            if fitting:
                yield from self._run_all(fitting)

    def stream(self, request: Request) -> Stream:
        """Complete one request, handing out its text while it is made; raises as `complete` does.

        Raises:
            DataError: the prompt leaves no room in the model's context.
        """
        return Stream(self._pieces(request))

    def score(
        self, samples: Iterable[Sample], continuations: Sequence[str], *, least_share: float = 0.0
    ) -> Iterator[tuple[Sample, Scored]]:
        """Refuse: llama.cpp's server core tells no probabilities of given texts."""
        raise ConfigError(
            "the engine llama knows no probabilities of given continuations; use the engine mlx for that"
        )

    def peak_memory_bytes(self) -> int:
        """Return the most memory that this process has used so far."""
        return peak_memory_bytes()

    def close(self) -> None:
        """Release the model."""
        if self._server is not None:
            self._server.close()
            self._server = None

    def _run_all(self, rows: Sequence[LlamaRow]) -> Iterator[tuple[Request, Completion]]:
        server = self._server_for(rows)
        if len(rows) > 1:
            server.share(stem_of([row.prompt for row in rows]))
        shares, finished = Shares(rows, server.num_slots), queue.SimpleQueue[LlamaRow | Exception]()

        def work(slot: int) -> None:
            try:
                while row := shares.take(slot):
                    self._run(server, row, slot)
                    finished.put(row)
            except Exception as error:  # handed to whoever waits for the rows
                finished.put(error)

        pool = ThreadPoolExecutor(server.num_slots, thread_name_prefix="smidgen-llama")
        try:
            for slot in range(server.num_slots):
                pool.submit(work, slot)
            for _ in rows:
                row = finished.get()
                if isinstance(row, Exception):
                    raise row
                yield row.request, row.completion()
        finally:
            shares.clear()
            pool.shutdown()

    def _run(self, server: LlamaServer, row: LlamaRow, slot: int) -> None:
        """Ask until the row is finished: llama.cpp ends it at a string that a thought may hold as well."""
        while row.finish_reason is None:
            try:
                answer = server.complete(self._question(row, server.context) | {"id_slot": slot})
            except Refused as error:
                raise ModelError(f"llama.cpp refuses a prompt of {self._model.name}: {error}") from None
            row.take(answer["__verbose"], self._model.tokenizer.eos_token_ids)

    def _question(self, row: LlamaRow, context: int) -> dict[str, Any]:
        sampling = row.request.sampling
        return {
            "prompt": row.prompt + row.token_ids,
            "max_tokens": row.max_tokens - len(row.token_ids),
            "stop": [*sampling.stop, *(() if self._thinking else sampling.stop_after)],
            "logprobs": int(row.request.logprobs),
            "return_tokens": True,
            "verbose": True,
            **_drawing(sampling, row.request.sample.id, context),
            **_constraining(row.request.constraint),
        }

    def _server_for(self, rows: Sequence[LlamaRow]) -> LlamaServer:
        """The loaded model, with room for the longest of these rows, and for several if it can be."""
        longest = 1 + max(len(row.prompt) + row.max_tokens for row in rows)
        context = -(-longest // CONTEXT_STEP) * CONTEXT_STEP
        held = self._server
        if held is not None:
            context = max(context, held.context)
        fitting = CACHE_SHARE * device().memory_bytes / (self._model.bytes_per_token * context)
        slots = max(1, min(len(rows), self._most_slots, int(fitting)))
        if held is None or held.context < context or held.num_slots < slots:
            self.close()
            self._server = LlamaServer(
                self._model.file,
                num_slots=slots,
                context=context,
                adapter=self._model.adapter,
                is_exact=self._model.is_exact,
                kv_bits=self._kv_bits,
            )
        assert self._server is not None
        return self._server

    def _row(self, request: Request) -> LlamaRow:
        sampling, tokenizer = request.sampling, self._model.tokenizer
        check_sampling(sampling)
        if sampling.frequency_penalty:
            raise ConfigError(
                "the engine llama has no frequency_penalty, since llama.cpp counts the tokens of the prompt "
                "in it; leave it out or use the engine mlx"
            )
        check_constrained(request, thinking=self._thinking)
        if request.constraint is not None:
            grammar_of(request.constraint)
        prompt = tokenizer.render_prompt(request.sample.messages, thinking=self._thinking)
        ends, boxed = sampling.stop_after, sampling.stop_at_boxed
        row = LlamaRow(
            request,
            prompt,
            min(sampling.max_tokens, self._model.context - len(prompt)),
            GrowingText(tokenizer.stream_decoder(), sampling.stop),
            Ending(tokenizer, ends, boxed=boxed, thinking=self._thinking) if ends or boxed else None,
        )
        row.finish_reason = None if row.max_tokens > 0 else "context"
        return row

    def _pieces(self, request: Request) -> Generator[str, None, Completion]:
        row, given = self._row(request), 0
        if row.finish_reason == "context":
            raise DataError(
                f"the prompt has {len(row.prompt)} tokens and the context of {self._model.name} "
                f"{self._model.context}, which leaves no room for an answer; shorten the prompt"
            )
        server = self._server_for([row])
        question = self._question(row, server.context) | {"stop": [], "stream": True, "logprobs": 1}
        started = time.perf_counter()
        for part in _parts(server, question):
            if error := part.get("error"):
                raise ModelError(f"llama.cpp refuses a prompt of {self._model.name}: {error['message']}")
            row.seconds = time.perf_counter() - started
            row.take_part(part, self._model.tokenizer.eos_token_ids)
            if row.finish_reason:
                break
            if row.text.settled > given:
                yield row.text.text[given : row.text.settled]
                given = row.text.settled
        if self._model.tokenizer.decode(row.token_ids) != row.streamed:
            row.hidden = max(row.hidden, 1)
        completion = row.completion()
        if completion.text[given:]:
            yield completion.text[given:]
        return completion


def _drawing(sampling: Sampling, sample_id: str, context: int) -> dict[str, Any]:
    """The settings of drawing as llama.cpp calls them, in the order in which smidgen applies them.

    Each of its steps goes through the whole vocabulary for every token, so none is asked for needlessly.
    """
    name = f"{sampling.seed}/{sample_id}"
    digest = hashlib.blake2b(name.encode(), digest_size=4).digest()
    is_greedy = sampling.temperature == 0
    penalties = ["penalties"] if sampling.repetition_penalty != 1 else []
    return {
        "samplers": penalties + (["top_k"] if is_greedy else ["temperature", "top_k", "top_p", "min_p"]),
        "temperature": sampling.temperature,
        "top_k": 1 if is_greedy else sampling.top_k,
        "top_p": sampling.top_p,
        "min_p": sampling.min_p,
        "repeat_penalty": sampling.repetition_penalty,
        "repeat_last_n": context,
        "seed": int.from_bytes(digest) % (2**32 - 1),  # the largest would ask for any seed
    }


def _constraining(constraint: Constraint | None) -> dict[str, str]:
    """A constraint as llama.cpp hands it to llguidance, which enforces it in the engine `mlx` too."""
    if constraint is None:
        return {}
    grammar = grammar_of(constraint)
    if grammar.startswith("{"):
        (part,) = json.loads(grammar)["grammars"]
        schema = part["json_schema"]
        grammar = part["lark_grammar"] if schema is None else f"start: %json {json.dumps(schema)}"
    return {"grammar": f"%llguidance {{}}\n{grammar}"}


def _parts(server: LlamaServer, question: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The parts of an answer as they come; the completion ends when they are no longer read."""
    parts: queue.Queue[dict[str, Any] | None] = queue.Queue()
    over = threading.Event()

    def push(part: dict[str, Any]) -> bool:
        parts.put(part)
        return over.is_set()

    def ask() -> None:
        try:
            server.complete(question, push)
        finally:
            parts.put(None)

    thread = threading.Thread(target=ask, name="smidgen-llama-stream")
    thread.start()
    try:
        yield from iter(parts.get, None)
    finally:
        over.set()
        thread.join()
