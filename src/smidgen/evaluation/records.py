"""records.jsonl: every answer of an evaluation, one JSON object a line, written as it is given.

A row holds the sample, the text, the score and the timing, and needs nothing else to be read: a recording can
be replayed by its `id` and `text`. Its fingerprint ties it to what was asked and of whom, so that a run never
goes on with another run's answers.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from smidgen.data.types import Completion, Constraint, Message, Record, Sample, Sampling, Score, Timing
from smidgen.errors import DataError
from smidgen.files import read_jsonl, sha256_json


@dataclass(frozen=True)
class LoggedRecord:
    """A record as it stands in the file.

    Attributes:
        record: without token ids and log-probabilities, which are not kept.
        fingerprint: of what was asked and of whom; see `fingerprint`.
        session: 0 for the first run that wrote to the file, one more each time it was resumed.
        elapsed: seconds from the start of the session to the end of this completion.
        is_new: whether it was just collected, and not read from the file.
    """

    record: Record
    fingerprint: str
    session: int
    elapsed: float
    is_new: bool = False

    def to_json(self) -> dict[str, Any]:
        """The row of the file."""
        sample, completion, score = self.record.sample, self.record.completion, self.record.score
        timing = completion.timing
        return {
            "id": sample.id,
            "messages": [asdict(message) for message in sample.messages],
            "target": sample.target,
            "metadata": dict(sample.metadata),
            "text": completion.text,
            "finish_reason": completion.finish_reason,
            "token_count": timing.completion_tokens if timing else len(completion.token_ids),
            "timing": asdict(timing) if timing else None,
            "score": score.value,
            "answer": score.answer,
            "parsed": score.parsed,
            "explanation": score.explanation,
            "fingerprint": self.fingerprint,
            "session": self.session,
            "elapsed": self.elapsed,
        }


def fingerprint(
    sample: Sample, *, task: str, model: str, sampling: Sampling, constraint: Constraint | None = None
) -> str:
    """Sixteen hex digits of everything that decides an answer and what it is worth, the label included."""
    facts = [sample.id, sample.messages, sample.target, sample.metadata]
    return sha256_json([task, model, sampling, constraint, *facts])[:16]


def read_records(path: Path) -> list[Record]:
    """The records of a finished or interrupted evaluation, in the order in which they were finished.

    Raises:
        DataError: the file is missing or is not a records file.
    """
    return [logged.record for logged in read_log(path)]


def read_log(path: Path) -> list[LoggedRecord]:
    """As `read_records`, with what is logged beside each record."""
    if not path.exists():
        raise DataError(f"there are no records at {path}; run the evaluation first")
    return [_logged(row, f"{path}: row {number}") for number, row in enumerate(read_jsonl(path), start=1)]


def wall_clock(log: Sequence[LoggedRecord]) -> float:
    """Seconds of all sessions together: each lasted until its last record."""
    sessions: dict[int, float] = {}
    for logged in log:
        sessions[logged.session] = max(sessions.get(logged.session, 0.0), logged.elapsed)
    return sum(sessions.values())


def resume_log(path: Path, expected: Mapping[str, str]) -> list[LoggedRecord]:
    """What an earlier run left in the file; nothing if there is none.

    Args:
        path: the records file.
        expected: the fingerprint of every sample that may stand in it, by id.

    Raises:
        DataError: the file holds a row of another evaluation.
    """
    found = read_log(path) if path.exists() else []
    if strange := _strange(found, expected):
        raise DataError(
            f"{path} holds the records of another evaluation ({strange}); "
            "give another place as --out, delete the file to start again, or score its answers as they are "
            f"with --engine replay --model {path}"
        )
    return found


def _strange(found: Iterable[LoggedRecord], expected: Mapping[str, str]) -> str:
    """What about the first row that does not belong is wrong, or nothing."""
    seen: set[str] = set()
    for logged in found:
        sample_id = logged.record.sample.id
        if sample_id not in expected:
            return f"'{sample_id}' is not among these samples: --limit, --seed or the data differ"
        if logged.fingerprint != expected[sample_id]:
            differs = "messages, labels, sampling, constraint, model or task version"
            counts = "another engine, adapter or --kv-bits counts as another model"
            return f"'{sample_id}' was asked with other {differs}: {counts}"
        if sample_id in seen:
            return f"'{sample_id}' stands in it twice"
        seen.add(sample_id)
    return ""


def _logged(row: Mapping[str, Any], where: str) -> LoggedRecord:
    """Read one row; `where` names it in errors."""
    try:
        messages = tuple(Message(**message) for message in row["messages"])
        timing = Timing(**row["timing"]) if row["timing"] else None
        record = Record(
            Sample(row["id"], messages, row["target"], row["metadata"]),
            Completion(row["text"], finish_reason=row["finish_reason"], timing=timing),
            Score(row["score"], row["answer"], row["parsed"], row["explanation"]),
        )
        return LoggedRecord(record, row["fingerprint"], row["session"], row["elapsed"])
    except (TypeError, KeyError) as error:
        raise DataError(
            f"{where} is not a record ({type(error).__name__}: {error}); "
            "expected a row that an evaluation wrote"
        ) from None
