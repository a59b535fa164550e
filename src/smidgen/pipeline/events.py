"""What happens during a run, as typed events.

Stages are generators of events and the caller drives them: a terminal shows them, `EventLog` appends them to
`events.jsonl` in the run folder, where a web page can follow them, and a test counts them.
"""

import time
from collections.abc import Generator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypeVar

from smidgen.runs import Run, now

EVENTS_FILE = "events.jsonl"
STEP_SECONDS = 1.0
"""Steps that follow each other faster are left out of the file; the metrics of every one are elsewhere."""


@dataclass(frozen=True)
class StageEvent:
    """A stage began, was found done, or finished after so many seconds."""

    stage: str
    state: Literal["started", "skipped", "finished"]
    seconds: float | None = None


@dataclass(frozen=True)
class StepEvent:
    """How far a stage is.

    Attributes:
        stage: what is going on.
        step: steps done in all, those of an earlier attempt included.
        total: how many there are; None if unknown.
        is_new: False for steps that an earlier attempt did.
        tokens: tokens seen since the last step.
        values: other figures, such as `loss`.
    """

    stage: str
    step: int
    total: int | None = None
    is_new: bool = True
    tokens: int = 0
    values: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class MetricEvent:
    """What a stage measured, by name; an interval where there is one is in the stage's own output."""

    stage: str
    metrics: Mapping[str, float | None]


@dataclass(frozen=True)
class MessageEvent:
    """A sentence for whoever follows the run."""

    stage: str
    text: str


Event = StageEvent | StepEvent | MetricEvent | MessageEvent
KINDS: Mapping[type, str] = {
    StageEvent: "stage", StepEvent: "step", MetricEvent: "metric", MessageEvent: "message",
}  # fmt: skip

Result = TypeVar("Result")
Work = Generator[Event, None, Result]
"""Work that yields events and returns a result."""


class EventLog:
    """Appends events to the run folder, with the time of each."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._last_step = 0.0

    def write(self, event: Event) -> None:
        """Append one event; a step that follows the last one within `STEP_SECONDS` is left out."""
        if isinstance(event, StepEvent):
            is_last = event.step == event.total
            if not is_last and time.monotonic() - self._last_step < STEP_SECONDS:
                return
            self._last_step = time.monotonic()
        row: dict[str, Any] = {"time": now(), "kind": KINDS[type(event)], **asdict(event)}
        self._run.append_jsonl(EVENTS_FILE, row)


def result_of(work: Work[Result]) -> Result:
    """Do work to its end without looking at its events, and return its result."""
    while True:
        try:
            next(work)
        except StopIteration as finished:
            return finished.value
