"""The metrics of JudgeLM (https://arxiv.org/abs/2310.17631) under the keys of its result files.

Its accuracy, precision, recall and F1 cover the first order only, over three classes, and unparsed judgements
count as ties. Both conventions are kept for comparability with its published numbers.
"""

from collections.abc import Sequence

import numpy as np

from smidgen.tasks.judge.judgements import CLASSES, Judgement, both_orders, macro_scores


def judgelm_metrics(judgements: Sequence[Judgement]) -> dict[str, float | int] | None:
    """Compute the metrics under JudgeLM's keys, misspelled as there; None if no pair has both orders."""
    pairs = both_orders(judgements)
    if not pairs:
        return None
    sides = [tuple(judgement.verdict or "tie" for judgement in pair) for pair in pairs]
    truth = np.array([CLASSES[pair[0].better] for pair in pairs])
    predicted = np.array([CLASSES[first] for first, _ in sides])  # type: ignore[index]
    precision, recall, f1 = macro_scores(truth, predicted, np.ones(len(pairs)))
    # `ab` prefers its first answer with a, `ba` with b
    lean = [(ab == "a") - (ab == "b") + (ba == "b") - (ba == "a") for ab, ba in sides]
    number, before, after = len(pairs), sum(x > 0 for x in lean), sum(x < 0 for x in lean)
    return {
        "accuracy": float((truth == predicted).mean()),
        "precision": precision,
        "recall": recall,
        "f1": f1,
        "consistency": sum(ab == ba for ab, ba in sides) / number,
        "perfer_before_rate": before / number,
        "perfer_after_rate": after / number,
        "delta_bias": abs(before - after) / number,
        "total_bias": (before + after) / number,
        "total_num": number,
    }
