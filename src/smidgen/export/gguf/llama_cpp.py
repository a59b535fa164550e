"""llama.cpp in this process, through the `xllamacpp` wheel, for verification."""

import json
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from smidgen.backend import device
from smidgen.errors import ConfigError, ModelError

SMALL = 100 * 2**20
"""Models with fewer bytes run in one thread."""
_TIMEOUT = 600  # seconds per request; a large model is slow on a CPU


class LlamaCpp:
    """A GGUF model loaded in llama.cpp, which computes in float32 where the file's types allow it.

    Args:
        path: the model file.
        adapter: a GGUF adapter to apply to it.
        context: context length in tokens.

    Raises:
        ConfigError: the wheel is not installed.
        ModelError: llama.cpp cannot load the file.
    """

    def __init__(self, path: Path, *, adapter: Path | None = None, context: int = 1024):
        xllamacpp = _wheel()
        parameters = xllamacpp.CommonParams()
        parameters.model.path = str(path)
        parameters.n_ctx, parameters.n_parallel = context, 1
        parameters.n_gpu_layers = 0
        # llama.cpp's threads busy-wait for one another: a small model is slower with two threads than with
        # one
        threads = 1 if path.stat().st_size < SMALL else device().cores
        parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = threads
        parameters.cpuparams.poll = parameters.cpuparams_batch.poll = 0
        parameters.cache_type_k = parameters.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        parameters.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        parameters.warmup = parameters.fit_params = parameters.ui = False
        parameters.verbosity = -1
        if adapter is not None:
            parameters.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(str(adapter), 1.0)]
        try:
            self._server = start_server(parameters)
        except Exception as error:  # the wheel raises a plain RuntimeError
            raise ModelError(
                f"llama.cpp cannot load {path} ({error}); expected a GGUF file of a supported model"
            ) from None

    def tokenize(self, text: str, *, whole: bool = False) -> list[int]:
        """Return the token ids of a text; special tokens spelled in it are recognised.

        Args:
            text: the text.
            whole: whether it is a complete prompt, to which llama.cpp may prepend a token as the file says.
        """
        question = {"content": text, "add_special": whole, "parse_special": True}
        request = urllib.request.Request(
            f"{self._server.listening_address}/tokenize",
            json.dumps(question).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=_TIMEOUT) as answer:
            return json.load(answer)["tokens"]

    def logprobs(self, token_ids: Sequence[int], vocab_size: int) -> np.ndarray:
        """Return log-probabilities (V,), float64, of the token after a prompt; -inf for omitted tokens."""
        # llama.cpp reports no log-probabilities if the sampled token ends the completion or is part of a
        # character. The bias forces a harmless token; it affects sampling but not the reported values.
        forced = [[self.tokenize("a")[0], 1000.0]]
        answer = self._complete(token_ids, n_predict=1, n_probs=vocab_size, logit_bias=forced)
        found = np.full(vocab_size, -np.inf)
        for entry in answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]:
            found[entry["id"]] = entry["logprob"]
        return found

    def ends_at(self, token: int, token_ids: Sequence[int]) -> bool:
        """Whether a completion of a prompt ends at `token`."""
        answer = self._complete(token_ids, n_predict=2, logit_bias=[[token, 1000.0]], verbose=True)
        return answer["__verbose"]["stop_type"] == "eos"

    def _complete(self, token_ids: Sequence[int], **settings: Any) -> dict[str, Any]:
        return self._server.handle_completions(
            {"prompt": list(token_ids), "temperature": 0, "cache_prompt": False, **settings}
        )


def start_server(parameters: Any) -> Any:
    """Return a running `xllamacpp.Server`.

    Its constructor returns before the thread of its task queue runs, and destroying it before that waits
    forever: the queue would be told to stop first and started afterwards. A task that the queue has answered
    shows that it runs.

    Raises:
        RuntimeError: llama.cpp cannot load the model.
    """
    parameters.endpoint_metrics = True
    server = _wheel().Server(parameters)
    server.handle_metrics()
    return server


def _wheel() -> Any:
    try:
        import xllamacpp
    except ImportError:
        raise ConfigError(
            "GGUF files are verified in llama.cpp, but the package xllamacpp is not installed; "
            "install it with `pip install xllamacpp`, or skip verification (--no-verify)"
        ) from None
    return xllamacpp
