"""Judge many pairs into a file: every judgement is written at once, so that an interrupted run resumes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from smidgen.data.row_files import source_name
from smidgen.data.rows import read_rows, select_rows
from smidgen.data.types import Record, Sample, Sampling
from smidgen.errors import ConfigError, DataError
from smidgen.evaluation.candidates import repeated
from smidgen.evaluation.collect import collect_records
from smidgen.evaluation.records import read_log, read_records, wall_clock
from smidgen.evaluation.speed import Speed, measure_speed
from smidgen.files import write_jsonl
from smidgen.inference import Engine
from smidgen.options import RowOptions
from smidgen.tasks.judge import JudgeTask
from smidgen.tasks.judge.judgements import read_record
from smidgen.tasks.judge.outcome import Outcome, outcome

Rows = Path | str | Sequence[dict[str, Any]]
"""A file of rows, or the rows themselves."""


@dataclass(frozen=True)
class JudgedPair(Outcome):
    """The aggregated judgements of one pair.

    Attributes:
        id: id of the pair.
    """

    id: str

    def to_json(self) -> dict[str, Any]:
        """The fields as a JSON object."""
        return {"id": self.id, **vars(self)}


@dataclass(frozen=True)
class PairSamples:
    """The samples of the pairs in rows.

    Attributes:
        samples: every pair in both orders, repeated as often as it is sampled.
        rejected: the fault of each row that was skipped.
    """

    samples: Sequence[Sample]
    rejected: Sequence[str]


def sample_pairs(task: JudgeTask, rows: Rows, selection: RowOptions, times: int) -> PairSamples:
    """Make the samples of the pairs in rows, each order `times` times.

    Raises:
        ConfigError: the template grades answers alone.
        DataError: the file is missing, or a row is not a pair; with `skip_bad_rows`, only if none is.
    """
    if task.form.singly:
        raise ConfigError(
            f"the template {task.form.name} grades single answers; use rubric, scores or verdict"
        )
    rejected: list[str] | None = [] if selection.skip_bad_rows else None
    source = source_name(rows) if isinstance(rows, str | Path) else "rows"
    read: Sequence[dict[str, Any]]
    read = read_rows(Path(rows), rejected=rejected) if isinstance(rows, str | Path) else rows
    if not read:
        raise DataError(
            f"{source}: there is no row to judge; expected pairs, such as rows with `prompt`, `a` and `b`"
        )
    selected = select_rows(read, limit=selection.limit, source=source)
    samples = task.samples(selected, source=source, labelled=False, rejected=rejected)
    return PairSamples(repeated(samples, times), tuple(rejected or ()))


def pairs_file(out: Path) -> Path:
    """Return the file of verdicts, one per pair, beside a file of judgements."""
    return out.with_name(f"{out.name.removesuffix('.jsonl')}.pairs.jsonl")


class RowJudgements:
    """An iterator over judgements: first those already in the file, then each new one once it is written.

    Attributes:
        out: the file of judgements. `verdicts` also writes `<out>.pairs.jsonl`, one verdict per pair.
        total: number of judgements when all are done.
        known: number of judgements that were already in the file.
        rejected: the fault of each row that was skipped.
        labelled: whether at least one row has a label.
        records: the judgements so far.
    """

    def __init__(
        self,
        task: JudgeTask,
        pairs: PairSamples,
        engine: Engine,
        sampling: Sampling,
        out: Path,
        *,
        identity: str,
    ):
        """Judge with an open engine; `identity` is its fingerprint."""
        self.out, self.rejected, self.total = out, pairs.rejected, len(pairs.samples)
        self.labelled = any(sample.metadata["label"] for sample in pairs.samples)
        self.known = len(read_records(out)) if out.exists() else 0
        self.records: list[Record] = []
        self._task, self._engine = task, engine
        self._pairs = dict.fromkeys(sample.metadata["pair"] for sample in pairs.samples)
        self._pending = collect_records(task, pairs.samples, engine, sampling, out, model=identity)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Record:
        record = next(self._pending)
        self.records.append(record)
        return record

    def verdicts(self) -> list[JudgedPair]:
        """Finish all judgements, then return one verdict per pair, in the order of the rows."""
        for _ in self:
            pass
        verdicts = list(self._verdicts())
        write_jsonl(pairs_file(self.out), [found.to_json() for found in verdicts])
        return verdicts

    def _verdicts(self) -> Iterator[JudgedPair]:
        by_pair: dict[str, list[Any]] = {pair: [] for pair in self._pairs}
        for record in self.records:
            facts = record.sample.metadata
            by_pair[facts["pair"]].append((facts["order"], read_record(self._task.form.parse, record)))
        for pair, verdicts in by_pair.items():
            yield JudgedPair(**vars(outcome(verdicts)), id=pair)

    def speed(self) -> Speed:
        """Measure the speed of the judgements over all sessions that contributed to the file."""
        timings = [record.completion.timing for record in self.records]
        seconds = wall_clock(read_log(self.out))
        return measure_speed(timings, seconds, peak_memory_bytes=self.peak_memory_bytes())

    def peak_memory_bytes(self) -> int | None:
        """Peak memory use of the device, if the engine runs on it."""
        return self._engine.peak_memory_bytes()
