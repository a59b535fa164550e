"""Training: batches, losses, the optimiser and the training loop.

`smidgen.backend` is imported first because it has to load its BLAS before MLX is imported.
"""

from smidgen import backend as backend
