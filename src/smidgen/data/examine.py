"""Checks of a dataset before training and evaluation.

Readers of formats reject rows that cannot be read. These checks find rows that are readable but not reliable:
identical answers, contradictory labels, duplicates, labels that follow from length or position, damaged and
empty texts, and test rows that are also in the training data. All are deterministic, and linear in the number
of rows.
"""

from collections.abc import Sequence
from dataclasses import replace

from smidgen.data.examine_labels import examine_labels, examine_rare, examine_unseen
from smidgen.data.examine_pairs import examine_pairs
from smidgen.data.examine_texts import examine_texts
from smidgen.data.examples import Example, normalise
from smidgen.data.findings import Finding, by_severity, finding
from smidgen.data.near import LONG_RUN, NEAR, SHORT_RUN, near_copies, near_duplicates, shared_runs

TRAIN, TEST = "training rows", "test rows"
_REMOVE = "so a score on it is not evidence; remove"


def examine(train: Sequence[Example], test: Sequence[Example]) -> list[Finding]:
    """Find the problems of training rows, of test rows and of both together, errors first."""
    found = [replace(each, where=TRAIN) for each in (*examine_set(train), *examine_rare(train))]
    overlap = [*examine_overlap(train, test), *examine_unseen(train, test)]
    found += [replace(each, where=TEST) for each in (*examine_set(test), *overlap)]
    return by_severity(found)


def examine_set(examples: Sequence[Example]) -> list[Finding]:
    """Find the problems of one set of rows."""
    return [
        *examine_texts(examples),
        *examine_repeats(examples),
        *examine_pairs([example for example in examples if example.is_pair]),
        *examine_labels(examples),
    ]


def examine_repeats(examples: Sequence[Example]) -> list[Finding]:
    """Find rows that contradict, repeat or nearly repeat an earlier one."""
    first: dict[object, str] = {}
    contradicting, differing, repeated, different = [], [], [], []
    for example in examples:
        if example.question not in first:
            first[example.question] = example.said
            different.append(example)
        elif first[example.question] == example.said:
            repeated.append(example.id)
        elif example.label is not None:
            contradicting.append(example.id)
        else:
            differing.append(example.id)
    earlier = "an earlier row has the same prompt"
    return [
        *finding("two labels", "error", contradicting, f"{earlier} but another label; keep one"),
        *finding(
            "two answers", "warning", differing, f"{earlier} but another completion; keep one, or mean it"
        ),
        *finding("duplicate", "warning", repeated, f"{earlier} and the same answers; remove"),
        *_near_duplicates(different),
    ]


def _near_duplicates(examples: Sequence[Example]) -> list[Finding]:
    texts = [(e.prompt, "\n".join(sorted(e.answers)) if e.is_pair else "") for e in examples]
    near = ((examples[row], examples[earlier]) for row, earlier in near_duplicates(texts))
    # the pairs of one row share answers, which are often versions of each other
    ids = [example.id for example, earlier in near if example.row is None or example.row != earlier.row]
    share = f"{NEAR:.0%} of an earlier row's word sequences"
    return finding("near duplicate", "warning", ids, f"they share at least {share}; keep one, or mean it")


def examine_overlap(train: Sequence[Example], test: Sequence[Example]) -> list[Finding]:
    """Find test rows whose prompt is in the training rows: whole, nearly, or a long run of its words."""
    said = {example.question: example.said for example in train}
    other = [example.id for example in test if said.get(example.question, example.said) != example.said]
    trained = {normalise(example.prompt): example.prompt for example in train}
    trained.pop("", None)
    leaked = [example for example in test if normalise(example.prompt) in trained]
    rest = [example for example in test if normalise(example.prompt) not in trained]
    originals, prompts = list(trained.values()), [example.prompt for example in rest]
    near = set(near_copies(prompts, originals)) if originals else set[int]()
    shared = set(shared_runs(prompts, originals)) - near
    contradiction = "a training row has the same prompt but another label or answer; see which is right"
    return [
        *finding("other answer", "warning", other, contradiction),
        *finding(
            "leak", "error", (e.id for e in leaked), f"the same question is in the training rows, {_REMOVE}"
        ),
        *finding(
            "near leak",
            "warning",
            (rest[i].id for i in sorted(near)),
            f"a training row has nearly the same question ({NEAR:.0%} of the word sequences), {_REMOVE}",
        ),
        *finding(
            "shared text",
            "warning",
            (rest[i].id for i in sorted(shared)),
            f"{LONG_RUN} words in a row ({SHORT_RUN} of shorter prompts) are also in a training row; see "
            "whether its answer is too",
        ),
    ]
