"""What batches of answers have in common, whatever belongs to each answer besides."""

import numpy as np

from smidgen.training.batches import TrainBatch


class AnswersBatch:
    """The part of a batch of answers that the loop and a plan read; what else belongs to them is beside.

    Attributes:
        answers: the rows that go through the model.
    """

    answers: TrainBatch

    @property
    def trained_tokens(self) -> int:
        """Number of tokens in the loss."""
        return self.answers.trained_tokens

    @property
    def tokens(self) -> int:
        """Number of unpadded tokens that go through the model."""
        return self.answers.tokens

    @property
    def inputs(self) -> np.ndarray:
        """(B, L) int32, right-padded."""
        return self.answers.inputs
