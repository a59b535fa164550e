"""Completions from a recording: evaluation without weights, or of another system's answers."""

import json
import math
from collections.abc import Generator, Iterable, Iterator, Sequence, Set
from pathlib import Path
from typing import Any

from smidgen.data.fields import as_text
from smidgen.data.rows import read_rows
from smidgen.data.types import Completion, Continuations, Request, Sample, Scored
from smidgen.errors import ConfigError, DataError, SmidgenError, first_few
from smidgen.inference.engine import Event, Stream
from smidgen.inference.inbox import InboxSession, Submitted

ORDERS = ("ab", "ba", "a", "b")
FIELDS = {"id": ((str, int), "text or an integer"), "order": (str, "text"), "text": (str, "text")}


class ReplayEngine:
    """An `Engine` that answers from a file of rows `{"id", "order"?, "text", "confidence"?}`, or a folder.

    The records of an evaluation are such rows; its folder also has those of attacked samples.

    A row answers the sample with its id. A judge's samples have ids `id#order`, so their rows have the
    `order` of the answers, `ab` or `ba`, or the answer that is graded alone, `a` or `b`. Sampling settings
    are ignored, and completions have no tokens or timings; a `confidence` is their only log-probability.
    """

    def __init__(self, path: Path):
        """Read the recording.

        Raises:
            DataError: the file cannot be read, a row is invalid, or two rows answer the same sample.
        """
        self._path = path
        self._answers = _read(path)

    def complete(self, requests: Iterable[Request]) -> Iterator[tuple[Request, Completion]]:
        """Complete requests in order; none of them if an answer is missing.

        Raises:
            ConfigError: a request has a constraint or an adapter.
            DataError: the recording has no answer for some samples.
        """
        requests = list(requests)
        self.check(requests)
        for request in requests:
            yield request, self._answers[request.sample.id]

    def check(self, requests: Sequence[Request]) -> None:
        """Refuse requests that cannot all be completed; raises as `complete`."""
        for request in requests:
            _refuse_settings(request)
        missing = [r.sample.id for r in requests if r.sample.id not in self._answers]
        if missing:
            raise DataError(
                f"{self._path} has no completion for {first_few(missing, ', ')}; "
                f"expected one row for each of the {len(requests)} samples"
            )

    def session(self) -> "ReplaySession":
        """Open a session; every step answers all submitted requests."""
        return ReplaySession(self)

    @property
    def ids(self) -> Set[str]:
        """The ids of the samples that it answers."""
        return self._answers.keys()

    def unused(self, samples: Sequence[Sample]) -> list[str]:
        """Return the ids in the recording that belong to none of the samples."""
        ids = {sample.id for sample in samples}
        return [name for name in self._answers if name not in ids]

    def stream(self, request: Request) -> Stream:
        """Complete one request, in one piece."""

        def pieces() -> Generator[str, None, Completion]:
            ((_, completion),) = self.complete([request])
            yield completion.text
            return completion

        return Stream(pieces())

    def score(
        self, samples: Iterable[Sample], continuations: Continuations, *, least_share: float = 0.0
    ) -> Iterator[tuple[Sample, Scored]]:
        """Refuse: a recording has no log-probabilities."""
        raise ConfigError("a recording does not support log-probability scoring; use a model")

    def peak_memory_bytes(self) -> None:
        """Return None: no model ran."""
        return None

    def close(self) -> None:
        """Discard the recording."""
        self._answers = {}


class ReplaySession(InboxSession):
    """A `Session` on a recording."""

    def __init__(self, engine: ReplayEngine):
        """Answer from the recording of `engine`."""
        super().__init__()
        self._engine = engine

    def step(self, *, timeout: float | None = None) -> list[Event]:
        """Answer all submitted requests; it never waits, so `timeout` has no effect."""
        return self._inbox.finish([self._answer(one) for one in self._inbox.take()[0]])

    def close(self) -> None:
        """Cancel all requests."""
        self._inbox.close()

    @property
    def room(self) -> int:
        """Always 1: every step answers everything."""
        return 1

    def _answer(self, one: Submitted) -> Event:
        try:
            ((_, completion),) = self._engine.complete([one.request])
        except SmidgenError as error:
            return one.event(error=error)
        return one.event(piece=completion.text if one.stream else "", completion=completion)


def _refuse_settings(request: Request) -> None:
    if request.constraint is not None:
        raise ConfigError("a recording does not support constraints; leave the constraint out or use a model")
    if request.adapter is not None:
        raise ConfigError(
            f"a recording has no weights, so the adapter {request.adapter} does not apply to it; "
            "leave it out or use a model"
        )


def _read(path: Path) -> dict[str, Completion]:
    """Read the completions by sample id."""
    answers: dict[str, Completion] = {}
    rows_of: dict[str, str] = {}
    faults: list[str] = []
    files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
    if not files:
        raise DataError(f"the folder {path} has no recording; expected a .jsonl file, or a folder with some")
    for file in files:
        place = f"{file.name}: " if path.is_dir() else ""
        for number, given in enumerate(read_rows(file), start=1):
            row = given.filled(["text"])
            text = as_text(row.get("text"), row)
            if fault := _fault(row if text is None else {**row, "text": text}):
                faults.append(f"{place}row {number} {fault}")
                continue
            key = f"{row['id']}#{row['order']}" if "order" in row else str(row["id"])
            if key in answers:
                faults.append(f"{place}row {number} answers {key} again, after {rows_of[key]}")
            confidence = row.get("confidence")
            logprobs = () if confidence is None else (math.log(confidence) if confidence else -math.inf,)
            answers[key], rows_of[key] = Completion(text or "", logprobs=logprobs), f"{place}row {number}"
    if faults:
        raise DataError(
            f"{path}: {first_few(faults)}. Expected one row per sample with id, text and, for pairs, order"
        )
    return answers


def _fault(row: dict[str, Any]) -> str:
    """Return what is wrong with a row; empty if it is valid."""
    for name, (kinds, expected) in FIELDS.items():
        if name in row and (not isinstance(row[name], kinds) or isinstance(row[name], bool)):
            return f"has {name} {json.dumps(row[name], ensure_ascii=False)[:60]}, expected {expected}"
    if "order" in row and row["order"] not in ORDERS:
        return f"has order {json.dumps(row['order'])[:60]}, expected one of {', '.join(ORDERS)}"
    confidence = row.get("confidence", 1)
    is_number = isinstance(confidence, int | float | None) and not isinstance(confidence, bool)
    if not is_number or not 0 <= (confidence or 0) <= 1:
        return f"has confidence {json.dumps(confidence)[:60]}, expected a number between 0 and 1"
    missing = [name for name in ("id", "text") if name not in row]
    return f"has no {' and no '.join(missing)}" if missing else ""
