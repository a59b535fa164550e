"""A model of llama.cpp, loaded with as much room as its rows need."""

import threading
from collections.abc import Sequence

from smidgen.backend import device
from smidgen.inference.llama_files import LlamaModel
from smidgen.inference.llama_row import LlamaRow
from smidgen.inference.llama_server import LlamaServer

MOST_SLOTS = 16
"""Rows decoded together at most. On a CPU more of them only make each other wait."""
CACHE_SHARE = 0.25
"""Keys and values of all slots take at most this share of the device's memory."""
CONTEXT_STEP = 256
"""A slot's length is a multiple of this, so that a slightly longer prompt does not load the model anew."""
ARRIVING_CONTEXT = 1024
"""Where requests arrive one by one, a slot has this length at least, and doubles if that is too little."""


class LlamaHost:
    """Loads a model when it is needed, and again when rows need more room; used from several threads.

    Attributes:
        model: the file and its tokenizer.
        most_slots: rows decoded together at most.
    """

    def __init__(self, model: LlamaModel, *, most_slots: int, kv_bits: int | None):
        """Load nothing yet.

        Args:
            model: the file and its tokenizer.
            most_slots: rows decoded together at most.
            kv_bits: as in `LlamaServer`.
        """
        self.model = model
        self.most_slots = most_slots
        self._kv_bits = kv_bits
        self._lock = threading.Lock()
        self._num_leases = 0
        self._server: LlamaServer | None = None

    @property
    def is_leased(self) -> bool:
        """Whether somebody is running rows."""
        return self._num_leases > 0

    @property
    def cache_bytes(self) -> int:
        """Memory of the keys and values of all slots."""
        held = self._server
        return 0 if held is None else held.num_slots * held.context * self.model.bytes_per_token

    def lease(self, rows: Sequence[LlamaRow], *, arriving: bool, reserved: int = 0) -> LlamaServer | None:
        """Return the loaded model, with room for the longest of these rows, and for several if it can be.

        Args:
            rows: one or more.
            arriving: whether others will come while these run, for which there should be slots.
            reserved: bytes of memory that are not to be had.

        Returns:
            None as long as it would have to be loaded anew and others are using it. If not None, call
            `release` in the end.

        Raises:
            ConfigError: the wheel is not installed.
            ModelError: llama.cpp cannot load the file.
        """
        with self._lock:
            slots, context = self._wanted(rows, arriving=arriving, reserved=reserved)
            held = self._server
            if held is None or held.context < context or held.num_slots < slots:
                if self._num_leases:
                    return None
                self._unload()
                held = self._server = LlamaServer(
                    self.model.file,
                    num_slots=slots,
                    context=context,
                    adapter=self.model.adapter,
                    is_exact=self.model.is_exact,
                    kv_bits=self._kv_bits,
                )
            self._num_leases += 1
            return held

    def retain(self) -> None:
        """Lease what is leased once more."""
        with self._lock:
            self._num_leases += 1

    def release(self) -> None:
        """Give a lease back."""
        with self._lock:
            self._num_leases -= 1

    def close(self) -> None:
        """Unload the model; nothing may be running."""
        with self._lock:
            self._unload()

    def _unload(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    def _wanted(self, rows: Sequence[LlamaRow], *, arriving: bool, reserved: int) -> tuple[int, int]:
        """How many slots, and how long: no shorter than those that there are."""
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
