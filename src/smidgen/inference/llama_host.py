"""A llama.cpp model, loaded with as much context as its rows need."""

import threading
from collections.abc import Sequence

from smidgen.backend import device
from smidgen.data.types import Constraint
from smidgen.inference.constraints import Guides
from smidgen.inference.llama_files import LlamaModel
from smidgen.inference.llama_row import LlamaRow
from smidgen.inference.llama_server import LlamaServer

MOST_SLOTS = 16
"""Maximum number of rows decoded together. On a CPU more rows only slow each other down."""
CACHE_SHARE = 0.25
"""Maximum share of the device's memory for the KV cache of all slots."""
CONTEXT_STEP = 256
"""Slot lengths are multiples of this, so that a slightly longer prompt does not reload the model."""
ARRIVING_CONTEXT = 1024
"""Minimum slot length if requests arrive over time; doubled as needed, so that reloads are rare."""


class LlamaHost:
    """Loads a model on first use, and reloads it when rows need more room; thread-safe.

    Attributes:
        model: the file and its tokenizer.
        most_slots: maximum number of rows decoded together.
        guides: makes the guides of constraints.
        wide: constraints with more to choose from than can be followed outside of llama.cpp.
    """

    def __init__(self, model: LlamaModel, *, most_slots: int, kv_bits: int | None):
        """Prepare; nothing is loaded yet.

        Args:
            model: the file and its tokenizer.
            most_slots: maximum number of rows decoded together.
            kv_bits: as in `LlamaServer`.
        """
        self.model = model
        self.most_slots = most_slots
        self.guides = Guides(model.tokenizer)
        self.wide: set[Constraint] = set()
        self._kv_bits = kv_bits
        self._lock = threading.Lock()
        self._num_leases = 0
        self._server: LlamaServer | None = None

    @property
    def is_leased(self) -> bool:
        """Whether a lease is open, so the model must stay loaded."""
        return self._num_leases > 0

    @property
    def cache_bytes(self) -> int:
        """KV-cache bytes of all slots."""
        server = self._server
        return 0 if server is None else server.num_slots * server.context * self.model.bytes_per_token

    def lease(self, rows: Sequence[LlamaRow], *, arriving: bool, reserved: int = 0) -> LlamaServer | None:
        """Return the loaded model, with room for the longest of these rows and as many slots as useful.

        Args:
            rows: one or more rows.
            arriving: whether further requests may arrive while these run, and need slots too.
            reserved: bytes of memory used elsewhere.

        Returns:
            The model, to be released with `release`; None while it would have to be reloaded but is leased.

        Raises:
            ConfigError: the wheel is not installed.
            ModelError: llama.cpp cannot load the file.
        """
        with self._lock:
            slots, context = self._wanted(rows, arriving=arriving, reserved=reserved)
            server = self._server
            if server is None or server.context < context or server.num_slots < slots:
                if self._num_leases:
                    return None
                self._unload()
                server = self._server = LlamaServer(
                    self.model.file,
                    num_slots=slots,
                    context=context,
                    adapter=self.model.adapter,
                    is_exact=self.model.is_exact,
                    kv_bits=self._kv_bits,
                )
            self._num_leases += 1
            return server

    def retain(self) -> None:
        """Add a lease of the model, which is already leased."""
        with self._lock:
            self._num_leases += 1

    def release(self) -> None:
        """End a lease."""
        with self._lock:
            self._num_leases -= 1

    def close(self) -> None:
        """Unload the model; no rows may be running."""
        with self._lock:
            self._unload()

    def _unload(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    def _wanted(self, rows: Sequence[LlamaRow], *, arriving: bool, reserved: int) -> tuple[int, int]:
        """Return the number of slots and their length, never shorter than the current ones."""
        longest = 1 + max(len(row.prompt) + row.max_tokens for row in rows)
        if arriving:
            longest = min(
                max(ARRIVING_CONTEXT, 1 << (longest - 1).bit_length()), max(longest, self.model.context)
            )
        context = -(-longest // CONTEXT_STEP) * CONTEXT_STEP
        if self._server is not None:
            context = max(context, self._server.context)
        budget = CACHE_SHARE * device().memory_bytes - reserved
        fitting = int(budget / (self.model.bytes_per_token * context))
        useful = self.most_slots if arriving else min(len(rows), self.most_slots)
        return max(1, min(useful, fitting)), context
