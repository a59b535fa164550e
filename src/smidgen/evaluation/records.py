"""records.jsonl: the answers of an evaluation, one JSON object per line, written as they are finished.

A row contains the sample, the generated text, the score and the timing. It is self-contained: a recording can
be replayed by `id` and `text`. Its fingerprint identifies the request and the model, so that a run never
resumes with the answers of another run.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from smidgen.data.types import (
    Completion,
    Constraint,
    Message,
    Passes,
    Record,
    Sample,
    Sampling,
    Score,
    Timing,
)
from smidgen.errors import DataError
from smidgen.files import read_jsonl, sha256_json


@dataclass(frozen=True)
class LoggedRecord:
    """A record as stored in the file.

    Attributes:
        record: the record, without token ids and log-probabilities, which are not stored.
        fingerprint: identifies the request and the model; see `fingerprint`.
        session: 0 for the first run that wrote to the file, incremented each time it is resumed.
        elapsed: seconds from the start of the session to the end of this completion.
        is_new: whether the record was just collected, rather than read from the file.
    """

    record: Record
    fingerprint: str
    session: int
    elapsed: float
    is_new: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return the row of the file."""
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
            **({"passes": asdict(completion.passes)} if completion.passes else {}),
            "score": score.value,
            "answer": score.answer,
            "parsed": score.parsed,
            "explanation": score.explanation,
            **({} if score.confidence is None else {"confidence": score.confidence}),
            "fingerprint": self.fingerprint,
            "session": self.session,
            "elapsed": self.elapsed,
        }


def fingerprint(
    sample: Sample, *, task: str, model: str, sampling: Sampling, constraint: Constraint | None = None
) -> str:
    """Return sixteen hex digits of all that determines an answer and its score, the label included."""
    facts = [sample.id, sample.messages, sample.target, sample.metadata]
    return sha256_json([task, model, sampling, constraint, *facts])[:16]


def read_records(path: Path) -> list[Record]:
    """Read the records of a finished or interrupted evaluation, in order of completion.

    Raises:
        DataError: the file is missing, or is not a records file.
    """
    return [logged.record for logged in read_log(path)]


def read_log(path: Path) -> list[LoggedRecord]:
    """Read the records as `read_records`, with the metadata logged for each."""
    if not path.exists():
        raise DataError(f"records file {path} not found; run the evaluation first")
    return [_logged(row, f"{path}: row {number}") for number, row in enumerate(read_jsonl(path), start=1)]


def wall_clock(log: Sequence[LoggedRecord]) -> float:
    """Return the total seconds of all sessions, each up to its last record."""
    sessions: dict[int, float] = {}
    for logged in log:
        sessions[logged.session] = max(sessions.get(logged.session, 0.0), logged.elapsed)
    return sum(sessions.values())


def resume_log(path: Path, expected: Mapping[str, str]) -> list[LoggedRecord]:
    """Read the records of an earlier run; empty if there is no file.

    Args:
        path: the records file.
        expected: fingerprints of the samples that the file may contain, by id.

    Raises:
        DataError: the file contains a row of another evaluation.
    """
    found = read_log(path) if path.exists() else []
    if mismatch := _mismatch(found, expected):
        raise DataError(
            f"{path} contains the records of another evaluation ({mismatch}); "
            "give another --out, delete the file to start over, or score its answers with "
            f"--engine replay --model {path}"
        )
    return found


def _mismatch(found: Iterable[LoggedRecord], expected: Mapping[str, str]) -> str:
    """Describe the first row of another evaluation; empty if there is none."""
    seen: set[str] = set()
    for logged in found:
        sample_id = logged.record.sample.id
        if sample_id not in expected:
            return f"'{sample_id}' is not one of these samples: --limit, --seed or the data differ"
        if logged.fingerprint != expected[sample_id]:
            differs = "messages, labels, sampling, constraint, model or task version"
            counts = "another engine, adapter, --decode or --kv-bits counts as another model"
            return f"'{sample_id}' was asked with other {differs}: {counts}"
        if sample_id in seen:
            return f"'{sample_id}' occurs twice"
        seen.add(sample_id)
    return ""


def _logged(row: Mapping[str, Any], where: str) -> LoggedRecord:
    """Parse one row; `where` names it in errors."""
    try:
        messages = tuple(Message(**message) for message in row["messages"])
        timing = Timing(**row["timing"]) if row["timing"] else None
        passes = row.get("passes")
        if passes is not None:
            passes = Passes(**passes | {"committed": tuple(passes["committed"])})
        record = Record(
            Sample(row["id"], messages, row["target"], row["metadata"]),
            Completion(row["text"], finish_reason=row["finish_reason"], timing=timing, passes=passes),
            Score(row["score"], row["answer"], row["parsed"], row["explanation"], row.get("confidence")),
        )
        return LoggedRecord(record, row["fingerprint"], row["session"], row["elapsed"])
    except (TypeError, KeyError) as error:
        raise DataError(
            f"{where} is not a record ({type(error).__name__}: {error}); "
            "expected a row written by an evaluation"
        ) from None
