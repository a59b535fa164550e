"""Texts about a judge for reports and model cards."""

from collections.abc import Mapping
from typing import Any

from smidgen.figures.formatting import PERCENT, count, dig, finite, percent, table_at
from smidgen.tasks.task import Usage
from smidgen.tasks.words import ClaimWords, MetricWords, TaskWords

WORDS = TaskWords(
    claim=ClaimWords("judge", "picks the better answer in", "judgements", "pairs", "judgement"),
    metrics={
        "accuracy": MetricWords("Accuracy", "judgements that pick the better answer", "↑"),
        "accuracy_both_orders": MetricWords("Right in both orders", "right whichever answer is first", "↑"),
        "consistency": MetricWords("Swap consistency", "same verdict after swapping the answers", "↑"),
        "prefer_first_rate": MetricWords("Prefers the first", "unbiased judge: 50" + PERCENT),
        "prefer_second_rate": MetricWords("Prefers the second", "unbiased judge: 50" + PERCENT),
        "delta_bias": MetricWords("Position bias, net", "excess of pairs that favour one position", "↓"),
        "total_bias": MetricWords("Position bias, total", "pairs that favour either position", "↓"),
        "tie_rate": MetricWords("Ties", "neither answer chosen"),
        "unparsed_rate": MetricWords("Unreadable", "did not parse; counted as wrong", "↓"),
        "unparsed_rate_lenient": MetricWords("Unreadable, lenient", "no verdict in any format", "↓"),
        "accuracy_lenient": MetricWords("Accuracy, lenient", "parser that tolerates format errors", "↑"),
        "accuracy_longer_better": MetricWords(
            "Accuracy, longer is better", "the better answer is the longer one", "↑"
        ),
        "accuracy_shorter_better": MetricWords(
            "Accuracy, shorter is better", "the better answer is the shorter one", "↑"
        ),
        "length_correlation": MetricWords(
            "Score–length correlation", "score gap with length gap; unbiased judge: near 0"
        ),
        "macro_precision": MetricWords("Macro precision", "classes a, b and tie weighted equally", "↑"),
        "macro_recall": MetricWords("Macro recall", "classes a, b and tie weighted equally", "↑"),
        "macro_f1": MetricWords("Macro F1", "classes a, b and tie weighted equally", "↑"),
        "kappa": MetricWords("Cohen's κ", "agreement with the label beyond chance", "↑"),
        "accuracy_decided": MetricWords(
            "Accuracy, where decided", "of the verdicts that choose an answer", "↑"
        ),
        "aurc": MetricWords("AURC", "wrong on average, over shares of the most confident pairs", "↓"),
        "pair_accuracy": MetricWords("Accuracy over pairs", "one verdict per pair, from all judgements", "↑"),
        "coverage": MetricWords("Answered", "pairs that the judge is confident of", "↑"),
        "risk": MetricWords("Wrong, where answered", "verdicts on these pairs that are wrong", "↓"),
    },
    baselines={
        "longer": "always the longer answer",
        "longer_without_ties": "always the longer answer, without ties",
        "first": "always the first answer",
        "random": "random guessing",
    },
    limits="The results hold for pairs like those of the evaluation, not for other questions.",
    chance=0.5,
    compared_with_chance=frozenset(
        {"accuracy", "prefer_first_rate", "prefer_second_rate", "accuracy_decided"}
    ),
    plain=("length_correlation", "kappa"),
    details=frozenset(
        {
            "prefer_second_rate", "delta_bias", "total_bias", "unparsed_rate_lenient", "accuracy_lenient",
            "accuracy_longer_better", "accuracy_shorter_better", "length_correlation",
        }
    ),
    pairing="The two orders of a pair count together.",
)  # fmt: skip

USAGE = Usage(
    "judge",
    ("--prompt", "What is 23 + 48?", "--a", "71", "--b", "61"),
    "A judge expects a question and two answers in the prompt format of its training, which smidgen renders. "
    "Other programs need the whole prompt; a bare question, as below, only shows that the model runs.",
)


def asked_in_words(report: Mapping[str, Any]) -> str:
    """Describe the evaluated rows: `240 held-out pairs asked in both orders`."""
    asked = dig(report, "after", "n")
    held_out = f"held-out {WORDS.claim.asked}" if "training" in report else WORDS.claim.asked
    if dig(report, "after", "has_right_answers") is False:
        pairs = dig(report, "after", "metrics", "accuracy", "n")
        return f"{count(pairs)} {held_out} with each answer graded alone"
    pairs = dig(report, "after", "metrics", "accuracy_both_orders", "n") or dig(report, "data", "test_rows")
    if pairs is None and finite(asked) is not None:
        pairs = asked // 2
    return f"{count(pairs)} {held_out} asked in both orders"


def lean_in_words(report: Mapping[str, Any]) -> str:
    """Describe the position bias of the judge if its interval excludes 50 %; otherwise empty."""
    rate = table_at(report, "after", "metrics", "prefer_first_rate")
    low, high = finite(rate.get("low")), finite(rate.get("high"))
    if low is None or high is None or low <= 0.5 <= high:
        return ""
    where = "first" if low > 0.5 else "second"
    share = finite(rate.get("value")) or 0.0
    share = share if where == "first" else 1 - share
    return f"It is biased towards the answer shown {where}: {percent(share)} of its verdicts."
