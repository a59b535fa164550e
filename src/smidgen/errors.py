"""The errors smidgen raises on purpose.

    SmidgenError
    ├── UserError         bad input; the command line prints the message and exits with 2
    │   ├── ConfigError   a recipe, an option or a setting
    │   ├── DataError     a dataset, a row or a recording
    │   └── ModelError    a model folder, its weights, an adapter or a tokenizer
    ├── WorkError         valid input, but the work failed (disk full, loss not finite); exits with 1
    ├── Paused            the work was asked to pause; the next run goes on from there
    └── ParseError        a model's output could not be parsed; caught by scoring, never shown to a user

Every message says what was given, what was expected and what to do about it.
"""

import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path

MAX_LISTED = 5
"""Number of faults that a message lists; the others are only counted."""


class SmidgenError(Exception):
    """Base of every error that smidgen raises on purpose."""


class UserError(SmidgenError):
    """The input was wrong; the message says how to fix it."""


class ConfigError(UserError):
    """A recipe, an option or a setting was wrong."""


class DataError(UserError):
    """A dataset, a row or a recording was wrong."""


class ModelError(UserError):
    """A model folder, its weights, an adapter or a tokenizer was wrong."""


class WorkError(SmidgenError):
    """The input was valid but the work failed."""


class Paused(SmidgenError):
    """The work paused where it was asked to; nothing failed."""


class ParseError(SmidgenError):
    """A model's output did not have the format that its task expects."""


def first_few(faults: Sequence[str], separator: str = "; ") -> str:
    """Join the first faults and the number of further ones."""
    more = f"{separator}and {len(faults) - MAX_LISTED} more" if len(faults) > MAX_LISTED else ""
    return separator.join(faults[:MAX_LISTED]) + more


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, such as `1 row` or `2,000 rows`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ` Did you mean 'x'?` for the closest known name, or an empty string."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" Did you mean '{near[0]}'?" if near else ""


def did_you_mean_best(folder: Path) -> str:
    """Return ` Did you mean 'run/best'?` if a run folder contains its best model, or an empty string."""
    best = folder / "best"
    return f" Did you mean '{best}'?" if best.is_dir() else ""
