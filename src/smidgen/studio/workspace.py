"""The workspace: the one folder that the studio reads and writes.

Every path of a request passes through `Workspace.path`. It follows symbolic links first and asks afterwards,
so nothing outside the folder is reached by `..`, by an absolute path or by a link.
"""

import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from smidgen.errors import ConfigError, DataError
from smidgen.files import write_text

ROW_ENDINGS = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
STORE_ENDINGS = (".sqlite", ".db")
JOURNAL = ".journal.jsonl"
"""What follows the name of a memory store in that of its journal, which no model learns from."""
DRAFTS = ".studio"
DEEPEST, MOST_FILES = 3, 500
"""Depth and number of the files that are offered for choosing."""
SKIPPED = frozenset({"runs", "node_modules", "__pycache__"})
LONGEST_NAME = 120
_UNSAFE = re.compile(r"[^\w. -]+")


class WorkspaceFile(NamedTuple):
    """A file that can be chosen: its path in the workspace, its size in bytes, and when it changed."""

    path: str
    bytes: int
    changed: float


class Workspace:
    """A folder, and the paths inside it.

    Attributes:
        root: the folder, without symbolic links.
    """

    def __init__(self, root: Path) -> None:
        """Take a folder as the workspace.

        Raises:
            ConfigError: it is not a folder.
        """
        if not root.is_dir():
            raise ConfigError(f"{root} is not a folder; name the folder with your rows, recipes and runs")
        self.root = root.resolve()

    @property
    def runs(self) -> Path:
        """The parent of the run folders, as the command line has it."""
        return self.root / "runs"

    def path(self, name: str) -> Path:
        """Return the real path of a file or folder that a request names, whether or not it exists.

        Raises:
            DataError: it is empty, is hidden, would be read as an option, or is outside the workspace.
        """
        if not name.strip() or "\0" in name:
            raise DataError("a file name is empty or has a zero byte; choose a file of the workspace")
        parts = Path(name).parts
        if any(part.startswith("-") for part in parts):
            raise DataError(f"'{name}' has a part that begins with a hyphen; rename it, or choose another")
        found = (self.root / name).resolve()
        if Path(name).is_absolute() or found == self.root or not found.is_relative_to(self.root):
            raise DataError(f"'{name}' is not inside the workspace; choose a file of the workspace")
        if any(part.startswith(".") for part in (*parts, *found.relative_to(self.root).parts)):
            raise DataError(f"'{name}' is hidden or not a plain path; choose a visible file of the workspace")
        return found

    def file(self, name: str) -> Path:
        """Return the path of an existing file.

        Raises:
            DataError: there is none, or `path` refuses it.
        """
        if not (found := self.path(name)).is_file():
            raise DataError(f"there is no file '{name}' in the workspace; choose one that is listed")
        return found

    @contextmanager
    def draft(self, text: str) -> Iterator[Path]:
        """Keep a recipe that is being written in a hidden file of its own while a command reads it.

        Raises:
            DataError: its folder is a link, which may lead out of the workspace.
        """
        if (folder := self.root / DRAFTS).is_symlink():
            raise DataError(f"{DRAFTS} is a link; remove it, since the recipe that is written lies there")
        file = folder / f"recipe-{secrets.token_hex(8)}.toml"
        write_text(file, text)
        try:
            yield file
        finally:
            file.unlink(missing_ok=True)

    def relative(self, path: Path) -> str:
        """Return how a path of the workspace is named in a command that runs in it."""
        return path.relative_to(self.root).as_posix()

    def files(self, endings: tuple[str, ...]) -> list[WorkspaceFile]:
        """Return the visible files with some endings outside the run folders, newest first."""
        found = [
            WorkspaceFile(self.relative(path), facts.st_size, facts.st_mtime)
            for path in self._walk(self.root, DEEPEST)
            if path.name.lower().endswith(endings)
            and not path.name.endswith(JOURNAL)
            and (facts := _facts(path))
        ]
        return sorted(found, key=lambda file: -file.changed)[:MOST_FILES]

    def free_name(self, name: str) -> Path:
        """Return a path in the workspace for a new file; one that exists is never replaced.

        Raises:
            DataError: nothing of the name can be used.
        """
        plain = _UNSAFE.sub("-", Path(name.replace("\\", "/")).name).strip(" .-")[-LONGEST_NAME:].strip(" .-")
        if not plain:
            raise DataError(
                f"'{name[:LONGEST_NAME]}' cannot be the name of a file; rename it and drop it again"
            )
        stem, ending = Path(plain).stem, Path(plain).suffix
        number, place = 2, self.root / plain
        while place.exists() or place.is_symlink():
            place, number = self.root / f"{stem}-{number}{ending}", number + 1
        return place

    def _walk(self, folder: Path, depth: int) -> Iterator[Path]:
        """Yield the visible files of a folder; links are left out, for they may lead anywhere."""
        try:
            entries = sorted(folder.iterdir())
        except OSError:
            return
        for entry in entries:
            if not is_shown(entry.name) or entry.is_symlink():
                continue
            if entry.is_file():
                yield entry
            elif depth > 1 and entry.is_dir() and entry.name not in SKIPPED:
                yield from self._walk(entry, depth - 1)


def is_shown(name: str) -> bool:
    """Whether a file or folder of this name is shown; not if hidden, like an option, or not text (UTF-8)."""
    return not name.startswith((".", "-")) and not any("\ud800" <= sign <= "\udfff" for sign in name)


def _facts(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except FileNotFoundError:  # removed since its folder was read
        return None
