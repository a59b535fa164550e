"""`[train.teacher]`: a larger model of the same vocabulary, whose probabilities are learnt."""

from typing import Literal

from pydantic import Field

from smidgen.config.base import Rate, Section


class TeacherConfig(Section):
    """Logit distillation (https://arxiv.org/abs/1503.02531): learn every probability that a teacher gives."""

    model: str
    """The teacher, named like `model.base`; its tokens must be those of the trained model."""
    adapter: str | None = None
    """Folder of a LoRA adapter of the teacher."""
    temperature: float = Field(default=1.0, gt=0)
    """Divides the logits of both models; above 1, improbable tokens count more."""
    direction: Literal["forward", "reverse"] = "forward"
    """`forward` covers all that the teacher finds probable, `reverse` avoids what it finds improbable."""
    hard_weight: Rate = 0.5
    """Share of the loss on the text itself; the rest is on the teacher's probabilities."""


class TopTeacherConfig(TeacherConfig):
    """Logit distillation (https://arxiv.org/abs/1503.02531): learn every probability that a teacher gives.

    Rows that are read in several epochs can keep the most probable tokens (not for pretraining).
    """

    top_k: int | None = Field(default=None, gt=0)
    """Learn the k most probable tokens, kept on disk with the probability left out; default: all."""
    top_k_gb: float = Field(default=8.0, gt=0)
    """Maximum size of these on disk in 10⁹ bytes; if they need more, the teacher runs in every epoch."""
