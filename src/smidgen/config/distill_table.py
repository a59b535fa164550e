"""`[train]` with `method = "distill"`, and `[teacher]`: fine-tuning on the answers of another model."""

from typing import Literal, Self

from pydantic import Field, model_validator

from smidgen.config.base import Section
from smidgen.config.sft_table import SftConfig


class DistillConfig(SftConfig):
    """Supervised fine-tuning on the answers of the model in `[teacher]` that were kept."""

    method: Literal["distill"] = "distill"  # type: ignore[assignment]
    """Distillation of answers."""


class AskedModelConfig(Section):
    """A model that is asked, and the engine that runs it."""

    model: str
    """A folder, a hub id, a `.gguf` file, `smidgen:nano`, `smidgen:smollm2`, the URL of an OpenAI-compatible
    server (`http://localhost:8000/v1`), or a `.jsonl` file of recorded answers."""
    adapter: str | None = None
    """Folder of a LoRA adapter to apply to it."""
    engine: Literal["auto", "mlx", "llama", "http", "replay"] = "auto"
    """Engine that runs it; `auto` chooses by the model."""
    model_name: str | None = None
    """Its name on a server that has several models; also the name of its price in the file of `--prices`."""
    api_key_env: str | None = None
    """Environment variable that contains the server's API key; default: `OPENAI_API_KEY`."""
    timeout: float | None = Field(default=None, gt=0)
    """Seconds to wait for an answer of a server before it is asked again; default: 600."""
    batch_size: int = Field(default=64, gt=0)
    """Rows decoded together, or concurrent requests to a server."""
    max_tokens: int = Field(default=256, gt=0)
    """Maximum number of tokens per answer; an answer that is cut off here is not kept."""

    @property
    def name(self) -> str:
        """The model and its adapter, or its name on a server, for reports and messages."""
        named = f"{self.model_name} at {self.model}" if self.model_name else self.model
        return f"{named} + {self.adapter}" if self.adapter else named


class AnswerJudgeConfig(AskedModelConfig):
    """The judge of a teacher's answers: a model that grades each from 1 to 5."""

    threshold: float = Field(default=4.0, ge=1.0, le=5.0)
    """Lowest grade of a kept answer."""
    rubric: str | None = None
    """A question and the meaning of each grade; default: a general one."""
    reference: bool = False
    """Show the judge the answer of the row too."""


class AskedTeacherConfig(AskedModelConfig):
    """The teacher, how often it is asked, and which of its answers are kept; for `method = "distill"`."""

    system: str | None = None
    """System message for the teacher in place of that of the task; the student is trained without it."""
    constrained: bool = False
    """Hold the teacher's answers to the task's output constraint."""
    candidates: int = Field(default=4, gt=0, le=1024)
    """Answers per training sample."""
    temperature: float = Field(default=0.7, ge=0.0)
    """Sampling temperature; 0 decodes greedily, for one candidate."""
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    """Sample from the most probable tokens up to this total probability."""
    seed: int = Field(default=0, ge=0)
    """Seed of the sampling; each candidate of each sample has its own."""
    keep: Literal["gold", "judge"] = "gold"
    """Keep answers that the task scores as right by the label of the row, or that a judge grades well."""
    judge: AnswerJudgeConfig | None = None
    """The judge, for `keep = "judge"`."""
    at_most: int = Field(default=1, gt=0)
    """Maximum number of kept answers per sample."""
    whole_groups: bool = False
    """Keep answers only where all prompts that belong together have one, such as both orders of a pair."""
    prefer: Literal["first", "shortest"] = "first"
    """Of more acceptable answers, keep those asked for first, or those with the fewest characters."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.candidates > 1 and self.temperature == 0 and not self.model.endswith(".jsonl"):
            raise ValueError(
                f"{self.candidates} candidates at temperature 0 would all be equal; set a temperature, "
                "such as 0.7, or candidates = 1"
            )
        if (self.keep == "judge") != (self.judge is not None):
            given = 'keep is "judge" without a table [teacher.judge]; name the judge there'
            unread = '[teacher.judge] is given, but keep is "gold"; set keep = "judge" or remove the table'
            raise ValueError(unread if self.judge else given)
        if self.at_most > self.candidates:
            raise ValueError(
                f"at_most is {self.at_most}, more than the {self.candidates} candidates per sample; lower it"
            )
        return self
