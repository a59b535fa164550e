"""What a command shows: results on stdout, progress and prose on stderr."""

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self, TypeVar

from rich.console import Console
from rich.table import Table
from rich.text import Text

from smidgen.files import jsonable

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

    from smidgen.pipeline.events import Work

Result = TypeVar("Result")

SHOWN_FAULTS = 3


def say(text: str) -> None:
    """Print one line of prose to stderr."""
    print(text, file=sys.stderr, flush=True)


def print_json(value: Any) -> None:
    """Print the one JSON object of a command to stdout."""
    print(json.dumps(jsonable(value), indent=2, ensure_ascii=False))


def print_table(
    rows: Sequence[Sequence[str]], *, headers: Sequence[str] = (), width: int | None = None
) -> None:
    """Print rows as a table without lines to stdout.

    Args:
        rows: cells of every row, all of the same number.
        headers: names of the columns; those after the first then stand to the right, as numbers do. Without
            names the columns are prose.
        width: characters in which it is to fit, its cells folded; the terminal's where None.
    """
    table = Table(box=None, show_header=bool(headers), pad_edge=False, padding=(0, 2))
    for index in range(len(rows[0])):
        name = headers[index] if headers else ""
        table.add_column(name, justify="right" if headers and index else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    Console(width=width).print(table)


def count(number: float) -> str:
    """A count or rate with thousands set apart, and a decimal where that says something: `1,234`, `12.3`."""
    return f"{number:,.0f}" if abs(number) >= 100 or number == int(number) else f"{number:,.1f}"


def figure(value: float | None) -> str:
    """A metric with three decimals, or a dash where there is none."""
    return "–" if value is None else f"{value:.3f}"


def say_cost(cost: Mapping[str, Any] | None) -> None:
    """Say what judgements took and cost, here and elsewhere."""
    if cost is None:
        return
    way = next(iter(cost["ways"].values()))
    number = way["judgements"]
    total = number / 1000
    read, written = number * way["prompt_tokens"], number * way["completion_tokens"]
    say(
        f"{read:,.0f} tokens read, {written:,.0f} written, {way['seconds_per_1000'] * total:.1f} s; "
        f"{way['money_per_1000'] * total:.2g} {cost['currency']} at {cost['machine_per_hour']:g} an hour"
    )
    for api in cost["apis"]:
        say(f"as many tokens from {api['name']}: {api['money_per_1000'] * total:.2g} {cost['currency']}")


def say_rejected(rejected: Sequence[str]) -> None:
    """Say how many rows were left out, and why the first of them were."""
    if rejected:
        say(f"{len(rejected):,} rows left out: {'; '.join(rejected[:SHOWN_FAULTS])}")


def size(num_bytes: float) -> str:
    """A number of bytes in the unit a person would name: `3.4 GB`."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if num_bytes < 1000:
            return f"{num_bytes:.0f} {unit}" if unit == "bytes" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.1f} TB"


def duration(seconds: float) -> str:
    """A stretch of time as a clock shows it: `1:02:03`, `0:09`."""
    hours, rest = divmod(round(seconds), 3600)
    minutes, seconds = divmod(rest, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


class Progress:
    """How far one stage is, on stderr: a bar on a terminal, a plain line now and then anywhere else.

        with Progress("train", total=steps) as progress:
            for result in train(...):
                progress.update(result.step, tokens=result.tokens, loss=result.loss)

    Args:
        stage: what is going on, as `train`.
        total: how many steps there are; None when nobody knows.
        every: seconds between plain lines.
        clock: seconds that only go up.
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
        self._bar: Bar | None = None
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
        """Whether nothing was shown of it yet."""
        return self._step == 0

    def begin_at(self, step: int) -> None:
        """Say that `step` steps were done before, so that rates and what is left count only what is new."""
        self._step = self._first_step = step

    def update(self, step: int, *, tokens: int = 0, **values: float | None) -> None:
        """Say that `step` steps are done.

        Args:
            step: how many are done in all.
            tokens: how many more tokens were seen since the last update.
            values: what else to show, as `loss=…`; None keeps what was shown last.
        """
        self._step, self._tokens = step, self._tokens + tokens
        self._values |= {name: value for name, value in values.items() if value is not None}
        if self._bar:
            self._bar.update(self._task, completed=step, facts=self._facts("  "))
        elif self._clock() - self._last_line >= self._every:
            self._last_line = self._clock()
            left = self._seconds_left()
            self._say(self._facts(", ") + (f", {duration(left)} left" if left else ""))

    def _say(self, rest: str) -> None:
        say(f"{self.stage}: {self._position()}{rest}")

    def _position(self) -> str:
        return f"{self._step:,}" if self.total is None else f"{self._step:,}/{self.total:,}"

    def _facts(self, between: str) -> str:
        """The values and the token rate, each with `between` before it."""
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
    """Do work to its end, showing its events as they come, and return its result.

    Args:
        work: yields events.
        stages: whether stages that begin, end or are skipped are shown.
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
                elif progress.is_unused:
                    progress.begin_at(event.step - 1)
                progress.update(event.step, tokens=event.tokens, **event.values)
                continue
            if not isinstance(event, MessageEvent | StageEvent):
                continue
            progress = _close(progress)
            if isinstance(event, MessageEvent):
                say(event.text if event.text.startswith("warning") else f"{event.stage}: {event.text}")
            elif stages and event.state == "skipped":
                say(f"{event.stage}: done before, skipped")
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
    """End the progress of a stage, if there is one."""
    if progress is not None:
        progress.__exit__(None, None, None)


def _bar() -> "Bar":
    """A bar with the steps, the facts and the time that is left."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[facts]}", markup=False),
        console=Console(stderr=True),
    )
