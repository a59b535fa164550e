"""GGUF files for llama.cpp, Ollama and LM Studio, without torch, and the proof that they are what they should be."""

from smidgen.export.gguf.write import write_gguf, write_gguf_adapter

__all__ = ["write_gguf", "write_gguf_adapter"]
