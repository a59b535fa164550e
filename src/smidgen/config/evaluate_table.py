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
    """Seed of sampling, of the bootstrap and of the draw of `baseline_examples`."""
    baseline_constrained: bool = True
    """Also evaluate the base model under the task's output constraint, so that its answers are readable."""
    baseline_examples: int = Field(default=4, ge=0, le=64)
    """Also evaluate the base model with this many worked examples in its prompts, from the training rows and
    as far as they fit its context; 0 turns it off."""
