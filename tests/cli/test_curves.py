"""The curves below a progress bar: one line each, on one scale."""

import io
import math

from rich.console import Console

from smidgen.cli.curves import BLOCKS, MOST_POINTS, Curves, CurvesProgress


def curves_of(steps: int = 100) -> Curves:
    curves = Curves()
    for step in range(1, steps + 1):
        values: dict[str, float | None] = {"loss": 1.0 / step}
        if step % 10 == 0:
            values |= {"validation": 1.0 / step + 0.1, "gap": 0.1, "best step": step, "metric": step / steps}
        curves.add(step, values)
    return curves


def test_losses_share_a_scale_and_a_metric_has_its_own():
    loss, validation, metric = curves_of().lines(85)
    assert loss.startswith("loss       █") and loss.endswith("▁  0.01")
    assert validation.endswith("0.11, gap +0.1, best step 100")
    drawn = validation[11:51]
    assert drawn[:3] == "   " and drawn[-1] != "▁", "nothing before the first validation, and never below it"
    assert metric[11:51].strip() == "".join(sorted(metric[11:51].strip())) and metric.endswith("█  1")
    assert {*loss[11:51]} <= {*BLOCKS}


def test_there_are_no_curves_before_a_validation_or_without_room():
    assert curves_of(9).lines(100) == [] and curves_of().lines(50) == []
    other = Curves()
    other.add(1, {"right": 0.5, "loss": math.nan, "validation": None})
    assert other.lines(100) == []


def test_a_long_training_is_drawn_from_fewer_points():
    curves = curves_of(20_000)
    loss, validation, _ = curves.lines(85)
    assert len(curves._points["loss"]) <= MOST_POINTS
    assert loss[11] > loss[50] == "▁" and validation.endswith("best step 20,000")


def test_the_bar_shows_them():
    console = Console(width=85, record=True, force_terminal=True, file=io.StringIO())
    with CurvesProgress(console=console) as bar:
        bar.curves = curves_of()
        bar.add_task("train", total=100)
        bar.refresh()
    assert "best step 100" in console.export_text()
