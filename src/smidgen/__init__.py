"""smidgen: small language models, made into specialists you can trust."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from smidgen.judge import Judge

__version__ = "0.1.0"
__all__ = ["Judge", "__version__"]

_DOORS = {"Judge": "smidgen.judge"}
"""What a program may import from here; loaded when it is first used, since a model's libraries are heavy."""


def __getattr__(name: str) -> Any:
    if name not in _DOORS:
        raise AttributeError(f"module 'smidgen' has no attribute '{name}'")
    return getattr(import_module(_DOORS[name]), name)
