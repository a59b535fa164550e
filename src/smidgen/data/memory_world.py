"""Generated rows for a memory router."""

from typing import Any

from smidgen.data.world import Split


def memorize_rows(split: Split, count: int, seed: int) -> list[dict[str, Any]]:
    raise NotImplementedError


def arbitrate_rows(split: Split, count: int, seed: int) -> list[dict[str, Any]]:
    raise NotImplementedError
