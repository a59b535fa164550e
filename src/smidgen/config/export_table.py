"""`[export]`: formats in which the trained model is exported."""

from typing import Literal

from smidgen.config.base import Section


class ExportConfig(Section):
    """Formats in which the trained model is exported; every export is re-evaluated in its target runtime."""

    formats: tuple[Literal["peft", "fused", "gguf"], ...] = ("peft", "fused", "gguf")
    """`peft` for PEFT and vLLM; `fused` for mlx-lm, transformers, vLLM; `gguf` for llama.cpp and Ollama."""
    gguf_dtype: Literal["F32", "F16", "BF16", "Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0"] = "Q8_0"
    """Tensor type of the matrices in the GGUF file."""
