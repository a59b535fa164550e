"""Float32 training and prefill on the CPU, several times faster than MLX's own ops there.

MLX's elementwise ops, softmax, normalisation and layout changes are single-threaded scalar loops on Linux.
Here a whole pre-norm block (Qwen3, Qwen2, Llama, MobileLLM-R1) is one `mx.custom_function` with a
hand-written gradient, and so is the head with its cross-entropy. Their work is split into pieces that fit a
core's cache; a few threads process them in turn, each with numpy's vectorised loops and a single-threaded
OpenBLAS. Which thread processes a piece never changes a sum, so results do not depend on timing.

Unsupported cases (other dtypes, explicit masks, a cache, quantised layers) use the MLX ops of the replaced
modules, with the same result. The kernels evaluate their arguments, so `mx.compile` cannot trace them.
"""

from smidgen.cpu_kernels.adamw import AdamWStep, Group, adamw, global_norm
from smidgen.cpu_kernels.distillation import (
    DistillationLoss,
    Mixing,
    TeacherStates,
    TopTargets,
    top_targets,
)
from smidgen.cpu_kernels.head import linear_cross_entropy, linear_losses
from smidgen.cpu_kernels.modules import FusedBlock, accelerate, fuses, recomputed
from smidgen.cpu_kernels.packing import Packing
from smidgen.cpu_kernels.team import usable

__all__ = [
    "AdamWStep",
    "DistillationLoss",
    "FusedBlock",
    "Group",
    "Mixing",
    "Packing",
    "TeacherStates",
    "TopTargets",
    "accelerate",
    "adamw",
    "fuses",
    "global_norm",
    "linear_cross_entropy",
    "linear_losses",
    "recomputed",
    "top_targets",
    "usable",
]
