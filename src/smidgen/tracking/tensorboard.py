"""TensorBoard: event files in the folder `tensorboard` of the run; nothing needs TensorFlow."""

import time
from collections.abc import Mapping, Sequence
from importlib import import_module

from smidgen.tracking.tracked import Logged, TrackedRun

FOLDER = "tensorboard"


class TensorBoard:
    """The event files of one run. They are flushed after every call, so a killed process loses nothing."""

    def __init__(self, run: TrackedRun) -> None:
        writer = import_module("tensorboard.summary.writer.event_file_writer")
        self._event = import_module("tensorboard.compat.proto.event_pb2").Event
        self._summary = import_module("tensorboard.compat.proto.summary_pb2").Summary
        folder = run.folder / FOLDER
        self.id, self.step = FOLDER, _last_step(str(folder)) if folder.exists() else 0
        self._writer = writer.EventFileWriter(str(folder))

    def log(self, rows: Sequence[Logged]) -> None:
        """Write the figures of further steps."""
        for row in rows:
            self._write(row.step, row.values)
            self.step = row.step
        self._writer.flush()

    def summarise(self, values: Mapping[str, float]) -> None:
        """Write figures of the whole run as points of its last step."""
        self._write(self.step, values)
        self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        self._writer.close()

    def _write(self, step: int, values: Mapping[str, float]) -> None:
        named = [self._summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        event = self._event(step=step, wall_time=time.time(), summary=self._summary(value=named))
        self._writer.add_event(event)


def _last_step(folder: str) -> int:
    """Return the last step in the event files of a folder; 0 if they have none."""
    reading = import_module("tensorboard.backend.event_processing.event_accumulator")
    events = reading.EventAccumulator(folder, size_guidance={"scalars": 1})  # the last of each is kept
    events.Reload()
    return max((point.step for tag in events.Tags()["scalars"] for point in events.Scalars(tag)), default=0)
