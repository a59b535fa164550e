"""smidgen: turn small language models into specialists you can trust."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from smidgen.judge import Judge
    from smidgen.options import EngineOptions, JudgeOptions, SamplingOptions
    from smidgen.router import Router

__version__ = "0.1.0"
__all__ = ["EngineOptions", "Judge", "JudgeOptions", "Router", "SamplingOptions", "__version__"]

_EXPORTS = {
    "EngineOptions": "smidgen.options",
    "Judge": "smidgen.judge",
    "JudgeOptions": "smidgen.options",
    "Router": "smidgen.router",
    "SamplingOptions": "smidgen.options",
}
"""The public names and their modules; imported on first use, because the libraries of a model are heavy."""


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'smidgen' has no attribute '{name}'")
    return getattr(import_module(_EXPORTS[name]), name)
