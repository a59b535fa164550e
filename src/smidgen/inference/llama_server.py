"""llama.cpp's server core in this process, from the `xllamacpp` wheel: slots, each with its own KV cache.

A slot keeps the KV cache of its last prompt and reuses the prefix shared with the next one, but slots cannot
read each other's caches. So a prefix shared by many prompts is computed in one slot and copied to the others.
Copying uses the HTTP listener that the core opens on this machine's loopback, protected by a random key.
"""

import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx2

from smidgen.backend import device
from smidgen.errors import ConfigError, ModelError
from smidgen.export.gguf.llama_cpp import start_server

# llama.cpp's threads wait for each other hundreds of times per token. By default they spin, which makes a
# token many times slower while other programs run. If they yield at once, a token takes twice as long on an
# idle machine. So they spin for some microseconds first. The variable is read when the wheel is loaded.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
try:
    import xllamacpp as _xllamacpp
except ImportError:
    xllamacpp: Any = None
else:
    xllamacpp = _xllamacpp

SHARED_LEAST = 32
"""Minimum shared tokens for which copying is cheaper than computing them in every slot."""
_SHARED = "shared"


class Refused(Exception):
    """llama.cpp refused a request; the message is its own."""


def num_threads() -> int:
    """Return the number of threads: one for each core, at most `OMP_NUM_THREADS`, as Ray sets it."""
    given, cores = os.environ.get("OMP_NUM_THREADS", ""), device().cores
    return min(cores, int(given)) if given.isdecimal() and int(given) else cores


def is_installed() -> bool:
    """Return whether the wheel is installed."""
    return xllamacpp is not None


class LlamaServer:
    """A loaded GGUF model with a fixed number of slots; thread-safe.

    Attributes:
        num_slots: number of rows decoded together.
        context: maximum tokens of a row, answer included.
    """

    def __init__(
        self,
        file: Path,
        *,
        num_slots: int,
        context: int,
        adapter: Path | None = None,
        is_exact: bool = False,
        kv_bits: int | None = None,
    ):
        """Load the model.

        Args:
            file: the model.
            num_slots: number of rows decoded together.
            context: maximum tokens of a row.
            adapter: a GGUF adapter to apply.
            is_exact: whether attention and KV cache are float32 instead of float16.
            kv_bits: KV-cache bits, 8 or 4, instead.

        Raises:
            ConfigError: the wheel is not installed.
            ModelError: llama.cpp cannot load the file.
        """
        if xllamacpp is None:
            raise ConfigError(
                "the engine llama needs the package xllamacpp, which is not installed; "
                "install it with `pip install xllamacpp`"
            )
        self.num_slots, self.context = num_slots, context
        self._folder = TemporaryDirectory(prefix="smidgen-slots-")
        self._key = secrets.token_urlsafe(16)
        parameters = xllamacpp.CommonParams()
        parameters.model.path = str(file)
        parameters.n_parallel, parameters.n_ctx = num_slots, num_slots * context
        parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = num_threads()
        if device().kind == "cpu":
            parameters.n_gpu_layers = 0
        if kv_bits is not None:
            parameters.cache_type_k = parameters.cache_type_v = _kv_type(kv_bits)
            parameters.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_ENABLED
        elif is_exact:
            parameters.cache_type_k = parameters.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
            # Flash attention would compute in float16 whatever the dtype of the cache.
            parameters.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        if adapter is not None:
            parameters.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(str(adapter), 1.0)]
        # Otherwise the caches of replaced prompts would be copied to main memory, gigabytes of them.
        parameters.cache_ram_mib = 0
        parameters.slot_save_path = f"{self._folder.name}/"
        parameters.api_keys = [self._key]
        parameters.fit_params = parameters.ui = False
        parameters.verbosity = -1
        try:
            self._server = start_server(parameters)
        except RuntimeError:
            self._folder.cleanup()
            raise ModelError(
                f"llama.cpp cannot load {file}; it is damaged, of an architecture that this version "
                f"({xllamacpp.__version__}) does not support, or does not fit the adapter"
            ) from None

    def complete(self, question: dict[str, Any], on_part: Any = None) -> dict[str, Any]:
        """Request one completion and wait for it.

        Args:
            question: request body of `/v1/completions` of llama.cpp's server.
            on_part: called with each part of the answer, of which there are many with `stream`; if it returns
                True, the completion stops.

        Raises:
            Refused: llama.cpp refused the request.
        """
        if on_part is not None:
            self._server.handle_completions(question, on_part)
            return {}
        answer = self._server.handle_completions(question)
        if error := answer.get("error"):
            raise Refused(str(error.get("message", error)))
        return answer

    def share(self, prefix: Sequence[int], slots: Sequence[int]) -> bool:
        """Compute `prefix` once and copy its KV cache to some slots; no rows may be running.

        Returns:
            False if nothing was done, because computing it in every slot is cheaper.
        """
        if len(slots) < 2 or len(prefix) < SHARED_LEAST:
            return False
        self.complete({"prompt": list(prefix), "max_tokens": 0, "id_slot": slots[0], "temperature": 0})
        self._ask_slot(slots[0], "save")
        for slot in slots[1:]:
            self._ask_slot(slot, "restore")
        # Removed at once, so that no KV cache stays on disk if the process is killed later.
        Path(self._folder.name, _SHARED).unlink()
        return True

    def close(self) -> None:
        """Unload the model."""
        vars(self).pop("_server", None)
        self._folder.cleanup()

    def _ask_slot(self, slot: int, action: str) -> None:
        answer = httpx2.post(
            f"{self._server.listening_address}/slots/{slot}",
            params={"action": action},
            json={"filename": _SHARED},
            headers={"Authorization": f"Bearer {self._key}"},
            timeout=None,
            trust_env=False,
            verify=False,  # it is plain HTTP, and reading the authorities' certificates takes long
        )
        answer.raise_for_status()


def _kv_type(bits: int) -> Any:
    types = xllamacpp.ggml_type
    return {8: types.GGML_TYPE_Q8_0, 4: types.GGML_TYPE_Q4_0}[bits]
