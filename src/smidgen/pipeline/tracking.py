"""Sending the figures of a run to the trackers of its recipe.

What is sent is read from the run folder, so a tracker that was away, or is new, gets what it lacks. How far
each one is stands in `tracking.json`. The steps after a checkpoint run again when a killed run resumes, with
the same figures, so those that were sent are not sent again.
"""

import json
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from smidgen.config import AnyRecipe, TrackConfig, TrackerName
from smidgen.files import read_json
from smidgen.pipeline.events import Event, MessageEvent, StageEvent, StepEvent
from smidgen.runs import Run
from smidgen.tracking.tracked import Logged, TrackedRun, Tracker
from smidgen.tracking.tracker import TRACKERS, check_trackers, evaluation_values, step_values

STATE = "tracking.json"
TRAINING = "train"
"""The stage whose steps are tracked."""
SEND_SECONDS = 1.0
"""Minimum interval between what is sent."""


class Tracking:
    """The trackers of one run; without `[track]` in the recipe it does nothing.

    A tracker that fails is left alone until the run is started again, and the run goes on.
    """

    def __init__(self, recipe: AnyRecipe, run: Run) -> None:
        self._recipe, self._run = recipe, run
        self._settings = recipe.track or TrackConfig.model_construct(to=())
        self._open: dict[TrackerName, Tracker] = {}
        self._is_begun = False
        self._sent_at = 0.0
        self._offset = 0
        self._summary: dict[str, float] = {}
        check_trackers(self._settings.to)

    def follow(self, event: Event) -> Iterator[MessageEvent]:
        """Send what an event of the run means, and yield a warning for each tracker that fails."""
        if not self._settings.to:
            return
        if isinstance(event, StepEvent) and event.stage == TRAINING:
            if time.monotonic() - self._sent_at >= SEND_SECONDS:
                yield from self._send_steps()
        elif isinstance(event, StageEvent) and event.stage == TRAINING:
            yield from self._begin()
            if event.state != "started":
                yield from self._send_steps()
        elif isinstance(event, StageEvent) and event.state != "started":
            yield from self._send_evaluation(event.stage)

    def close(self) -> None:
        """End the runs of the trackers."""
        for tracker in self._open.values():
            with suppress(Exception):  # what it lacks is sent when the run is started again
                tracker.close()
        self._open = {}

    def _begin(self) -> Iterator[MessageEvent]:
        """Open the trackers once the training stage is about to work, which may have dropped their state."""
        if self._is_begun:
            return
        self._is_begun = True
        for name in self._settings.to:
            known = self._state().get(name, {})
            run = TrackedRun(
                self._recipe.name,
                self._settings.project,
                self._run.folder,
                self._recipe.model_dump(mode="json", exclude_none=True),
                id=known.get("run"),
                step=known.get("step", 0),
            )
            try:
                self._open[name] = TRACKERS[name](run)
            except Exception as error:
                yield _warning(name, error)
        self._note()
        yield from self._each(lambda tracker: tracker.summarise(self._summary) if self._summary else None)

    def _send_steps(self) -> Iterator[MessageEvent]:
        """Send the steps that were logged since the last time."""
        self._sent_at = time.monotonic()
        rows = [Logged(row["step"], step_values(row)) for row in self._new_rows()]
        if rows:
            yield from self._each(
                lambda tracker: tracker.log([row for row in rows if row.step > tracker.step])
            )
            self._note()

    def _send_evaluation(self, stage: str) -> Iterator[MessageEvent]:
        path = self._run.path(f"evaluations/{stage}/evaluation.json")
        if not path.exists() or "metrics" not in (found := read_json(path)):
            return
        values = evaluation_values(found, f"{stage}/")
        self._summary |= values
        yield from self._each(lambda tracker: tracker.summarise(values))

    def _each(self, work: Any) -> Iterator[MessageEvent]:
        """Let every tracker do something; one that fails is dropped."""
        for name, tracker in list(self._open.items()):
            try:
                work(tracker)
            except Exception as error:  # each tracker raises its own classes of errors
                del self._open[name]
                yield _warning(name, error)

    def _new_rows(self) -> list[dict[str, Any]]:
        """Return the complete lines of `metrics.jsonl` that were not read yet."""
        path = self._run.path("metrics.jsonl")
        if not path.exists():
            return []
        with path.open("rb") as file:
            file.seek(self._offset)
            whole, newline, _ = file.read().rpartition(b"\n")
        self._offset += len(whole) + len(newline)
        return [json.loads(line) for line in whole.split(b"\n") if line]

    def _state(self) -> dict[str, Any]:
        path = self._run.path(STATE)
        return read_json(path) if path.exists() else {}

    def _note(self) -> None:
        """Write down how far each tracker is."""
        now = {name: {"run": tracker.id, "step": tracker.step} for name, tracker in self._open.items()}
        self._run.write_json(STATE, self._state() | now)


def _warning(name: str, error: Exception) -> MessageEvent:
    reason = " ".join(f"{type(error).__name__}: {error}".split())
    return MessageEvent(
        TRAINING,
        f"warning: {name} failed and gets nothing more of this run ({reason}); the run goes on, and the same "
        "command sends what is missing",
    )
