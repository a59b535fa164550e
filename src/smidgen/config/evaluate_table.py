"""`[evaluate]`: settings of the evaluations."""

from pydantic import Field

from smidgen.config.base import Section


class EvaluateConfig(Section):
    """Settings of the evaluations."""

    max_tokens: int = Field(default=256, gt=0)
    """Maximum number of tokens per completion."""
    batch_size: int = Field(default=64, gt=0)
    """Number of rows decoded together."""
    temperature: float = Field(default=0.0, ge=0.0)
    """Sampling temperature; 0 decodes greedily."""
    seed: int = Field(default=0, ge=0)
    """Seed of sampling and of the bootstrap."""
