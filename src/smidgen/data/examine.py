"""Checks of a dataset before training and evaluation.

Readers of formats reject rows that cannot be read. These checks find rows that are readable but not reliable:
identical answers, contradictory labels, duplicates, labels that follow from length or position, and test rows
that are also in the training data.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from smidgen.data.formats import Pair, Query
from smidgen.data.types import Sample

LENGTH_LEAK = 0.65
"""Warn if the longer (or the shorter) answer is the better one in at least this share of the pairs."""

LEAK = "the same question is in the training rows, so a score on it is not evidence; remove"

FEWEST = 20
"""Minimum number of pairs for the checks of sides and lengths."""

Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Finding:
    """One kind of problem.

    Attributes:
        kind: its name, in a word or two.
        severity: `error` if metrics computed from the rows are wrong, `warning` if they need care.
        message: what was found and what to do.
        ids: the affected rows; empty if it concerns all of them.
    """

    kind: str
    severity: Severity
    message: str
    ids: tuple[str, ...] = ()


def examine_pairs(pairs: Sequence[Pair]) -> list[Finding]:
    """Find problems of labelled pairs, errors first."""
    equal = [pair.id for pair in pairs if _normalise(pair.a) == _normalise(pair.b)]
    keys = [(_normalise(pair.prompt), frozenset({_normalise(pair.a), _normalise(pair.b)})) for pair in pairs]
    labels = [_normalise(pair.a if pair.better == "a" else pair.b) for pair in pairs]
    return [
        *_finding(
            "same answers", "error", equal, "the two answers are identical, so no label is right; remove"
        ),
        *_examine_labels("pair", [pair.id for pair in pairs], keys, labels),
        *_examine_sides(pairs),
        *_examine_lengths(pairs),
    ]


def examine_queries(queries: Sequence[Query]) -> list[Finding]:
    """Find problems of labelled utterances, errors first."""
    keys = [_normalise(query.text) for query in queries]
    return _examine_labels(
        "utterance", [query.id for query in queries], keys, [query.intent for query in queries]
    )


def examine_overlap(train: Sequence[Pair | Query], test: Sequence[Pair | Query]) -> list[Finding]:
    """Find test rows whose prompt or utterance is also in the training rows, ignoring case and spacing."""
    trained = {_question(row) for row in train}
    leaked = [row.id for row in test if _question(row) in trained]
    return _finding("leak", "error", leaked, LEAK)


def examine_rows(train: Sequence[Finding], test: Sequence[Finding], overlap: Sequence[Finding]) -> list[str]:
    """Format findings as sentences, each prefixed with the rows that it concerns."""
    named = (("training rows", train), ("test rows", [*test, *overlap]))
    return [f"{name}: {finding.message}" for name, findings in named for finding in findings]


def examine_samples(train: Sequence[Sample], test: Sequence[Sample]) -> list[str]:
    """Find problems of samples with targets of any task: duplicates, contradictions, leaks."""

    def look(samples: Sequence[Sample]) -> list[Finding]:
        keys = [_normalise("\n".join(message.content for message in sample.messages)) for sample in samples]
        ids = [sample.id for sample in samples]
        return _examine_labels("prompt", ids, keys, [sample.target or "" for sample in samples])

    trained = {sample.messages for sample in train}
    leaked = [sample.id for sample in test if sample.messages in trained]
    overlap = _finding("leak", "error", leaked, LEAK)
    return examine_rows(look(train), look(test), overlap)


def _examine_labels(
    noun: str, ids: Sequence[str], keys: Sequence[object], labels: Sequence[str]
) -> list[Finding]:
    """Find rows that contradict an earlier row with the same key, and rows that duplicate one."""
    first: dict[object, str] = {}
    contradicting, repeated = [], []
    for row_id, key, label in zip(ids, keys, labels, strict=True):
        if key not in first:
            first[key] = label
        elif first[key] == label:
            repeated.append(row_id)
        else:
            contradicting.append(row_id)
    earlier = f"an earlier row has the same {noun}"
    return [
        *_finding("two labels", "error", contradicting, f"{earlier} but another label; keep one"),
        *_finding("duplicate", "warning", repeated, f"{earlier} and label; remove"),
    ]


def _examine_sides(pairs: Sequence[Pair]) -> list[Finding]:
    """Check whether every better answer is on one side, as in files of chosen and rejected answers."""
    sides = {pair.better for pair in pairs}
    if len(pairs) < FEWEST or len(sides) > 1:
        return []
    message = f"every better answer is '{sides.pop()}'; train on both orders, or a judge learns the position"
    return [Finding("one side", "warning", message)]


def _examine_lengths(pairs: Sequence[Pair]) -> list[Finding]:
    """Check whether length alone predicts the label."""
    differing = [pair for pair in pairs if len(pair.a) != len(pair.b)]
    if len(differing) < FEWEST:
        return []
    longer = sum((len(pair.a) > len(pair.b)) == (pair.better == "a") for pair in differing) / len(differing)
    word, share = ("longer", longer) if longer >= 0.5 else ("shorter", 1 - longer)
    if share < LENGTH_LEAK:
        return []
    message = f"the {word} answer is the better one in {share:.0%} of the pairs; a judge may learn only that"
    return [Finding("length", "warning", message)]


def _finding(kind: str, severity: Severity, ids: Iterable[str], advice: str) -> list[Finding]:
    """Return a finding about these rows, or nothing if there are none."""
    found = tuple(ids)
    rows = "1 row" if len(found) == 1 else f"{len(found)} rows"
    return [Finding(kind, severity, f"{rows}: {advice}", found)] if found else []


def _question(row: Pair | Query) -> str:
    return _normalise(row.prompt if isinstance(row, Pair) else row.text)


def _normalise(text: str) -> str:
    """Normalise case and spacing, which do not make two texts different."""
    return " ".join(text.split()).casefold()
