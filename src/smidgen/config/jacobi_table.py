"""`[train]` with `method = "jacobi"`: learning to guess whole blocks of the model's own answers."""

from typing import Literal, Self

from pydantic import Field, model_validator

from smidgen.config.train_table import FinetuneConfig


class JacobiConfig(FinetuneConfig):
    """Jacobi forcing (https://arxiv.org/abs/2512.14681): several tokens a pass with `--decode jacobi`.

    The base answers the prompts of the rows; the trained model should say the same from any state of the
    guesses on the way there. Targets of the rows are not used.
    """

    method: Literal["jacobi"]
    """Training on Jacobi trajectories."""
    epochs: float = Field(default=1.0, gt=0)
    """Number of passes over the trajectories."""
    batch_size: int = Field(default=4, gt=0)
    """Trajectories per forward pass."""
    learning_rate: float = Field(default=1e-5, gt=0)
    """Peak learning rate of AdamW."""
    block_size: int = Field(default=16, gt=1, le=256)
    """Tokens that are guessed together."""
    max_tokens: int = Field(default=256, gt=0)
    """Maximum number of tokens of an answer; it also ends where the prompt and it have `max_length`."""
    collect_batch_size: int = Field(default=64, gt=0)
    """Answers collected together."""
    max_trajectory_count: int | None = Field(default=None, gt=0)
    """Leave out answers of more than this many blocks."""
    noise_window: int = Field(default=16, gt=0)
    """w: the wrong share of successive blocks is 0, 1/w, ... (w - 1)/w, again and again."""
    num_guesses: int = Field(default=1, gt=0, le=16)
    """Wrong shares of each block that are trained in one pass. The prompt and the answer run once for all of
    them, so with long prompts and short answers several cost little more."""
    context: Literal["clean", "noisy", "window"] = "clean"
    """What a block of guesses follows: the right tokens (`clean`), the guesses before it (`noisy`), or those
    of its noise window after the right ones (`window`)."""
    trunk_cache: Literal["off", "float16", "float32"] = "off"
    """Off: the states below an adapter in the last blocks differ from epoch to epoch."""
    ar_weight: float = Field(default=10.0, ge=0.0)
    """Factor on the loss of the answer itself; the loss of the guesses has 1."""
    temperature: float = Field(default=1.0, gt=0)
    """Divides the logits that the loss of the guesses compares."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if unread := sorted({"trunk_cache", "trunk_cache_gb"} & self.changed()):
            raise ValueError(
                f"'{unread[0]}' is for rows that are the same in every epoch, and guesses are not; leave "
                "it out"
            )
        return self
