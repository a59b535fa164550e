"""Where rows come from: a file, or the generated world."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smidgen.errors import ConfigError, DataError

if TYPE_CHECKING:
    from smidgen.data.world import Split

WORLD = "world"
WORLD_ROWS = {"train": 1000, "test": 240}

Row = dict[str, Any]


def training_rows(
    task: str, source: str, *, splits: Sequence[str], limit: int | None, seed: int
) -> list[Row]:
    """The rows that a recipe trains on."""
    if source == WORLD:
        return world_rows(task, "train", limit, seed)
    from smidgen.data.row_files import source_name
    from smidgen.data.rows import read_rows, select_rows

    return select_rows(read_rows(Path(source)), splits=splits, limit=limit, source=source_name(source))


def test_rows(
    task: str,
    source: str,
    *,
    splits: Sequence[str],
    limit: int | None,
    seed: int,
    rejected: list[str] | None = None,
) -> list[Row]:
    """The rows that a model is evaluated on; without `splits`, all of a file but its training splits."""
    from smidgen.data.row_files import source_name
    from smidgen.data.rows import read_rows, select_rows

    if source == WORLD:
        return world_rows(task, "test", limit, seed)
    rows = read_rows(Path(source), rejected=rejected)
    name = source_name(source)
    return select_rows(rows, splits=splits or _held_out_splits(rows, name), limit=limit, source=name)


def refuse_shared_rows(
    train: str, test: str, train_splits: Sequence[str], test_splits: Sequence[str]
) -> None:
    """Refuse to evaluate on the rows that are trained on.

    Raises:
        DataError: one file is both, and nothing in it tells the two apart.
    """
    if train == WORLD or Path(train) != Path(test):
        return
    if shared := sorted(set(train_splits) & set(test_splits)):
        raise ConfigError(
            f"the split '{shared[0]}' of {train} is both trained on and evaluated; take it out of one"
        )
    if not any("split" in row for row in all_rows("", train)):
        raise DataError(
            f"{train} is both data.train and data.test, and its rows have no 'split' to tell them apart; "
            "give each row a split, or name two files"
        )


def all_rows(task: str, source: str, *, rejected: list[str] | None = None) -> list[Row]:
    """Every row there is, for what a task can only learn from rows, such as its labels."""
    from smidgen.data.rows import read_rows

    return [] if source == WORLD else [*read_rows(Path(source), rejected=rejected)]


def world_rows(task: str, split: "Split", limit: int | None, seed: int) -> list[Row]:
    """Generated rows of one split."""
    from smidgen.data.preferences import judge_rows
    from smidgen.data.world import question_rows

    sources = {"judge": judge_rows, "answers": question_rows}
    if task not in sources:
        raise ConfigError(f"the world has no rows for the task '{task}'; name a file of rows with --data")
    return list(sources[task](split, limit or WORLD_ROWS[split], seed))


def data_facts(source: str, rows: Sequence[Row]) -> dict[str, Any]:
    """What provenance says of a dataset."""
    from smidgen.data.row_files import fingerprint
    from smidgen.files import sha256_json

    found = None if source == WORLD else fingerprint(source)
    return {"path": source, "sha256": found or sha256_json(list(rows)), "rows": len(rows)}


def examine(task: str, train: Sequence[Row], test: Sequence[Row]) -> list[str]:
    """What should not be believed about the rows: repeats, double labels, leaks between the two."""
    from smidgen.data.doctor import examine_overlap, examine_pairs, examine_queries
    from smidgen.data.formats import pairs, queries

    read, look = {"judge": (pairs, examine_pairs), "intent": (queries, examine_queries)}[task]
    learnt, held_out = read(train), read(test)
    return [
        f"{name}: {finding.message}"
        for name, findings in (
            ("training rows", look(learnt)),
            ("test rows", [*look(held_out), *examine_overlap(learnt, held_out)]),
        )
        for finding in findings
    ]


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
