"""Worse answers to a sample, which preference training needs beside its target."""

import json
import random

from smidgen.data.types import Constraint, Preference, Sample
from smidgen.errors import ConfigError


def other_choice(task: str, constraint: Constraint | None, sample: Sample, chosen: str) -> Preference:
    """Return a sample with another of the answers that a constraint lists, drawn by the sample's id.

    Raises:
        ConfigError: the task has no list of answers with the chosen one.
    """
    listed = json.loads(constraint.value) if constraint and constraint.kind == "choices" else []
    others = [choice for choice in listed if choice != chosen]
    if not others or chosen not in listed:
        raise ConfigError(
            f"the task {task} has no worse answers to learn preferences from; use the task 'preference' with "
            "rows of prompt, chosen and rejected, or a task with a list of answers"
        )
    return Preference(sample, chosen, random.Random(sample.id).choice(others))
