"""Artefacts that other programs load: adapters, fused models, and the card that goes with them.

`smidgen.backend` is imported first because its BLAS has to be in place before MLX starts.
"""

from smidgen import backend as backend
