"""Typed events of a run.

Stages are generators of events, driven by the caller: a terminal shows them, and `EventLog` appends them to
`events.jsonl` in the run folder, where a web page can follow them.
"""

import time
from collections.abc import Generator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypeVar

from smidgen.runs import Run, now

EVENTS_FILE = "events.jsonl"
STEP_SECONDS = 1.0
"""Minimum interval between step events in the file; `metrics.jsonl` has every training step."""


@dataclass(frozen=True)
class StageEvent:
    """A stage started, was skipped, or finished; `seconds` is its duration."""

    stage: str
    state: Literal["started", "skipped", "finished"]
    seconds: float | None = None


@dataclass(frozen=True)
class StepEvent:
    """Progress of a stage.

    Attributes:
        stage: name of the stage.
        step: steps done so far, including those of an earlier attempt.
        total: number of steps; None if unknown.
        is_new: False for steps that an earlier attempt did.
        tokens: tokens processed since the last step.
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
    """Metrics of a stage by name; their confidence intervals are in the stage's own output."""

    stage: str
    metrics: Mapping[str, float | None]


@dataclass(frozen=True)
class MessageEvent:
    """A sentence for the user who follows the run."""

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
    """Appends timestamped events to the run folder."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._last_step = 0.0

    def write(self, event: Event) -> None:
        """Append one event; skip steps within `STEP_SECONDS` of the previous one, except the final step."""
        if isinstance(event, StepEvent):
            is_last = event.step == event.total
            if not is_last and time.monotonic() - self._last_step < STEP_SECONDS:
                return
            self._last_step = time.monotonic()
        row: dict[str, Any] = {"time": now(), "kind": KINDS[type(event)], **asdict(event)}
        self._run.append_jsonl(EVENTS_FILE, row)


def result_of(work: Work[Result]) -> Result:
    """Run work to its end, ignoring its events, and return its result."""
    while True:
        try:
            next(work)
        except StopIteration as finished:
            return finished.value
