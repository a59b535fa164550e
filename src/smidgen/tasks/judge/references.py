"""Reference answers of a judge: which templates show one, and training rows that are shown without theirs.

JudgeLM (https://arxiv.org/abs/2310.17631) trains on some rows with and some without a reference, so that one
judge does both. Its published code reads the drop ratio as the probability of keeping the reference, and
changes the row itself; here it is the probability of dropping it, and rows are never changed.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace

from smidgen.data.items import Pair
from smidgen.errors import ConfigError
from smidgen.tasks.judge.forms import Case, JudgeTemplate

_PROBE = "smidgen-reference-probe"


def shows_reference(form: JudgeTemplate) -> bool:
    """Whether prompts of a template contain the reference of their row."""
    case = Case("a question", "one answer", None if form.singly else "another answer", _PROBE)
    return any(_PROBE in message.content for message in form.messages(case))


def check_reference(form: JudgeTemplate, reference: bool, drop: float) -> None:
    """Refuse settings of references that a template does not support.

    Raises:
        ConfigError: the template needs a reference that is not shown or may be dropped, or has no place for
            one; or none is shown that could be dropped.
    """
    if form.needs_reference and not reference:
        raise ConfigError(
            f"the template {form.name} requires a reference answer in every row; add --reference "
            "or use another template"
        )
    if reference and not shows_reference(form):
        raise ConfigError(
            f"the template {form.name} has no place for a reference answer, so it cannot be shown one; put "
            "{{ reference }} into it, or leave --reference out"
        )
    if drop and not reference:
        raise ConfigError(
            f"reference_drop is {drop:g}, but the judge is shown no references that could be dropped; set "
            "reference = true, or leave it out"
        )
    if drop and form.needs_reference:
        raise ConfigError(
            f"reference_drop is {drop:g}, but the template {form.name} needs a reference in every row; "
            "leave it out"
        )


def drop_references(
    pairs: Sequence[Pair], bare: Mapping[str, Pair], probability: float, seed: int
) -> list[Pair]:
    """Return pairs of which some have no reference; each is drawn by its own id, so other rows do not matter.

    Args:
        pairs: with their references, and the labels that were given with them in view.
        bare: the same pairs by id, with the labels that were given without; one without a label keeps those
            of `pairs`.
        probability: of dropping the reference of a pair.
        seed: seed of the draws.
    """
    return [
        replace(pair if bare[pair.id].better is None else bare[pair.id], reference=None)
        if random.Random(f"reference/{seed}/{pair.id}").random() < probability
        else pair
        for pair in pairs
    ]
