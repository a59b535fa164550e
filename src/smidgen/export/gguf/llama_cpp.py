"""llama.cpp, run in this process by the `xllamacpp` wheel, asked what a verification needs to know."""

import json
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from smidgen.backend import device
from smidgen.errors import ConfigError, ModelError

SMALL = 100 * 2**20
"""Bytes of a model below which llama.cpp gets one thread."""
_TIMEOUT = 600  # seconds for one question; a large model is slow on a CPU


class LlamaCpp:
    """A GGUF model that is loaded in llama.cpp, in float32 wherever the file's own types leave a choice.

    Args:
        path: the model.
        adapter: a GGUF adapter to put on it.
        context: longest prompt in tokens.

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
        # llama.cpp's threads wait for one another in a loop: a small model is slower with two than with one
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
            self._server = xllamacpp.Server(parameters)
        except Exception as error:  # the wheel raises bare RuntimeError
            raise ModelError(
                f"llama.cpp cannot load {path} ({error}); it is no file of a model that it knows"
            ) from None

    def tokenize(self, text: str, *, whole: bool = False) -> list[int]:
        """Token ids of a text; special tokens spelt in it are recognised.

        Args:
            text: what is split.
            whole: whether it is a whole prompt, before which the file may have llama.cpp put a token.
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
        """Log-probability (V,) float64 of every token after a prompt; -inf where llama.cpp gives none."""
        # The bias is on what is drawn, not on what is told: nothing is told of a token that ends a completion
        # or that is part of a character.
        forced = [[self.tokenize("a")[0], 1000.0]]
        answer = self._complete(token_ids, n_predict=1, n_probs=vocab_size, logit_bias=forced)
        found = np.full(vocab_size, -np.inf)
        for entry in answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]:
            found[entry["id"]] = entry["logprob"]
        return found

    def ends_at(self, token: int, token_ids: Sequence[int]) -> bool:
        """Whether a completion of a prompt ends when it comes to `token`."""
        answer = self._complete(token_ids, n_predict=2, logit_bias=[[token, 1000.0]], verbose=True)
        return answer["__verbose"]["stop_type"] == "eos"

    def _complete(self, token_ids: Sequence[int], **settings: Any) -> dict[str, Any]:
        return self._server.handle_completions(
            {"prompt": list(token_ids), "temperature": 0, "cache_prompt": False, **settings}
        )


def _wheel() -> Any:
    try:
        import xllamacpp
    except ImportError:
        raise ConfigError(
            "a GGUF file is verified in llama.cpp, and the package xllamacpp is not installed; "
            "install it with `pip install xllamacpp`, or verify nothing (--no-verify)"
        ) from None
    return xllamacpp
