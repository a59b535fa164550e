"""Many pairs, judged into a file: each judgement is on disk as soon as it is made, and is made once."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from smidgen.data.row_files import source_name
from smidgen.data.rows import read_rows, select_rows
from smidgen.data.types import Record, Sample, Sampling
from smidgen.errors import ConfigError, DataError
from smidgen.evaluation.records import read_log, read_records, wall_clock
from smidgen.evaluation.runner import collect_records
from smidgen.evaluation.speed import Speed, measure_speed
from smidgen.files import write_jsonl
from smidgen.inference import Engine
from smidgen.options import RowOptions
from smidgen.tasks.judge import JudgeTask
from smidgen.tasks.judge.judgements import read_record
from smidgen.tasks.judge.outcome import Outcome, outcome

Rows = Path | str | Sequence[dict[str, Any]]
"""A file of rows, or the rows."""


@dataclass(frozen=True)
class JudgedPair(Outcome):
    """What all judgements of one pair come to.

    Attributes:
        id: of the pair.
    """

    id: str

    def to_json(self) -> dict[str, Any]:
        """The fields as a JSON object."""
        return {"id": self.id, **vars(self)}


@dataclass(frozen=True)
class AskedPairs:
    """What a judge is asked about rows.

    Attributes:
        samples: every pair in both orders, as often as it is asked.
        rejected: what is wrong with each row that was left out.
    """

    samples: Sequence[Sample]
    rejected: Sequence[str]


def ask_pairs(task: JudgeTask, rows: Rows, selection: RowOptions, times: int) -> AskedPairs:
    """What to ask about the pairs of rows, each order so many times.

    Raises:
        ConfigError: the template grades answers alone.
        DataError: the file is missing, or a row is not a pair; with `skip_bad_rows`, if none is.
    """
    if task.form.singly:
        raise ConfigError(
            f"the template {task.form.name} grades one answer; judge with rubric, scores or verdict"
        )
    rejected: list[str] | None = [] if selection.skip_bad_rows else None
    source = source_name(rows) if isinstance(rows, str | Path) else "rows"
    read: Sequence[dict[str, Any]]
    read = read_rows(Path(rows), rejected=rejected) if isinstance(rows, str | Path) else rows
    if not read:
        raise DataError(
            f"{source}: there is no row to judge; expected pairs, such as of `prompt`, `a` and `b`"
        )
    found = select_rows(read, limit=selection.limit, source=source)
    asked = task.samples(found, source=source, labelled=False, rejected=rejected)
    # The first keeps its id, and the others draw by theirs.
    repeated = [
        sample if time == 1 else replace(sample, id=f"{sample.id}#{time}")
        for sample in asked
        for time in range(1, times + 1)
    ]
    return AskedPairs(repeated, tuple(rejected or ()))


class RowJudgements:
    """An iterator over judgements: those that the file holds already, then each new one once it is there.

    Attributes:
        out: the file of judgements. Beside it `verdicts` writes `<out>.pairs.jsonl`, one verdict a pair.
        total: how many judgements there are when all are made.
        known: how many of them the file held before.
        rejected: what is wrong with each row that was left out.
        labelled: whether a row says which answer is better.
        records: the judgements so far.
    """

    def __init__(
        self,
        task: JudgeTask,
        asked: AskedPairs,
        engine: Engine,
        sampling: Sampling,
        out: Path,
        *,
        identity: str,
    ):
        """Judge with an opened engine, of which `identity` is the fingerprint."""
        self.out, self.rejected, self.total = out, asked.rejected, len(asked.samples)
        self.labelled = any(sample.metadata["label"] for sample in asked.samples)
        self.known = len(read_records(out)) if out.exists() else 0
        self.records: list[Record] = []
        self._task, self._engine = task, engine
        self._pairs = dict.fromkeys(sample.metadata["pair"] for sample in asked.samples)
        self._coming = collect_records(task, asked.samples, engine, sampling, out, model=identity)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Record:
        record = next(self._coming)
        self.records.append(record)
        return record

    def verdicts(self) -> list[JudgedPair]:
        """One verdict a pair, in the order of the rows; judgements that are still to come are made first."""
        for _ in self:
            pass
        verdicts = list(self._verdicts())
        pairs = self.out.with_name(f"{self.out.name.removesuffix('.jsonl')}.pairs.jsonl")
        write_jsonl(pairs, [found.to_json() for found in verdicts])
        return verdicts

    def _verdicts(self) -> Iterator[JudgedPair]:
        said: dict[str, list[Any]] = {pair: [] for pair in self._pairs}
        for record in self.records:
            facts = record.sample.metadata
            said[facts["pair"]].append((facts["order"], read_record(self._task.form.parse, record)))
        for pair, verdicts in said.items():
            yield JudgedPair(**vars(outcome(verdicts)), id=pair)

    def speed(self) -> Speed:
        """What the judgements took, over all the sessions in which they were made."""
        timings = [record.completion.timing for record in self.records]
        seconds = wall_clock(read_log(self.out))
        return measure_speed(timings, seconds, peak_memory_bytes=self._engine.peak_memory_bytes())
