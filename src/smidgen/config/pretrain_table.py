"""`[train]` with `method = "pretrain"`: pretraining on a stream of text."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from smidgen.config.base import Section
from smidgen.config.teacher_table import TeacherConfig
from smidgen.config.train_table import TrainConfig

Weights = dict[str, Annotated[float, Field(ge=0.0)]]


class PhaseConfig(Section):
    """A part of pretraining with a mix of its own."""

    tokens: int = Field(gt=0)
    """Number of training tokens."""
    weights: Weights = Field(default_factory=dict)
    """Weight of each source by its name, such as `{ web = 0.7, code = 0.3 }`; a source that is not named is
    not drawn. Default: the sources' own weights."""


class PretrainConfig(TrainConfig):
    """Train on every token of a stream of documents, from random weights or from a base model."""

    method: Literal["pretrain"]
    """Pretraining."""
    total_tokens: int | None = Field(default=None, gt=0)
    """Number of training tokens; with phases, their sum."""
    phases: tuple[PhaseConfig, ...] = ()
    """Parts with different mixes, one after the other; default: one part with the sources' own weights."""
    attend_across_documents: bool = False
    """Let the tokens of a row attend to earlier documents in it. By default, each document has its own
    attention and positions, and its first token is not trained."""

    teacher: TeacherConfig | None = None
    """Learn the probabilities of a teacher with the same tokenizer, too; only the text when absent."""

    @property
    def tokens(self) -> int:
        """Number of training tokens."""
        return self.total_tokens or sum(phase.tokens for phase in self.phases)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.total_tokens is None and not self.phases:
            raise ValueError("there is neither 'total_tokens' nor [[train.phases]]; give one of them")
        step = self.batch_size * self.gradient_accumulation * self.max_length
        for number, phase in enumerate(self.phases, start=1):
            if phase.tokens < step:
                raise ValueError(
                    f"phase {number} has {phase.tokens:,} tokens, but one step takes {step:,} (batch_size "
                    "x gradient_accumulation x max_length); give it more, or make the steps smaller"
                )
        steps = -(-self.tokens // step)
        if self.warmup_steps is not None and self.warmup_steps >= steps:
            raise ValueError(
                f"train.warmup_steps is {self.warmup_steps}, but the training has {steps:,} steps; lower it, "
                "or train longer"
            )
        of_phases = sum(phase.tokens for phase in self.phases)
        if self.phases and self.total_tokens not in (None, of_phases):
            raise ValueError(
                f"'total_tokens' is {self.total_tokens:,}, but the phases have {of_phases:,} tokens "
                "together; leave total_tokens out, or make them agree"
            )
        return self
