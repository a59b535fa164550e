"""What tasks with labels share: how a label is compared, macro F1, confusions and the commonest label."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smidgen.tasks.task import Measure, Statistic

CONFUSIONS_SHOWN = 10


def normalise(label: str) -> str:
    """A label without what does not make it another one: case, spaces and underscores."""
    return " ".join(label.replace("_", " ").split()).casefold()


def macro_f1_of(
    true: Sequence[str], answered: Sequence[str | None], ids: Sequence[str], *, left_out: Sequence[str] = ()
) -> Statistic:
    """The macro F1 of answers as a metric.

    Args:
        true: the right label of each row.
        answered: the label that was answered; None, for what did not parse, is a miss of the right one.
        ids: of the rows.
        left_out: labels that the mean leaves out.
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
    """Mean of 2·TP / (support + predictions) over the wanted classes that occur.

    Args:
        true: class of each row, (N,).
        predicted: answered class of each row, (N,).
        weights: how often each row counts, (N,).
        classes: which classes are wanted, (C,).

    Returns:
        The macro F1, or NaN where no wanted class occurs.
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
    """The accuracy of always answering the commonest of these labels."""
    most = Counter(labels).most_common(1)[0][0] if labels else None
    return Measure([float(label == most) for label in labels], ids)


def confusions(wrong: Sequence[tuple[str, str | None]]) -> list[dict[str, Any]]:
    """The wrong answers that were given most often: `true`, `predicted` (None if unparsed) and `count`."""
    counted = Counter(wrong)
    worst = sorted(counted.items(), key=lambda item: (-item[1], item[0][0], item[0][1] or ""))
    return [
        {"true": true, "predicted": predicted, "count": count}
        for (true, predicted), count in worst[:CONFUSIONS_SHOWN]
    ]
