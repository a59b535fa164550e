"""Loss and batches to optimiser steps.

`smidgen.backend` is imported first because its BLAS has to be in place before MLX starts.
"""

from smidgen import backend as backend
