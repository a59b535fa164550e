"""Checks of judged pairs: answers that do not differ, and labels that follow from side or length."""

from collections.abc import Sequence

from smidgen.data.examples import Example, normalise
from smidgen.data.findings import Finding, finding

LENGTH_LEAK = 0.65
"""Warn if the longer (or the shorter) answer is the better one in at least this share of the pairs."""
FEWEST = 20
"""Minimum number of rows for the checks of shares."""


def examine_pairs(pairs: Sequence[Example]) -> list[Finding]:
    """Find problems of labelled pairs."""
    alike = [pair for pair in pairs if len(set(map(normalise, pair.answers))) == 1]
    equal = [pair.id for pair in alike if pair.answers[0].strip() == pair.answers[1].strip()]
    in_case = "the two answers differ only in case or spacing; see whether the prompt is about that"
    return [
        *finding(
            "same answers", "error", equal, "the two answers are identical, so no label is right; remove"
        ),
        *finding("alike answers", "warning", (pair.id for pair in alike if pair.id not in equal), in_case),
        *_examine_sides(pairs),
        *_examine_lengths(pairs),
    ]


def _examine_sides(pairs: Sequence[Example]) -> list[Finding]:
    """Check whether every better answer is on one side, as in files of chosen and rejected answers."""
    sides = {pair.label for pair in pairs}
    if len(pairs) < FEWEST or len(sides) > 1 or not sides <= {"a", "b"}:
        return []
    message = (
        f"every better answer is '{sides.pop()}'; smidgen shows both orders, so that only matters elsewhere"
    )
    return [Finding("one side", "info", message)]


def _examine_lengths(pairs: Sequence[Example]) -> list[Finding]:
    """Check whether length alone predicts the label."""
    lengths = [(len(pair.answers[0]) - len(pair.answers[1]), pair.label) for pair in pairs]
    differing = [(more, label) for more, label in lengths if more and label in ("a", "b")]
    if len(differing) < FEWEST:
        return []
    longer = sum((more > 0) == (label == "a") for more, label in differing) / len(differing)
    word, share = ("longer", longer) if longer >= 0.5 else ("shorter", 1 - longer)
    if share < LENGTH_LEAK:
        return []
    message = f"the {word} answer is the better one in {share:.0%} of the pairs; a judge may learn only that"
    return [Finding("length", "warning", message)]
