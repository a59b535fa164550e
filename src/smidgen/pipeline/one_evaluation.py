"""A single evaluation outside of a run: rows, a model, and the report."""

from pathlib import Path
from typing import Any

from smidgen.config import Prices
from smidgen.data.types import Sampling
from smidgen.evaluation.collect import constraint_of
from smidgen.evaluation.report import build_report
from smidgen.files import write_json, write_text
from smidgen.inference.constraints import grammar_of
from smidgen.options import EngineOptions
from smidgen.pipeline.evaluating import RESULT, run_evaluation
from smidgen.pipeline.events import Work
from smidgen.pipeline.reporting import evaluation_report
from smidgen.pipeline.sources import EvaluationRows


def evaluate_rows(
    rows: EvaluationRows,
    sampling: Sampling,
    folder: Path,
    engine: EngineOptions,
    *,
    method: str | None = None,
    constrained: bool = False,
    prices: Prices,
    keep: bool = True,
) -> Work[dict[str, Any]]:
    """Evaluate a model on rows, resuming from the records in `folder`, and build the report.

    Args:
        rows: the rows and their samples.
        sampling: sampling settings.
        folder: folder of the records.
        engine: engine options of the model.
        method: evaluation method of the task; default: its first.
        constrained: whether decoding is constrained by the task's constraint.
        prices: for the cost table.
        keep: whether to write the evaluation and its page to `folder`, next to the records.

    Returns:
        The content of the report; the evaluation is `after`.

    Raises:
        ConfigError: the task has no such method, or no constraint.
    """
    if constrained:
        for constraint in {constraint_of(rows.task, sample) for sample in rows.samples}:
            grammar_of(constraint)  # refuse an unusable constraint before a model is loaded
    evaluated = yield from run_evaluation(
        rows,
        sampling,
        folder,
        engine,
        method=method,
        constrained=constrained,
    )
    result = {**evaluated.result, "rejected_rows": len(rows.rejected)}
    report = evaluation_report(result, rows=len(rows.rows), seed=sampling.seed, prices=prices).to_json()
    report["after"]["cost"] = report["cost"]
    if keep:
        for name, content in evaluated.files.items():
            write_json(folder / name, content)
        write_json(folder / RESULT, report["after"])
        write_text(folder / "report.html", build_report(report))
    return report
