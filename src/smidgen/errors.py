"""The errors smidgen raises on purpose.

    SmidgenError
    ├── UserError         the input was wrong; the command line prints the sentence and exits with 2
    │   ├── ConfigError   a recipe, an option or a setting
    │   ├── DataError     a dataset, a row or a recording
    │   └── ModelError    a model folder, its weights, an adapter or a tokenizer
    ├── WorkError         the input was fine but the work failed (disk full, loss not finite); exits with 1
    └── ParseError        a model's text could not be read; scoring catches it, a user never sees it

Every message says what was given, what was expected and what to do about it.
"""

import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path

NAMED = 5
"""Faults that a message names; of more, it says how many there are."""


class SmidgenError(Exception):
    """Base of every error that smidgen raises on purpose."""


class UserError(SmidgenError):
    """The input was wrong and the message says how to mend it."""


class ConfigError(UserError):
    """A recipe, an option or a setting was wrong."""


class DataError(UserError):
    """A dataset, a row or a recording was wrong."""


class ModelError(UserError):
    """A model folder, its weights, an adapter or a tokenizer was wrong."""


class WorkError(SmidgenError):
    """The input was fine but the work could not be finished."""


class ParseError(SmidgenError):
    """A model's text did not have the form that its task asked for."""


def first_few(faults: Sequence[str], separator: str = "; ") -> str:
    """The first faults, and how many more there are."""
    more = f"{separator}and {len(faults) - NAMED} more" if len(faults) > NAMED else ""
    return separator.join(faults[:NAMED]) + more


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ` Did you mean 'x'?` for the known name nearest to `name`, or an empty string."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" Did you mean '{near[0]}'?" if near else ""


def did_you_mean_best(folder: Path) -> str:
    """Return ` Did you mean 'run/best'?` for the folder of a run that holds its best, or nothing."""
    best = folder / "best"
    return f" Did you mean '{best}'?" if best.is_dir() else ""
