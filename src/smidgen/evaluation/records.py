"""records.jsonl: every answer of an evaluation, one JSON object a line, written as it is given.

A row holds the sample, the text, the score and the timing, and needs nothing else to be read: a recording can be
replayed by its `id` and `text`. Its fingerprint ties it to what was asked and of whom, so that a run never goes on
with another run's answers.
"""

import hashlib
import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from smidgen.data.types import Completion, Message, Record, Sample, Sampling, Score, Timing
from smidgen.errors import DataError, WorkError


@dataclass(frozen=True)
class LoggedRecord:
    """A record as it stands in the file.

    Attributes:
        record: without token ids and log-probabilities, which are not kept.
        fingerprint: of what was asked and of whom; see `fingerprint`.
        session: 0 for the first run that wrote to the file, one more each time it was resumed.
        elapsed: seconds from the start of the session to the end of this completion.
    """

    record: Record
    fingerprint: str
    session: int
    elapsed: float


def fingerprint(sample: Sample, *, task: str, model: str, sampling: Sampling) -> str:
    """Sixteen hex digits of everything that decides an answer: task, model, sampling, id and messages."""
    asked = [task, model, asdict(sampling), sample.id, [asdict(message) for message in sample.messages]]
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:16]


def read_records(path: Path) -> list[Record]:
    """The records of a finished or interrupted evaluation, in the order in which they were finished.

    Raises:
        DataError: the file is missing or is not a records file.
    """
    return [logged.record for logged in read_log(path)]


def read_log(path: Path) -> list[LoggedRecord]:
    """As `read_records`, with what is logged beside each record; a torn last line is left out."""
    try:
        whole, _ = _split_torn(path.read_bytes())
    except FileNotFoundError:
        raise DataError(f"there are no records at {path}; run the evaluation first") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from None
    return [
        _logged(line, f"{path}: line {number}") for number, line in enumerate(whole.splitlines(), start=1)
    ]


class RecordLog:
    """A records file that is open for appending; use it as a context manager.

    Opening it drops a torn last line. Every row reaches the operating system before `append` returns, so a killed run
    loses only what was not finished.

    Args:
        path: the file; it and its folder are made if they are not there.
        expected: the fingerprint of every sample that may stand in it, by id.

    Raises:
        DataError: the file holds a row of another evaluation.
    """

    def __init__(self, path: Path, expected: Mapping[str, str]) -> None:
        self.path = path
        self.expected = expected
        self.logged = _resume(path, expected)
        self.session = 1 + max((logged.session for logged in self.logged), default=-1)
        self._started = time.perf_counter()

    def __enter__(self) -> Self:
        self._file = self.path.open("ab")
        self._started = time.perf_counter()
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()

    def append(self, record: Record) -> None:
        """Write one record.

        Raises:
            WorkError: the disk did not take it.
        """
        row = _row(record) | {
            "fingerprint": self.expected[record.sample.id],
            "session": self.session,
            "elapsed": round(time.perf_counter() - self._started, 6),
        }
        try:
            self._file.write(json.dumps(row, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n")
            self._file.flush()
        except OSError as error:
            raise WorkError(
                f"{self.path} could not be written: {error}; what it holds is kept, run again"
            ) from error
