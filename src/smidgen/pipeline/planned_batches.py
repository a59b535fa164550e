"""The batches of a training, as far as they are known before it."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from smidgen.config import GrpoConfig
from smidgen.models.budget import Batch
from smidgen.training.batches import LENGTH_STEP
from smidgen.training.shared_prefix import LONGEST_ROW
from smidgen.training.training_plan import TrainingPlan


@dataclass(frozen=True)
class Batches:
    """The batches of a training, as far as they are known before it.

    Attributes:
        largest: the batch that takes the most memory.
        plan: exact figures of all steps; None for a document stream or rows that cannot be read.
        tokens: tokens of all steps; None if unknown.
        trained_tokens: those in the loss.
        state_tokens: tokens of the different rows, whose states a cache would hold.
        stored_tokens: those of them in the loss, whose targets a cache would hold.
        validation_tokens: tokens of one validation.
        unread: why the rows cannot be read; empty if they can.
    """

    largest: Batch
    plan: TrainingPlan | None = None
    tokens: int | None = None
    trained_tokens: int | None = None
    state_tokens: int = 0
    stored_tokens: int = 0
    validation_tokens: int = 0
    unread: str = ""


def answer_batches(
    settings: GrpoConfig, prompts: Sequence[int] = (), unread: str = "", *, sharing: int = 1
) -> Batches:
    """Return the batches of a model's own answers, all of them as long as they may be.

    Args:
        settings: the training.
        prompts: the tokens of each prompt.
        unread: why the prompts cannot be read.
        sharing: the answers to one prompt that share its tokens in a pass; 1 if they do not.
    """
    answers, answer = settings.batch_size, settings.max_completion_length
    most = settings.max_length - answer
    used = [length for length in prompts if length <= most] or [most]
    together = max(1, min(sharing, answers, (LONGEST_ROW - max(used) + 1) // answer))
    length = LENGTH_STEP * -(-(max(used) + together * answer) // LENGTH_STEP)
    sampled = settings.steps * answers * settings.gradient_accumulation
    return Batches(
        Batch(-(-answers // together), length, answers * answer, masked=sharing > 1),
        tokens=round(sampled * (fmean(used) / together + answer)),
        trained_tokens=sampled * answer,
        unread=unread,
    )
