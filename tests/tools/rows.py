"""Training rows as pretraining cuts them: several texts in one row."""

from collections.abc import Sequence

import numpy as np

from smidgen.training.batches import TrainRow


def join_rows(rows: Sequence[TrainRow]) -> TrainRow:
    """Lay texts one after the other in one row, each with its own attention and positions."""
    masks = [np.concatenate([[False], row.loss_mask[1:]]) for row in rows]
    return TrainRow(
        np.concatenate([row.token_ids for row in rows]),
        np.concatenate(masks),
        segment_ids=np.repeat(np.arange(len(rows), dtype=np.int32), [len(row) for row in rows]),
    )
