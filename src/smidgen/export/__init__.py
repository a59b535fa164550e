"""Exports for other programs: adapters, fused models, GGUF files, and their model cards.

`smidgen.backend` is imported first because its BLAS has to be in place before MLX starts.
"""

from smidgen import backend as backend
