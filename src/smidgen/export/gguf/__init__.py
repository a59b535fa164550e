"""GGUF files for llama.cpp, Ollama and LM Studio, made without torch, and the proof that they are right."""

from smidgen.export.gguf.verify import verify_gguf, verify_gguf_adapter
from smidgen.export.gguf.verify_import import VerifiedImport, verify_import
from smidgen.export.gguf.write import write_gguf, write_gguf_adapter

__all__ = [
    "VerifiedImport",
    "verify_gguf",
    "verify_gguf_adapter",
    "verify_import",
    "write_gguf",
    "write_gguf_adapter",
]
