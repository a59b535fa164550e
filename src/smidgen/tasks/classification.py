"""Shared by tasks with labels: label comparison, macro F1, confusions and the majority baseline."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smidgen.tasks.measures import Measure, Statistic

CONFUSIONS_SHOWN = 10


def normalise(label: str) -> str:
    """Normalise a label: case, spacing and underscores do not matter."""
    return " ".join(label.replace("_", " ").split()).casefold()


def macro_f1_of(
    true: Sequence[str], answered: Sequence[str | None], ids: Sequence[str], *, left_out: Sequence[str] = ()
) -> Statistic:
    """Return the macro F1 of predicted labels as a metric.

    Args:
        true: the right label of each row.
        answered: the predicted label of each row; None (unparsed) counts as a miss of the right one.
        ids: ids of the rows.
        left_out: labels that the mean excludes.
    """
    true, said = [normalise(label) for label in true], [normalise(label or "") for label in answered]
    codes = {label: code for code, label in enumerate(sorted({*true, *said}))}
    true_codes = np.array([codes[label] for label in true], dtype=np.int64)
    said_codes = np.array([codes[label] for label in said], dtype=np.int64)
    wanted = np.array([label not in left_out for label in codes], dtype=bool)
    return Statistic(lambda weights: macro_f1(true_codes, said_codes, weights, wanted), ids)


def macro_f1(
    true: NDArray[np.int64],
    predicted: NDArray[np.int64],
    weights: NDArray[np.float64],
    classes: NDArray[np.bool_],
) -> float:
    """Mean of 2·TP / (support + predictions) over the included classes that occur.

    Args:
        true: class of each row, (N,).
        predicted: predicted class of each row, (N,).
        weights: weight of each row, (N,).
        classes: mask of the included classes, (C,).

    Returns:
        The macro F1, or NaN if no included class occurs.
    """
    count = len(classes)
    support = np.bincount(true, weights, count)
    predictions = np.bincount(predicted, weights, count)
    hits = np.bincount(true, weights * (true == predicted), count)
    occurring = classes & (support > 0)
    if not occurring.any():
        return float("nan")
    return float(np.mean(2 * hits[occurring] / (support + predictions)[occurring]))


def most_frequent(labels: Sequence[str], ids: Sequence[str]) -> Measure:
    """Return the accuracy of always predicting the most frequent of these labels."""
    most = Counter(labels).most_common(1)[0][0] if labels else None
    return Measure([float(label == most) for label in labels], ids)


def confusions(wrong: Sequence[tuple[str, str | None]]) -> list[dict[str, Any]]:
    """Return the most frequent errors: `true`, `predicted` (None if unparsed) and `count`."""
    counted = Counter(wrong)
    worst = sorted(counted.items(), key=lambda item: (-item[1], item[0][0], item[0][1] or ""))
    return [
        {"true": true, "predicted": predicted, "count": count}
        for (true, predicted), count in worst[:CONFUSIONS_SHOWN]
    ]
