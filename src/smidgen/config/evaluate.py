"""`[evaluate]`: how the specialist is proven."""

from pydantic import Field

from smidgen.config.base import Section


class EvaluateConfig(Section):
    """How the specialist is proven."""

    max_tokens: int = Field(default=256, gt=0)
    """Longest answer in tokens."""
    batch_size: int = Field(default=64, gt=0)
    """Rows decoded together."""
    temperature: float = Field(default=0.0, ge=0.0)
    """0 is greedy."""
    seed: int = Field(default=0, ge=0)
    """Seed of sampling and of the bootstrap."""
