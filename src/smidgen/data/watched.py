"""Rows that note which of their fields are read, so that columns that nothing reads can be told."""

from collections.abc import Iterable
from typing import Any

from smidgen.data.row_files import FileRow


class WatchedRow(FileRow):
    """A row that adds to `read` the name of each field that is asked for, whether it has it or not."""

    def __init__(self, row: FileRow, read: set[str]):
        super().__init__(row, row.number, row.unit, row.file, row.blank)
        self.read = read

    def __getitem__(self, name: str) -> Any:
        self.read.add(name)
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        """Return a field, or the default."""
        self.read.add(name)
        return super().get(name, default)

    def filled(self, fields: Iterable[str]) -> FileRow:
        """Return the row with empty texts for those of `fields` whose cells are empty."""
        return WatchedRow(super().filled(fields), self.read)
