"""Files of rows that come with smidgen, by the name `smidgen:NAME`. They are for evaluation only."""

from importlib.resources import files
from pathlib import Path

from smidgen.errors import DataError, did_you_mean

PREFIX = "smidgen:"
_FILES = {
    f"{PREFIX}memorize-cases": "memory_cases/memorize.jsonl",
    f"{PREFIX}arbitrate-cases": "memory_cases/arbitrate.jsonl",
}
NAMES = tuple(_FILES)


def is_packaged(source: str | Path) -> bool:
    """Whether a source of rows is named as one that comes with smidgen."""
    return str(source).startswith(PREFIX)


def row_path(source: str | Path) -> Path:
    """Return the file of a source of rows: where a packaged one is installed, any other as it is named.

    Raises:
        DataError: no packaged file has this name, or it is missing from the installation.
    """
    if not is_packaged(source):
        return Path(source)
    if (name := str(source)) not in _FILES:
        raise DataError(
            f"no rows named '{name}' come with smidgen; expected {' or '.join(NAMES)}."
            f"{did_you_mean(name, NAMES)}"
        )
    path = Path(str(files("smidgen.data"))) / _FILES[name]
    if not path.is_file():
        raise DataError(f"{name} is missing from this installation; install smidgen again")
    return path
