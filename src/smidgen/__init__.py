"""smidgen: small language models, made into specialists you can trust."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from smidgen.judge import Judge
    from smidgen.options import EngineOptions, JudgeOptions, SamplingOptions

__version__ = "0.1.0"
__all__ = ["EngineOptions", "Judge", "JudgeOptions", "SamplingOptions", "__version__"]

_DOORS = {
    "EngineOptions": "smidgen.options",
    "Judge": "smidgen.judge",
    "JudgeOptions": "smidgen.options",
    "SamplingOptions": "smidgen.options",
}
"""What a program may import from here; loaded when it is first used, since a model's libraries are heavy."""


def __getattr__(name: str) -> Any:
    if name not in _DOORS:
        raise AttributeError(f"module 'smidgen' has no attribute '{name}'")
    return getattr(import_module(_DOORS[name]), name)
