"""Completions from a recording instead of a model: evaluation without weights, or of what others answered."""

import json
from collections.abc import Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from smidgen.data.fields import as_text
from smidgen.data.rows import read_rows
from smidgen.data.types import Completion, Request, Sample, Scored
from smidgen.errors import ConfigError, DataError, SmidgenError, first_few
from smidgen.inference.engine import Event, Stream
from smidgen.inference.inbox import Inbox, Submitted

ORDERS = ("ab", "ba", "a", "b")
FIELDS = {"id": ((str, int), "text or a whole number"), "order": (str, "text"), "text": (str, "text")}


class ReplayEngine:
    """An `Engine` that answers from a JSONL file of rows `{"id", "order"?, "text"}`.

    A row answers the sample of its id; a judge's samples are named `id#order`, so its rows say which `order`
    they answer: `ab` or `ba`, or which answer they grade: `a` or `b`. Sampling is
    ignored, and nothing is known of tokens or time.
    """

    def __init__(self, path: Path):
        """Read the whole recording.

        Raises:
            DataError: the file cannot be read, or rows are no completions, or two answer the same sample.
        """
        self._path = path
        self._texts = _read(path)

    def complete(self, requests: Iterable[Request]) -> Iterator[tuple[Request, Completion]]:
        """Answer requests in their order; all of them, or none if an answer is missing.

        Raises:
            ConfigError: an answer is to keep to a constraint, or to be given with an adapter.
            DataError: the recording has no answer to some samples.
        """
        requests = list(requests)
        for request in requests:
            _refuse_settings(request)
        missing = [r.sample.id for r in requests if r.sample.id not in self._texts]
        if missing:
            raise DataError(
                f"{self._path} has no completion of {first_few(missing, ', ')}; "
                f"expected one row for each of the {len(requests)} samples"
            )
        for request in requests:
            yield request, Completion(self._texts[request.sample.id])

    def session(self) -> "ReplaySession":
        """Open a session; every step answers all that has arrived."""
        return ReplaySession(self)

    def unused(self, samples: Sequence[Sample]) -> list[str]:
        """What the recording answers that none of the samples asks."""
        asked = {sample.id for sample in samples}
        return [name for name in self._texts if name not in asked]

    def stream(self, request: Request) -> Stream:
        """Answer one request, in one piece."""

        def pieces() -> Generator[str, None, Completion]:
            ((_, completion),) = self.complete([request])
            yield completion.text
            return completion

        return Stream(pieces())

    def score(
        self, samples: Iterable[Sample], continuations: Sequence[str], *, least_share: float = 0.0
    ) -> Iterator[tuple[Sample, Scored]]:
        """Refuse: a recording holds no probabilities."""
        raise ConfigError("a recording holds no probabilities, so it cannot score continuations; use a model")

    def peak_memory_bytes(self) -> None:
        """Return None: no model ran."""
        return None

    def close(self) -> None:
        """Forget the recording."""
        self._texts = {}


class ReplaySession:
    """A `Session` on a recording."""

    def __init__(self, engine: ReplayEngine):
        """Answer from the recording of `engine`."""
        self._engine = engine
        self._inbox = Inbox()

    def submit(self, request: Request, *, stream: bool = False) -> int:
        """Take a request; see `Session.submit`."""
        return self._inbox.submit(request, stream)

    def step(self, *, timeout: float | None = None) -> list[Event]:
        """Answer all that has arrived; it never waits, so `timeout` changes nothing."""
        return self._inbox.finish([self._answer(one) for one in self._inbox.take()[0]])

    def cancel(self, ticket: int) -> None:
        """Give a request up; see `Session.cancel`."""
        self._inbox.cancel(ticket)

    def close(self) -> None:
        """Give up all requests."""
        self._inbox.close()

    @property
    def pending(self) -> int:
        """How many requests have an event to come."""
        return self._inbox.pending

    @property
    def is_idle(self) -> bool:
        """Whether no request is pending."""
        return self.pending == 0

    @property
    def room(self) -> int:
        """There is always room for one more."""
        return 1

    def _answer(self, one: Submitted) -> Event:
        try:
            ((_, completion),) = self._engine.complete([one.request])
        except SmidgenError as error:
            return one.event(error=error)
        return one.event(piece=completion.text if one.stream else "", completion=completion)


def _refuse_settings(request: Request) -> None:
    if request.constraint is not None:
        raise ConfigError("a recording cannot be held to a constraint; leave it out or use a model")
    if request.adapter is not None:
        raise ConfigError(
            f"a recording answers without weights, so the adapter {request.adapter} does not go with it; "
            "leave it out or use a model"
        )


def _read(path: Path) -> dict[str, str]:
    """Texts by sample id."""
    texts: dict[str, str] = {}
    rows_of: dict[str, int] = {}
    faults: list[str] = []
    for number, given in enumerate(read_rows(path), start=1):
        row = given.filled(["text"])
        text = as_text(row.get("text"), row)
        fault = _fault(row if text is None else {**row, "text": text})
        if fault:
            faults.append(f"row {number} {fault}")
            continue
        key = f"{row['id']}#{row['order']}" if "order" in row else str(row["id"])
        if key in texts:
            faults.append(f"row {number} answers {key} again, after row {rows_of[key]}")
        texts[key], rows_of[key] = text or "", number
    if faults:
        raise DataError(
            f"{path}: {first_few(faults)}. Expected one row of id, text and, if any, order a sample"
        )
    return texts


def _fault(row: dict[str, Any]) -> str:
    """What is wrong with a row, or nothing."""
    for name, (kinds, expected) in FIELDS.items():
        if name in row and (not isinstance(row[name], kinds) or isinstance(row[name], bool)):
            return f"has {name} {json.dumps(row[name], ensure_ascii=False)[:60]}, expected {expected}"
    if "order" in row and row["order"] not in ORDERS:
        return f"has order {json.dumps(row['order'])[:60]}, expected one of {', '.join(ORDERS)}"
    missing = [name for name in ("id", "text") if name not in row]
    return f"has no {' and no '.join(missing)}" if missing else ""
