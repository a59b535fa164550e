"""Checks of labels and completions over all rows: balance, spelling, constant and told answers."""

from collections import Counter
from collections.abc import Sequence

from smidgen.data.examine_pairs import FEWEST
from smidgen.data.examples import Example, normalise, words_of
from smidgen.data.findings import Finding, finding

IMBALANCE = 0.8
"""Warn if one label has at least this share of the rows: always giving it scores as much."""
CONSTANT = 0.2
"""Warn if one completion, where there are no labels, has at least this share of the rows."""
TOLD, NOT_TOLD = 0.8, 0.3
"""Warn if at least the first share of the prompts name their label, and at most the second one another."""


def examine_labels(examples: Sequence[Example]) -> list[Finding]:
    """Find problems of the labels of rows, and of completions where there are none."""
    labelled = [example for example in examples if example.label is not None and not example.is_pair]
    free = [example for example in examples if example.label is None and example.completion]
    return [
        *_spellings(labelled),
        *_balance(labelled),
        *_told_labels(labelled),
        *_constant(free),
    ]


def examine_rare(train: Sequence[Example]) -> list[Finding]:
    """Find training rows that are the only one with their label."""
    labelled = [example for example in train if example.label is not None and not example.is_pair]
    if len(labelled) < FEWEST:
        return []
    counts = Counter(example.label for example in labelled)
    alone = (example.id for example in labelled if counts[example.label] == 1)
    return finding("rare label", "warning", alone, "no other row has their label; add rows, or drop it")


def examine_unseen(train: Sequence[Example], test: Sequence[Example]) -> list[Finding]:
    """Find test rows with a label that no training row has."""
    known = {example.label for example in train}
    if not train or None in known or any(example.is_pair for example in train):
        return []
    unseen = [example.id for example in test if example.label not in known]
    return finding(
        "unseen label", "error", unseen, "no training row has their label, so it cannot be learned"
    )


def _spellings(examples: Sequence[Example]) -> list[Finding]:
    """Find labels that differ only in case, spaces or underscores from a more frequent one."""
    counts = Counter(str(example.label) for example in examples)
    usual: dict[str, str] = {}
    for label, _ in counts.most_common():
        usual.setdefault(_plain(label), label)
    odd = [example for example in examples if usual[_plain(str(example.label))] != example.label]
    if not odd:
        return []
    label = str(odd[0].label)
    advice = (
        f"their label, such as '{label}', is another spelling of '{usual[_plain(label)]}'; write it the same"
    )
    return finding("label spelling", "error", (example.id for example in odd), advice)


def _plain(label: str) -> str:
    return normalise(label.replace("_", " "))


def _balance(examples: Sequence[Example]) -> list[Finding]:
    """Check whether one label dominates."""
    if len(examples) < FEWEST:
        return []
    counts = Counter(str(example.label) for example in examples)
    (label, number), *_ = counts.most_common(1)
    share = number / len(examples)
    if len(counts) == 1:
        return [
            Finding(
                "one label", "error", f"every row has the label '{label}', so there is nothing to tell apart"
            )
        ]
    if share < IMBALANCE:
        return []
    message = f"{share:.0%} of the rows have the label '{label}'; add rows of others, and see the macro F1"
    return [Finding("imbalance", "warning", message)]


def _told_labels(examples: Sequence[Example]) -> list[Finding]:
    """Check whether prompts contain their own label, and not those of other rows."""
    if len(examples) < FEWEST or len({example.label for example in examples}) < 2:
        return []
    prompts, labels = (
        [f" {' '.join(words_of(text.replace('_', ' ')))} " for text in texts]
        for texts in zip(*((example.prompt, str(example.label)) for example in examples), strict=True)
    )
    if min(map(len, labels)) < 4:  # single letters occur in any text
        return []
    own = [label in prompt for prompt, label in zip(prompts, labels, strict=True)]
    others = _labels_of_others(labels)
    named = [other in prompt for prompt, other in zip(prompts, others, strict=True)]
    if sum(own) < TOLD * len(own) or sum(named) > NOT_TOLD * len(named):
        return []
    share = sum(own) / len(own)
    message = f"{share:.0%} of the prompts contain their label, so a model learns to copy it; remove it"
    return [Finding("label in prompt", "error", message)]


def _labels_of_others(labels: Sequence[str]) -> list[str]:
    """Return for each row the label of the next row, in a circle, that has another one."""
    others, other = [""] * len(labels), next(label for label in labels if label != labels[-1])
    for row in reversed(range(len(labels))):
        others[row] = other
        if row and labels[row - 1] != labels[row]:
            other = labels[row]
    return others


def _constant(examples: Sequence[Example]) -> list[Finding]:
    """Check whether one completion is that of many rows."""
    if len(examples) < FEWEST:
        return []
    counts = Counter(example.said for example in examples)
    (said, number), *_ = counts.most_common(1)
    share = number / len(examples)
    if share < CONSTANT:
        return []
    shown = said if len(said) <= 40 else f"{said[:37]}..."
    message = f"{share:.0%} of the completions are '{shown}'; a model learns to always say that"
    return [Finding("constant answer", "warning", message)]
