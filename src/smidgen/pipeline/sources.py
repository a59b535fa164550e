"""Where rows come from: a file, or the generated world."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from smidgen.config import DataConfig
from smidgen.data.row_files import fingerprint, source_name
from smidgen.data.rows import read_rows, select_rows
from smidgen.data.types import Sample
from smidgen.errors import ConfigError, DataError
from smidgen.files import sha256_json
from smidgen.tasks.task import Row, Task

WORLD = "world"


def training_rows(task: Task, data: DataConfig) -> list[Row]:
    """The rows that a recipe trains on."""
    if data.train == WORLD:
        return list(task.world_rows("train", data.train_limit, data.seed))
    rows, name = read_rows(Path(data.train)), source_name(data.train)
    return list(select_rows(rows, splits=data.train_splits, limit=data.train_limit, source=name))


def test_rows(
    task: Task,
    source: str,
    *,
    splits: Sequence[str] = (),
    limit: int | None = None,
    seed: int = 0,
    rejected: list[str] | None = None,
) -> list[Row]:
    """The rows that a model is evaluated on; without `splits`, all of a file but its training splits."""
    if source == WORLD:
        return list(task.world_rows("test", limit, seed))
    rows = read_rows(Path(source), rejected=rejected)
    name = source_name(source)
    wanted = splits or _held_out_splits(rows, name)
    return list(select_rows(rows, splits=wanted, limit=limit, source=name))


def refuse_shared_rows(data: DataConfig) -> None:
    """Refuse to evaluate on the rows that are trained on.

    Raises:
        ConfigError: a split is both trained on and evaluated.
        DataError: one file is both, and nothing in it tells the two apart.
    """
    train = data.train
    if train == WORLD or Path(train) != Path(data.test):
        return
    if shared := sorted(set(data.train_splits) & set(data.test_splits)):
        raise ConfigError(
            f"the split '{shared[0]}' of {train} is both trained on and evaluated; take it out of one"
        )
    if not any("split" in row for row in all_rows(train)):
        raise DataError(
            f"{train} is both data.train and data.test, and its rows have no 'split' to tell them apart; "
            "give each row a split, or name two files"
        )


def all_rows(source: str, *, rejected: list[str] | None = None) -> list[Row]:
    """Every row of a file, for what a task can only learn from rows; none of the generated world."""
    return [] if source == WORLD else [*read_rows(Path(source), rejected=rejected)]


def data_facts(source: str, rows: Sequence[Row]) -> dict[str, Any]:
    """What provenance says of a dataset."""
    found = None if source == WORLD else fingerprint(source)
    return {"path": source, "sha256": found or sha256_json(list(rows)), "rows": len(rows)}


@dataclass(frozen=True)
class EvaluationRows:
    """The rows that a model is evaluated on.

    Attributes:
        task: knows what rows tell it, such as its labels.
        source: a file, or `world`.
        rows: those that are wanted.
        samples: what is asked.
        rejected: what is wrong with each row that was left out.
    """

    task: Task
    source: str
    rows: Sequence[Row]
    samples: Sequence[Sample]
    rejected: Sequence[str] = ()

    @classmethod
    def read(
        cls,
        task: Task,
        source: str,
        *,
        splits: Sequence[str] = (),
        limit: int | None = None,
        seed: int = 0,
        skip_bad_rows: bool = False,
    ) -> Self:
        """Read rows and make samples of them.

        Raises:
            DataError: the source cannot be read, or a row is bad and bad rows are not skipped.
        """
        rejected: list[str] | None = [] if skip_bad_rows else None
        rows = test_rows(task, source, splits=splits, limit=limit, seed=seed, rejected=rejected)
        # Labels are learnt from every row; what is wrong with bad ones was noted above.
        everything = all_rows(source, rejected=None if rejected is None else [])
        name = source_name(source)
        prepared = task.prepare(everything or rows, source=name)
        samples = prepared.samples(rows, source=name, rejected=rejected)
        return cls(prepared, source, rows, samples, rejected or [])


def _held_out_splits(rows: Sequence[Row], source: str) -> list[str]:
    """The splits of a file that are not for training; none when the file names no splits."""
    splits = dict.fromkeys(str(row["split"]) for row in rows if "split" in row)
    held_out = [split for split in splits if not split.endswith("train")]
    if splits and not held_out:
        raise DataError(
            f"{source} has only rows to train on (split {', '.join(splits)}); "
            "name the split to evaluate with --split, if that is what you want"
        )
    return held_out
