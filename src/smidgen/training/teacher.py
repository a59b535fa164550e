"""A frozen model whose probabilities are learnt, with its most probable tokens kept on disk if wanted."""

from collections.abc import Sequence

import numpy as np

from smidgen.backend import mx, nn
from smidgen.config import TeacherConfig, TopTeacherConfig
from smidgen.cpu_kernels import Mixing, TeacherStates, TopTargets
from smidgen.models.graph import head_weight
from smidgen.training.batches import TrainBatch, TrainRow
from smidgen.training.losses import num_states, top_targets, trained_states
from smidgen.training.row_cache import PendingCache, RowCache, row_key, weights_checksum


class Teacher:
    """A model in evaluation mode that tells its distribution of every trained token.

    Args:
        model: the model.
        config: the table `[train.teacher]`.
        words: number of tokens of the tokenizer; embeddings may be padded to more.

    Attributes:
        mixing: how its distribution is learnt.
        top_k: number of most probable tokens that are told; None for all.
    """

    def __init__(self, model: nn.Module, config: TeacherConfig, *, words: int) -> None:
        model.eval()
        model.freeze()
        self.model, self._words = model, words
        self.mixing = Mixing(config.temperature, config.direction == "reverse", config.hard_weight)
        top_k = config.top_k if isinstance(config, TopTeacherConfig) else None
        self.top_k = None if top_k is None else min(top_k, words)
        self._cache: RowCache | None = None

    def targets(self, batch: TrainBatch) -> TeacherStates | TopTargets:
        """Return the distributions at the positions of `trained_states`."""
        if self.top_k is None:
            return self._states(batch)
        if self._cache is None or not batch.rows:
            return self._top(batch, self.top_k)
        return self._stored(batch, self.top_k, self._cache)

    def pending(self, rows: Sequence[TrainRow]) -> PendingCache:
        """Return a cache of the most probable tokens for some rows."""
        assert self.top_k is not None
        mixing = self.mixing
        return PendingCache(
            "teacher",
            "the teacher's most probable tokens",
            "lower train.teacher.top_k or train.teacher.top_k_gb",
            {row_key(row, trained=True): row.trained_tokens for row in rows},
            _item(self.top_k),
            lambda: f"{weights_checksum([self.model])} {mixing.temperature}",
            self._keep,
        )

    def _keep(self, cache: RowCache) -> None:
        self._cache = cache

    def _states(self, batch: TrainBatch) -> TeacherStates:
        hidden = mx.stop_gradient(trained_states(self.model, batch).hidden)
        return TeacherStates(hidden, head_weight(self.model)[: self._words])

    def _top(self, batch: TrainBatch, count: int) -> TopTargets:
        return top_targets(self._states(batch), count, self.mixing.temperature)

    def _stored(self, batch: TrainBatch, count: int, cache: RowCache) -> TopTargets:
        """Return what is stored; if any row is missing, run the batch and store it."""
        found, places, start = np.empty(batch.trained_tokens, cache.dtype), [], 0
        for row in batch.rows:  # trained positions are in the order of the rows
            places.append((row_key(row, trained=True), slice(start, start + row.trained_tokens)))
            start += row.trained_tokens

        def compute() -> np.ndarray:
            computed = np.empty(batch.trained_tokens, cache.dtype)
            for name, values in self._top(batch, count)._asdict().items():
                computed[name] = values[: batch.trained_tokens]
            return computed

        cache.fill(found, places, compute)
        found = np.pad(found, (0, num_states(batch) - len(found)), mode="edge")
        return TopTargets(*(np.ascontiguousarray(found[name]) for name in TopTargets._fields))


def _item(count: int) -> np.dtype:
    """Return the dtype of what is stored of one token."""
    return np.dtype([("ids", np.int32, (count,)), ("logprobs", np.float32, (count,)), ("rest", np.float32)])
