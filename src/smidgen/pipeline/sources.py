"""Row sources: a file, rows that come with smidgen, or the generated world."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from smidgen.config import WORLD, DataConfig, RowSourceConfig
from smidgen.data.fields import row_id
from smidgen.data.packaged_rows import is_packaged, row_path
from smidgen.data.row_files import FileRow, fingerprint, source_name
from smidgen.data.rows import read_rows, select_rows
from smidgen.data.types import Sample
from smidgen.errors import ConfigError, DataError
from smidgen.files import sha256_file, sha256_json
from smidgen.tasks.task import Row, Task


def training_rows(
    task: Task, data: DataConfig, source: RowSourceConfig, *, rejected: list[str] | None = None
) -> list[Row]:
    """Return the rows of a source that a recipe trains on; `rejected` as in `read_rows`.

    Raises:
        ConfigError: the rows are those that come with smidgen for evaluation.
        DataError: the rows cannot be read.
    """
    if source.path == WORLD:
        return list(task.world_rows("train", data.train_limit, data.seed))
    if is_packaged(source.path):
        raise ConfigError(
            f"{source.path} is for evaluation only; train on other rows, and name it as data.test"
        )
    rows, name = read_rows(Path(source.path), rejected=rejected), source_name(source.path)
    return list(select_rows(rows, splits=data.train_splits, limit=data.train_limit, source=name))


def named_by(source: str, rows: Sequence[Row]) -> list[Row]:
    """Return rows with the name of their source in their ids, since rows of two files may have the same."""
    found = []
    for number, row in enumerate(rows, start=1):
        try:
            name = f"{source}/{row_id(row, number)}"
        except DataError:  # said where the row is read, with its place
            found.append(row)
        else:
            found.append(row.named(name) if isinstance(row, FileRow) else {**row, "id": name})
    return found


def test_rows(
    task: Task,
    source: str,
    *,
    splits: Sequence[str] = (),
    limit: int | None = None,
    seed: int = 0,
    rejected: list[str] | None = None,
) -> list[Row]:
    """Return the held-out rows; without `splits`, every row of a file except its training splits."""
    if source == WORLD:
        return list(task.world_rows("test", limit, seed))
    rows = read_rows(Path(source), rejected=rejected)
    name = source_name(source)
    wanted = splits or _held_out_splits(rows, name)
    return list(select_rows(rows, splits=wanted, limit=limit, source=name))


def refuse_shared_rows(data: DataConfig) -> None:
    """Refuse to evaluate on training rows.

    Raises:
        ConfigError: a split is both trained on and evaluated.
        DataError: one file is used for both, and its rows have no `split` to separate them.
    """
    test = data.test
    if test == WORLD or Path(test) not in [Path(source.path) for source in data.all_sources]:
        return
    if shared := sorted(set(data.train_splits) & set(data.test_splits)):
        raise ConfigError(
            f"the split '{shared[0]}' of {test} is both trained on and evaluated; remove it from one of them"
        )
    if not any("split" in row for row in all_rows(test)):
        raise DataError(
            f"{test} is both data.train and data.test, and its rows have no 'split' to separate them; "
            "give each row a split, or use two files"
        )


def all_rows(source: str, *, rejected: list[str] | None = None) -> list[Row]:
    """Return every row of a file, from which a task derives its labels; no rows for the generated world."""
    return [] if source == WORLD else [*read_rows(Path(source), rejected=rejected)]


def source_hash(source: str) -> str:
    """Return the hash of a data file, or the name of the generated world.

    Raises:
        DataError: there is no such file.
    """
    if source == WORLD:
        return source
    path = row_path(source)
    if not path.is_file():
        raise DataError(f"there is no data file at {path}; give one with --data FILE, or fix [data]")
    return sha256_file(path)


@dataclass(frozen=True)
class DataFacts:
    """Provenance of one dataset.

    Attributes:
        path: a file, or `world`.
        sha256: hash of the file, or of the generated rows.
        rows: number of rows used.
        samples: number of samples made from them.
    """

    path: str
    sha256: str
    rows: int
    samples: int


def data_facts(source: str, rows: Sequence[Row], num_samples: int) -> DataFacts:
    """Return the provenance of the rows of a source."""
    found = None if source == WORLD else fingerprint(source)
    return DataFacts(source, found or sha256_json(list(rows)), len(rows), num_samples)


@dataclass(frozen=True)
class EvaluationRows:
    """The rows that a model is evaluated on.

    Attributes:
        task: prepared with the rows, so that it knows its labels.
        source: a file, or `world`.
        rows: the selected rows.
        samples: the samples made from the rows.
        rejected: for each row that was left out, what is wrong with it.
        attacked: further samples of some of the rows, manipulated to mislead.
    """

    task: Task
    source: str
    rows: Sequence[Row]
    samples: Sequence[Sample]
    rejected: Sequence[str] = ()
    attacked: Sequence[Sample] = ()

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
        attacked: int = 0,
    ) -> Self:
        """Read rows and build their samples; `attacked` is the number of items that are also manipulated.

        Raises:
            ConfigError: some should be manipulated, and the task has nothing that can be.
            DataError: the source cannot be read, or a row is bad and bad rows are not skipped.
        """
        rejected: list[str] | None = [] if skip_bad_rows else None
        rows = test_rows(task, source, splits=splits, limit=limit, seed=seed, rejected=rejected)
        # Labels come from every row; faults of bad rows were already collected above.
        everything = all_rows(source, rejected=None if rejected is None else [])
        name = source_name(source)
        prepared = task.prepare(everything or rows, source=name)
        samples = prepared.samples(rows, source=name, rejected=rejected)
        manipulated = manipulated_samples(prepared, rows, attacked, source=name, seed=seed)
        return cls(prepared, source, rows, samples, rejected or [], manipulated)


def manipulated_samples(
    task: Task, rows: Sequence[Row], number: int, *, source: str, seed: int
) -> list[Sample]:
    """Return the attacked samples of at most `number` items of some rows; none if that is 0.

    Raises:
        ConfigError: the task has no answers that can be manipulated.
    """
    if not number:
        return []
    if task.attacks is None:
        raise ConfigError(
            f"the prompts of the task {task.name} show no answers that could be manipulated; attacks are for "
            "the task judge, so leave them out"
        )
    return task.attacks.samples(rows, number, source=source, seed=seed)


def _held_out_splits(rows: Sequence[Row], source: str) -> list[str]:
    """Return the non-training splits of a file; empty when the file has no splits."""
    splits = dict.fromkeys(str(row["split"]) for row in rows if "split" in row)
    held_out = [split for split in splits if not split.endswith("train")]
    if splits and not held_out:
        raise DataError(
            f"{source} has only training rows (split {', '.join(splits)}); "
            "to evaluate on them anyway, name the split with --split"
        )
    return held_out
