"""The source of the package, parsed once for all tests that read it."""

import ast
from functools import cache
from pathlib import Path

import smidgen

SOURCE = Path(smidgen.__file__).parent
FILES = sorted(SOURCE.rglob("*.py"))


@cache
def tree_of(file: Path) -> ast.Module:
    """The syntax tree of a file."""
    return ast.parse(file.read_text(encoding="utf-8"))
