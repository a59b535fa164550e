"""Rewards of answers, for training on them: parts that a task defines, and functions of the user.

A part gets all answers of a group at once, since some depend on the others, such as whether a judge says the
same in both orders.
"""

import importlib.util
import math
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import NamedTuple

from smidgen.data.types import Completion, Sample, Score
from smidgen.errors import ConfigError, WorkError, did_you_mean

SCORE = "score"
LARGEST = 1_000_000
"""Rewards of a function are at most this large; advantages of larger ones would be lost to rounding."""


class Answered(NamedTuple):
    """An answer to a sample, with the task's score."""

    sample: Sample
    completion: Completion
    score: Score


GroupReward = Callable[[Sequence[Answered]], Sequence[float]]
"""Returns the reward of each answer of a group."""


def score_reward(group: Sequence[Answered]) -> list[float]:
    """Return the task's score of each answer, from 0 to 1."""
    return [answer.score.value for answer in group]


def find_reward(name: str, known: Mapping[str, GroupReward]) -> GroupReward:
    """Return a part of the reward by its name: one of a task, or `FILE.py:FUNCTION`.

    Raises:
        ConfigError: there is none of that name.
    """
    if name in known:
        return known[name]
    file, separator, function = name.rpartition(":")
    if separator and file.endswith(".py") and function:
        return _own_reward(Path(file).expanduser(), function, name)
    raise ConfigError(
        f"rewards: '{name}' is not a reward of this task.{did_you_mean(name, known)} It has "
        f"{', '.join(sorted(known))}; FILE.py:FUNCTION names a function of your own"
    )


def _own_reward(file: Path, function: str, name: str) -> GroupReward:
    """Return the reward that a function of the user gives to each answer."""
    if not file.is_file():
        raise ConfigError(f"rewards: {file} does not exist; give the path of a Python file")
    spec = importlib.util.spec_from_file_location(f"smidgen_rewards_{file.stem}", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise ConfigError(f"rewards: {file} cannot be loaded: {type(error).__name__}: {error}") from None
    reward = getattr(module, function, None)
    if not callable(reward):
        raise ConfigError(
            f"rewards: {file} has no function '{function}'; define {function}(sample, completion), which "
            "returns a number"
        )

    def of_group(group: Sequence[Answered]) -> list[float]:
        return [_number(reward, answer, name) for answer in group]

    return of_group


def _number(reward: Callable[..., object], answer: Answered, name: str) -> float:
    """Return what a function of the user says of an answer.

    Raises:
        WorkError: it fails, or it returns no finite number.
    """
    place = f"the reward {name} of an answer to '{answer.sample.id}'"
    try:
        value = reward(answer.sample, answer.completion)
    except (Exception, SystemExit) as error:
        raise WorkError(f"{place} failed: {type(error).__name__}: {error}") from None
    try:
        number = float(value) if isinstance(value, Real) else math.nan
    except OverflowError:
        number = math.inf
    if not abs(number) <= LARGEST:
        raise WorkError(f"{place} is {str(value)[:80]!r}, expected a number of at most {LARGEST:,} in size")
    return number
