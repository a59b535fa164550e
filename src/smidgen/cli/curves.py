"""The curves of a training in the terminal: one line of block characters each, below the progress bar."""

import math
from collections.abc import Iterable, Mapping, Sequence

from rich.console import RenderableType
from rich.progress import Progress
from rich.text import Text

BLOCKS = "▁▂▃▄▅▆▇█"
LOSSES = ("loss", "validation")
"""Drawn on one scale, so that their gap shows."""
MOST_POINTS = 4096
LABEL, FIGURES = 11, 34
"""Columns of the name before a curve, and of the figures after it."""


class Curves:
    """The values of a training so far."""

    def __init__(self) -> None:
        self._points: dict[str, list[tuple[int, float]]] = {}
        self._latest: dict[str, float] = {}

    def add(self, step: int, values: Mapping[str, float | None]) -> None:
        """Add the values of a step; only losses, a reward and a metric are drawn."""
        for name in (*LOSSES, "reward", "metric"):
            value = values.get(name)
            if value is None or not math.isfinite(value):
                continue
            points = self._points.setdefault(name, [])
            points.append((step, value))
            if len(points) > MOST_POINTS:
                del points[::2]
        self._latest |= {name: value for name, value in values.items() if value is not None}

    def lines(self, width: int) -> list[str]:
        """Return one line for each curve; none before there is a validation loss or a reward."""
        columns = width - LABEL - FIGURES
        if not {"validation", "reward"} & self._points.keys() or columns < 8:
            return []
        last = max(points[-1][0] for points in self._points.values())
        drawn = {name: _columns(points, last, columns) for name, points in self._points.items()}
        losses = [value for name in LOSSES for value in drawn.get(name, ()) if value is not None]
        scales = {name: (min(losses), max(losses)) for name in LOSSES} | {"metric": (0.0, 1.0)}
        rewards = [value for value in drawn.get("reward", ()) if value is not None]
        scales |= {"reward": (min(rewards), max(rewards))} if rewards else {}
        return [
            f"{name:<{LABEL}}{_blocks(drawn[name], *scales[name])}  {self._figures(name)}" for name in drawn
        ]

    def _figures(self, name: str) -> str:
        """Return the latest figures beside a curve."""
        latest = f"{self._points[name][-1][1]:.4g}"
        if name != "validation":
            return latest
        found = [latest, f"gap {self._latest['gap']:+.2g}" if "gap" in self._latest else ""]
        found += [f"best step {self._latest['best step']:,.0f}"] if "best step" in self._latest else []
        return ", ".join(filter(None, found))


class CurvesProgress(Progress):
    """A progress bar with curves below it."""

    curves: Curves | None = None

    def get_renderables(self) -> Iterable[RenderableType]:
        """Return the bar and, once there are some, the curves."""
        yield from super().get_renderables()
        for line in self.curves.lines(self.console.width) if self.curves else ():
            yield Text(line, no_wrap=True, overflow="crop")


def _columns(points: Sequence[tuple[int, float]], last: int, columns: int) -> list[float | None]:
    """Return the mean of the values in each column; an empty column repeats the one before it."""
    sums, counts = [0.0] * columns, [0] * columns
    for step, value in points:
        column = min(columns - 1, (step - 1) * columns // max(last, 1))
        sums[column], counts[column] = sums[column] + value, counts[column] + 1
    found: list[float | None] = []
    for total, count in zip(sums, counts, strict=True):
        found.append(total / count if count else found[-1] if found else None)
    return found


def _blocks(values: Sequence[float | None], low: float, high: float) -> str:
    """Draw values as blocks; losses that fall far on a logarithmic scale, or the end would be flat."""
    shift = math.log if low > 0 and high > 2 * low else float
    bottom, span = shift(low), (shift(high) - shift(low)) or 1.0
    top = len(BLOCKS) - 1
    return "".join(
        " " if value is None else BLOCKS[min(top, max(0, round((shift(value) - bottom) / span * top)))]
        for value in values
    )
