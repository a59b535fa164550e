"""One evaluation by itself: the rows of a source, a model as it was found, and the report of that."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from smidgen.config import Prices
from smidgen.data.row_files import source_name
from smidgen.data.types import Sample, Sampling
from smidgen.evaluation.report import build_report
from smidgen.evaluation.runner import constraint_of
from smidgen.files import write_json, write_text
from smidgen.inference.constraints import grammar_of
from smidgen.options import EngineOptions
from smidgen.pipeline.evaluating import RESULT, run_evaluation
from smidgen.pipeline.events import Work
from smidgen.pipeline.reporting import evaluation_report
from smidgen.pipeline.sources import all_rows, test_rows
from smidgen.tasks import Task
from smidgen.tasks.task import Row


@dataclass(frozen=True)
class EvaluationRows:
    """The rows that a model is evaluated on.

    Attributes:
        task: knows what rows tell it, such as its labels.
        source: a file, or `world`.
        rows: those that are wanted.
        samples: what is asked.
        rejected: what is wrong with each row that was left out.
    """

    task: Task
    source: str
    rows: Sequence[Row]
    samples: Sequence[Sample]
    rejected: Sequence[str]

    @classmethod
    def read(
        cls,
        task: Task,
        source: str,
        *,
        splits: Sequence[str] = (),
        limit: int | None = None,
        seed: int = 0,
        skip_bad_rows: bool = False,
    ) -> Self:
        """Read rows and make samples of them.

        Raises:
            DataError: the source cannot be read, or a row is bad and bad rows are not skipped.
        """
        rejected: list[str] | None = [] if skip_bad_rows else None
        rows = test_rows(task, source, splits=splits, limit=limit, seed=seed, rejected=rejected)
        # Labels are learnt from every row; what is wrong with bad ones was noted above.
        everything = all_rows(source, rejected=None if rejected is None else [])
        name = source_name(source)
        prepared = task.prepare(everything or rows, source=name)
        samples = prepared.samples(rows, source=name, rejected=rejected)
        return cls(prepared, source, rows, samples, rejected or [])


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
    """Evaluate a model on rows, resuming what is in `folder`, and report on it.

    Args:
        rows: what is asked.
        sampling: how answers are drawn.
        folder: where the records go.
        engine: what answers.
        method: one of the task's; its first if None.
        constrained: whether answers are held to the task's constraint.
        prices: for the cost table.
        keep: whether the evaluation and its page are written to `folder` beside the records.

    Returns:
        The content of its report; the evaluation is `after`.

    Raises:
        ConfigError: the task has no such method, or no constraint.
    """
    if constrained:
        grammar_of(constraint_of(rows.task))  # before a model is loaded for what cannot be kept to
    evaluated = yield from run_evaluation(
        rows.task,
        rows.rows,
        rows.samples,
        sampling,
        folder,
        engine,
        data=rows.source,
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
