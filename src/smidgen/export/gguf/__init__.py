"""Write GGUF files for llama.cpp, Ollama and LM Studio without torch, and verify them in llama.cpp."""

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
