"""Weights and graphs: find, load, make, adapt, quantise and save models.

`smidgen.backend` is imported first because its BLAS has to be in place before MLX starts.
"""

from smidgen import backend as backend
