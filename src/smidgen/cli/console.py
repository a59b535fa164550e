"""Terminal output: results on stdout, progress and messages on stderr."""

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self, TypeVar

from rich.console import Console
from rich.table import Table
from rich.text import Text

from smidgen.errors import counted
from smidgen.files import jsonable

if TYPE_CHECKING:
    from smidgen.cli.curves import CurvesProgress
    from smidgen.pipeline.events import Work

Result = TypeVar("Result")

SHOWN_FAULTS = 3


def say(text: str) -> None:
    """Print a message to stderr."""
    print(text, file=sys.stderr, flush=True)


def print_json(value: Any, *, on_one_line: bool = False) -> None:
    """Print a result as one JSON object to stdout; lone surrogates, not in UTF-8, are escaped.

    Args:
        value: the result.
        on_one_line: whether it is one of several, each on a line and shown at once.
    """
    text = json.dumps(jsonable(value), indent=None if on_one_line else 2, ensure_ascii=False)
    print(text.encode("utf-8", "backslashreplace").decode("utf-8"), flush=on_one_line)


def print_table(
    rows: Sequence[Sequence[str]],
    *,
    headers: Sequence[str] = (),
    width: int | None = None,
    is_text: bool = False,
) -> None:
    """Print rows as a borderless table to stdout.

    Args:
        rows: the cells of each row, all rows of equal length.
        headers: names of the columns. If given, columns after the first are right-aligned, as for numbers,
            unless they hold texts (`is_text`).
        width: width of the table in characters, cells wrapped to fit; that of the terminal if None.
        is_text: whether the columns after the first hold texts.
    """
    table = Table(box=None, show_header=bool(headers), pad_edge=False, padding=(0, 2))
    for index in range(len(rows[0])):
        name = headers[index] if headers else ""
        table.add_column(
            name, justify="right" if headers and index and not is_text else "left", overflow="fold"
        )
    for row in rows:
        # as Text, since rich would interpret brackets in a string as markup
        table.add_row(*(Text(cell) for cell in row))
    Console(width=width).print(table)


def count(number: float) -> str:
    """Format a count or rate, with one decimal if small: `1,234`, `12.3`."""
    return f"{number:,.0f}" if abs(number) >= 100 or number == int(number) else f"{number:,.1f}"


def figure(value: float | None) -> str:
    """Format a metric with three decimals; a dash if None."""
    return "–" if value is None else f"{value:.3f}"


def say_cost(cost: Mapping[str, Any] | None) -> None:
    """Print the tokens, time and cost of judgements on this machine and from APIs."""
    if cost is None:
        return
    way = next(iter(cost["ways"].values()))
    number = way["judgements"]
    total = number / 1000
    read, written = number * way["prompt_tokens"], number * way["completion_tokens"]
    say(
        f"{read:,.0f} prompt tokens, {written:,.0f} generated, {way['seconds_per_1000'] * total:.1f} s; "
        f"{way['money_per_1000'] * total:.2g} {cost['currency']} at {cost['machine_per_hour']:g} per hour"
    )
    for api in cost["apis"]:
        say(f"the same tokens from {api['name']}: {api['money_per_1000'] * total:.2g} {cost['currency']}")


def say_rejected(rejected: Sequence[str]) -> None:
    """Print how many rows were skipped, and the reasons for the first of them."""
    if rejected:
        say(f"{counted(len(rejected), 'row')} skipped: {'; '.join(rejected[:SHOWN_FAULTS])}")


def size(num_bytes: float) -> str:
    """Format a number of bytes in a readable unit: `3.4 GB`."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if num_bytes < 1000:
            return f"{num_bytes:.0f} {unit}" if unit == "bytes" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.1f} TB"


HOUR, DAY, YEAR = 3600, 86_400, 31_557_600
"""Seconds."""


def duration(seconds: float) -> str:
    """Format a duration as hours, minutes and seconds: `1:02:03`, `0:09`; long ones as days or years."""
    if seconds >= 100 * YEAR:
        return f"{seconds / YEAR:,.0f} years"
    if seconds >= 100 * HOUR:
        return f"{seconds / DAY:,.1f} days"
    hours, rest = divmod(round(seconds), 3600)
    minutes, seconds = divmod(rest, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


class Progress:
    """The progress of one stage on stderr: a bar on a terminal, otherwise a plain line at intervals.

        with Progress("train", total=steps) as progress:
            for result in train(...):
                progress.update(result.step, tokens=result.tokens, loss=result.loss)

    Args:
        stage: name of the stage, such as `train`.
        total: number of steps; None if unknown.
        every: seconds between plain lines.
        clock: a monotonic clock in seconds.
    """

    def __init__(
        self,
        stage: str,
        total: int | None,
        *,
        every: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.stage, self.total, self._every, self._clock = stage, total, every, clock
        self._bar: CurvesProgress | None = None
        self._step = self._first_step = self._tokens = 0
        self._values: dict[str, float] = {}

    def __enter__(self) -> Self:
        self._started = self._last_line = self._clock()
        if sys.stderr.isatty():
            self._bar = _bar()
            self._task = self._bar.add_task(self.stage, total=self.total, facts="")
            self._bar.start()
        return self

    def __exit__(self, *failure: object) -> None:
        if self._bar:
            self._bar.stop()
        elif failure[0] is None and self._step:
            self._say(f" in {duration(self._clock() - self._started)}{self._facts(', ')}")

    @property
    def is_unused(self) -> bool:
        """Whether there was no update yet."""
        return self._step == 0

    def goes_on(self, stage: str) -> bool:
        """Whether this is the progress of a stage, which has not come to its last step."""
        return self.stage == stage and self._step != self.total

    def begin_at(self, step: int) -> None:
        """Set the number of steps done earlier, so that rates and the time left count only new steps."""
        self._step = self._first_step = step

    def update(self, step: int, *, tokens: int = 0, **values: float | None) -> None:
        """Report progress.

        Args:
            step: total number of steps done.
            tokens: tokens processed since the last update.
            values: other values to show, such as `loss=…`; None keeps the last one.
        """
        self._step, self._tokens = step, self._tokens + tokens
        self._values |= {name: value for name, value in values.items() if value is not None}
        if self._bar:
            assert self._bar.curves is not None
            self._bar.curves.add(step, values)
            self._bar.update(self._task, completed=step, facts=self._facts("  "))
        elif self._clock() - self._last_line >= self._every:
            self._last_line = self._clock()
            left = self._seconds_left()
            self._say(self._facts(", ") + (f", {duration(left)} left" if left else ""))

    def tell(self, sentence: str) -> None:
        """Show a sentence of the stage without ending its progress."""
        if self._bar:
            self._bar.stop()
        say(sentence if sentence.startswith("warning") else f"{self.stage}: {sentence}")
        if self._bar:
            self._bar.start()

    def _say(self, rest: str) -> None:
        say(f"{self.stage}: {self._position()}{rest}")

    def _position(self) -> str:
        return f"{self._step:,}" if self.total is None else f"{self._step:,}/{self.total:,}"

    def _facts(self, between: str) -> str:
        """Format the values and the token rate, each preceded by `between`."""
        facts = [f"{name.replace('_', ' ')} {value:.4g}" for name, value in self._values.items()]
        if self._tokens:
            facts.append(f"{count(self._tokens / max(self._clock() - self._started, 1e-9))} tokens/s")
        return "".join(between + fact for fact in facts)

    def _seconds_left(self) -> float | None:
        done = self._step - self._first_step
        if self.total is None or done <= 0:
            return None
        return (self.total - self._step) * (self._clock() - self._started) / done


def follow(work: "Work[Result]", *, stages: bool = True) -> "Result":
    """Run work to its end, showing its events as they come, and return its result.

    Args:
        work: a generator of events.
        stages: whether to show finished and skipped stages.
    """
    from smidgen.pipeline.events import MessageEvent, StageEvent, StepEvent

    progress: Progress | None = None
    try:
        while True:
            event = next(work)
            if isinstance(event, StepEvent):
                if progress is None or progress.stage != event.stage:
                    _close(progress)
                    progress = Progress(event.stage, event.total).__enter__()
                if not event.is_new:
                    progress.begin_at(event.step)
                elif progress.is_unused:  # a resumed stage begins at a later step than 1
                    progress.begin_at(event.step - 1)
                progress.update(event.step, tokens=event.tokens, **event.values)
                continue
            if not isinstance(event, MessageEvent | StageEvent):
                continue
            if isinstance(event, MessageEvent) and progress is not None and progress.goes_on(event.stage):
                progress.tell(event.text)
                continue
            progress = _close(progress)
            if isinstance(event, MessageEvent):
                say(event.text if event.text.startswith("warning") else f"{event.stage}: {event.text}")
            elif stages and event.state == "skipped":
                say(f"{event.stage}: already done, skipped")
            elif stages and event.state == "finished":
                say(f"{event.stage}: finished in {duration(event.seconds or 0.0)}")
    except StopIteration as finished:
        _close(progress)
        return finished.value
    except BaseException:
        if progress is not None:
            progress.__exit__(*sys.exc_info())
        raise


def _close(progress: Progress | None) -> None:
    """Close the progress of a stage, if there is one."""
    if progress is not None:
        progress.__exit__(None, None, None)


def _bar() -> "CurvesProgress":
    """Return a progress bar with the steps, the values and the time left, and the curves of a training."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

    from smidgen.cli.curves import Curves, CurvesProgress

    bar = CurvesProgress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[facts]}", markup=False),
        console=Console(stderr=True),
    )
    bar.curves = Curves()
    return bar
