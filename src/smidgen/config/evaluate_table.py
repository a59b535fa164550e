"""`[evaluate]`: settings of the evaluations."""

from typing import Literal, Self

from pydantic import Field, model_validator

from smidgen.config.base import Section


class EvaluateConfig(Section):
    """Settings of the evaluations."""

    max_tokens: int = Field(default=256, gt=0)
    """Maximum number of tokens per completion."""
    batch_size: int = Field(default=64, gt=0)
    """Number of rows decoded together."""
    decode: Literal["ar", "jacobi", "lookup", "draft"] = "ar"
    """Tokens per pass of the model: one (`ar`), or several that are drafted and verified, with the same
    answers: `jacobi` (its own choices after a wrong guess), `lookup` (the prompt and the answer so far) or
    `draft` (`draft_model`). Exported GGUF files run in llama.cpp and keep to one."""
    draft_model: str | None = None
    """Smaller model with the same tokenizer that drafts for `decode = "draft"`; `MODEL[:N]` is the first N
    blocks of a model."""
    temperature: float = Field(default=0.0, ge=0.0)
    """Sampling temperature; 0 decodes greedily."""
    seed: int = Field(default=0, ge=0)
    """Seed of sampling, of the bootstrap and of the draw of `baseline_examples`."""
    baseline_constrained: bool = True
    """Also evaluate the base model under the task's output constraint, so that its answers are readable."""
    baseline_examples: int = Field(default=4, ge=0, le=64)
    """Also evaluate the base model with this many worked examples in its prompts, from the training rows and
    as far as they fit its context; 0 turns it off."""
    attacked: int = Field(default=0, ge=0)
    """Also ask the trained judge about this many test pairs with the worse answer manipulated, once in every
    family of docs/attacks.md, and with a benign edit of the same length as control: 42 more judgements for
    each pair. 0 turns it off."""

    @model_validator(mode="after")
    def _check_draft_model(self) -> Self:
        if (self.decode == "draft") != (self.draft_model is not None):
            raise ValueError('expected draft_model and decode = "draft" together, or neither')
        return self
