"""Completions from llama.cpp in this process: the engine for larger models on a CPU.

Prompts are rendered by smidgen's own tokenizer, and llama.cpp gets and returns token ids, so a request means
the same as in the engine `mlx`. llama.cpp decodes the rows of all slots together (continuous batching).
Shared prefixes of consecutive prompts are computed once.

Rows that are decoded together share matrix products, whose rounding depends on the batch size. So if two
tokens are almost equally probable, the same request may get either of them from run to run.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from smidgen.backend import peak_memory_bytes
from smidgen.data.templates import Tokenizer
from smidgen.data.types import Completion, Continuations, Request, Sample, Scored
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

    Each adapter has its own loaded model: an adapter folder is merged into the weights of a model folder; a
    GGUF adapter is applied at run time. The least recently used model is unloaded for a new adapter.
    """

    def __init__(
        self,
        model: LlamaModel,
        *,
        thinking: bool = False,
        batch_size: int = MOST_SLOTS,
        kv_bits: int | None = None,
    ):
        """Serve `model`, which is loaded on the first request.

        Args:
            model: the file and its tokenizer.
            thinking: passed to the chat template.
            batch_size: maximum number of rows decoded together; capped at `MOST_SLOTS`.
            kv_bits: KV-cache bits, 8 or 4; default: 16, or 32 for a float32 file.

        Raises:
            ConfigError: the model's head width does not allow a quantised KV cache.
        """
        self._model = model
        self._thinking = thinking
        self._kv_bits = kv_bits
        if kv_bits is not None:
            group_size_of(model.head_dim)
        self._most_slots = min(batch_size, MOST_SLOTS)
        self._hosts: OrderedDict[str | None, LlamaHost] = OrderedDict()

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer."""
        return self._model.tokenizer

    @property
    def batch_size(self) -> int:
        """Maximum number of rows decoded together."""
        return self._most_slots

    def session(self) -> LlamaSession:
        """Open a session for requests that arrive over time; it keeps free slots for later requests."""
        return self._session(arriving=True)

    def complete(self, requests: Iterable[Request]) -> Iterator[tuple[Request, Completion]]:
        """Complete requests in finishing order; see `Engine.complete`.

        Raises:
            ConfigError: a sampling setting is out of range or not supported by llama.cpp, or a constraint
                cannot be enforced.
            ModelError: the chat template rejects the messages, llama.cpp cannot run the model, or an adapter
                does not fit it.
        """
        yield from completed(self._session(arriving=False), requests, in_background=True)

    def stream(self, request: Request) -> Stream:
        """Complete one request and stream its text; raises as `complete` does.

        Raises:
            DataError: the prompt leaves no room in the model's context.
        """

        def fault_of(completion: Completion) -> DataError | None:
            if completion.finish_reason != "context":
                return None
            prompt = self._model.tokenizer.render_prompt(request.sample.messages, thinking=self._thinking)
            return DataError(
                f"the prompt has {len(prompt)} tokens and {self._model.name} a context of "
                f"{self._model.context}, which leaves no room for an answer; shorten the prompt"
            )

        return Stream(streamed(self._session(arriving=False), request, fault_of))

    def score(
        self, samples: Iterable[Sample], continuations: Continuations, *, least_share: float = 0.0
    ) -> Iterator[tuple[Sample, Scored]]:
        """Refuse: llama.cpp's server core has no log-probabilities of given texts."""
        raise ConfigError("the engine llama does not support log-probability scoring; use the engine mlx")

    def peak_memory_bytes(self) -> int:
        """Return the peak memory of this process so far."""
        return peak_memory_bytes()

    def close(self) -> None:
        """Release the model."""
        while self._hosts:
            self._hosts.popitem()[1].close()

    def _session(self, *, arriving: bool) -> LlamaSession:
        def open_lane(adapter: str | None, put: Callable[[Event | None], None]) -> LlamaLane:
            return LlamaLane(self._host(adapter), put, thinking=self._thinking, arriving=arriving)

        return LlamaSession(open_lane, self._reserved, thinking=self._thinking)

    def _host(self, adapter: str | None) -> LlamaHost:
        """Return the host of the model with an adapter; an unused one is unloaded if there are too many."""
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
        """Return the KV-cache bytes of the other models."""
        return sum(host.cache_bytes for host in self._hosts.values() if host is not lane.host)
