"""Completions by llama.cpp in this process: the engine for models of real size on a CPU.

Prompts are rendered by smidgen's own tokenizer and given as token ids, and what comes back is read as token
ids too, so a request means the same here as in the engine `mlx`. llama.cpp decodes the rows of all slots
together (continuous batching). What neighbouring prompts have in common is run once.

Rows that are decoded together are one matrix product, whose rounding depends on its size; so where two tokens
are all but equally probable, the same request may go either way from one run to the next.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from smidgen.backend import peak_memory_bytes
from smidgen.data.types import Completion, Request, Sample, Scored
from smidgen.errors import ConfigError, DataError
from smidgen.inference.engine import Event, Stream
from smidgen.inference.inbox import MOST_ADAPTERS
from smidgen.inference.kv_cache import group_size_of
from smidgen.inference.llama_files import LlamaModel, llama_model
from smidgen.inference.llama_host import MOST_SLOTS, LlamaHost
from smidgen.inference.llama_lane import LlamaLane
from smidgen.inference.llama_session import LlamaSession
from smidgen.inference.offline import completed, streamed


class LlamaEngine:
    """An `Engine` on a GGUF file.

    Each adapter has a loaded model of its own: merged into the weights if it is a folder and so is the model,
    beside them if it is a GGUF file. The one that was used longest ago is unloaded for another.
    """

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
        self._hosts: OrderedDict[str | None, LlamaHost] = OrderedDict()

    def session(self) -> LlamaSession:
        """Open a session, for requests that arrive over time; slots are kept for those that may come."""
        return self._session(arriving=True)

    def complete(self, requests: Iterable[Request]) -> Iterator[tuple[Request, Completion]]:
        """Complete requests in finishing order; see `Engine.complete`.

        Raises:
            ConfigError: a sampling setting is out of range or llama.cpp has none like it, or a constraint
                cannot be enforced.
            ModelError: the chat template does not take the messages, llama.cpp cannot run the model, or an
                adapter does not fit it.
        """
        yield from completed(self._session(arriving=False), requests, in_background=True)

    def stream(self, request: Request) -> Stream:
        """Complete one request, handing out its text while it is made; raises as `complete` does.

        Raises:
            DataError: the prompt leaves no room in the model's context.
        """

        def fault_of(completion: Completion) -> DataError | None:
            if completion.finish_reason != "context":
                return None
            prompt = self._model.tokenizer.render_prompt(request.sample.messages, thinking=self._thinking)
            return DataError(
                f"the prompt has {len(prompt)} tokens and the context of {self._model.name} "
                f"{self._model.context}, which leaves no room for an answer; shorten the prompt"
            )

        return Stream(streamed(self._session(arriving=False), request, fault_of))

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
        while self._hosts:
            self._hosts.popitem()[1].close()

    def _session(self, *, arriving: bool) -> LlamaSession:
        def opened(adapter: str | None, put: Callable[[Event | None], None]) -> LlamaLane:
            return LlamaLane(self._host(adapter), put, thinking=self._thinking, arriving=arriving)

        return LlamaSession(opened, self._reserved, thinking=self._thinking)

    def _host(self, adapter: str | None) -> LlamaHost:
        """The model with an adapter; one that nobody uses makes room for it."""
        if adapter not in self._hosts:
            model = self._model if adapter is None else self._adapted(adapter)
            unused = [key for key, host in self._hosts.items() if not host.is_leased]
            if len(self._hosts) > MOST_ADAPTERS and unused:
                self._hosts.pop(unused[0]).close()
            self._hosts[adapter] = LlamaHost(model, most_slots=self._most_slots, kv_bits=self._kv_bits)
        self._hosts.move_to_end(adapter)
        return self._hosts[adapter]

    def _adapted(self, adapter: str) -> LlamaModel:
        dtype = "F32" if self._model.is_exact else None
        return llama_model(self._model.name, adapter=Path(adapter), dtype=dtype)

    def _reserved(self, lane: LlamaLane) -> int:
        """Bytes that the keys and values of the other models take."""
        return sum(host.cache_bytes for host in self._hosts.values() if host is not lane.host)
