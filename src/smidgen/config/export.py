"""`[export]`: what others load."""

from typing import Literal

from smidgen.config.base import Section


class ExportConfig(Section):
    """What is made of the trained model for others to load; each is evaluated again, as what ships is."""

    formats: tuple[Literal["peft", "fused", "gguf"], ...] = ("peft", "fused", "gguf")
    """`peft` for PEFT and vLLM; `fused` for mlx-lm, transformers, vLLM; `gguf` for llama.cpp and Ollama."""
    gguf_dtype: Literal["F32", "F16", "BF16", "Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0"] = "Q8_0"
    """Type of the matrices in the GGUF file."""
