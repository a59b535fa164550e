"""Evaluation of a judge with several samples, of several judges, and of one that abstains."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from smidgen.backend import reset_peak_memory
from smidgen.config import Prices
from smidgen.data.types import Sampling
from smidgen.errors import ConfigError
from smidgen.evaluation import collect_log
from smidgen.evaluation.candidates import refuse_clashing_ids, repeated
from smidgen.evaluation.records import LoggedRecord, read_log
from smidgen.evaluation.report import build_report
from smidgen.files import write_json, write_text
from smidgen.inference import engine_identity, open_engine
from smidgen.options import EngineOptions
from smidgen.pipeline.ensemble_plan import EnsemblePlan, not_calibrated_on
from smidgen.pipeline.ensemble_result import Asked, ensemble_result, saved_ensemble
from smidgen.pipeline.evaluating import RECORDS, RESULT, collected
from smidgen.pipeline.events import MessageEvent, MetricEvent, Work
from smidgen.pipeline.reporting import evaluation_report
from smidgen.pipeline.sources import EvaluationRows
from smidgen.tasks.judge import JudgeTask
from smidgen.tasks.judge.abstention import in_words
from smidgen.tasks.judge.calibrating import Calibrated, calibrate
from smidgen.tasks.judge.combination import Combination
from smidgen.tasks.judge.saved_ensemble import save_ensemble

ENSEMBLE, CALIBRATION = "ensemble.json", "calibration.jsonl"
"""Names of the calibrated ensemble, and of the records of the calibration rows."""


def evaluate_ensemble(
    rows: EvaluationRows,
    calibration_rows: EvaluationRows | None,
    plan: EnsemblePlan,
    sampling: Sampling,
    folder: Path,
    *,
    method: str | None = None,
    prices: Prices,
    keep: bool = True,
) -> Work[dict[str, Any]]:
    """Evaluate an ensemble on rows, resuming from the records in `folder`, and build the report.

    The judges are asked one after the other, so that one model at a time is in memory. Each has a folder of
    records that can be replayed. The ensemble is saved beside them if it was calibrated.

    Args:
        rows: the rows to report on, of the task judge.
        calibration_rows: the rows to calibrate with, of other prompts; None if nothing is calibrated.
        plan: the judges and their combination, checked.
        sampling: sampling settings; the seed is also that of the bootstrap and of the draws.
        folder: folder of the records.
        method: evaluation method of the task; default: its first.
        prices: for the cost table.
        keep: whether to write the evaluation, its page and the ensemble to `folder`.

    Returns:
        The content of the report; the evaluation is `after`.

    Raises:
        ConfigError: the template grades answers alone, or has no such method.
        DataError: the calibration rows do not suffice for the weights, or every row is one of the saved
            ensemble.
    """
    task = rows.task
    assert isinstance(task, JudgeTask)
    method = _check_task(task, method, plan.samples)
    if plan.saved is not None:
        kept = not_calibrated_on(rows, plan.saved)
        if left_out := len(rows.samples) - len(kept.samples):
            yield MessageEvent("ensemble", f"{left_out // 2:,} pairs were calibrated on and are left out")
        rows = kept
    parts = {RECORDS: rows} | ({} if calibration_rows is None else {CALIBRATION: calibration_rows})
    logs = yield from _ask_all(parts, plan, sampling, folder, method)
    asked = Asked(rows, logs[RECORDS])
    used = None if calibration_rows is None else Asked(calibration_rows, logs[CALIBRATION])
    found = _combined(plan, used, sampling.seed)
    if found.threshold is not None:
        yield MessageEvent("ensemble", in_words(found.threshold))
    result = ensemble_result(asked, found, plan, method, sampling.seed)
    yield MetricEvent("ensemble", {name: metric["value"] for name, metric in result["metrics"].items()})
    report = evaluation_report(result, rows=len(rows.rows), seed=sampling.seed, prices=prices).to_json()
    report["after"]["cost"] = report["cost"]
    if keep:
        if used is not None:
            save_ensemble(folder / ENSEMBLE, saved_ensemble(plan, found, used, sampling, method))
        write_json(folder / RESULT, report["after"])
        write_text(folder / "report.html", build_report(report))
    return report


def _check_task(task: JudgeTask, method: str | None, samples: int) -> str:
    """Return the evaluation method."""
    if task.form.singly:
        raise ConfigError(
            f"the template {task.form.name} grades single answers; an ensemble compares two, with rubric, "
            "scores or verdict"
        )
    method = method or task.methods[0]
    if method not in task.methods:
        raise ConfigError(
            f"the template {task.form.name} cannot be judged with --method {method}; use "
            f"{', '.join(task.methods)}"
        )
    if samples > 1 and method != "generate":
        raise ConfigError(
            f"{samples} samples by {method} would all be equal, since nothing is drawn; leave --samples out"
        )
    return method


def _ask_all(
    parts: Mapping[str, EvaluationRows], plan: EnsemblePlan, sampling: Sampling, folder: Path, method: str
) -> Work[dict[str, list[list[LoggedRecord]]]]:
    """Ask every judge about the rows of each file of records; return the records by file and by judge."""
    for rows in parts.values():
        refuse_clashing_ids(rows.samples, plan.samples, rows.source)
    places = [folder / f"judge-{number}" for number in range(1, len(plan.judges) + 1)]
    for path in [place / file for place in places for file in parts]:
        if path.exists():
            read_log(path)  # a damaged file is refused before a model is loaded
    reset_peak_memory()
    logs: dict[str, list[list[LoggedRecord]]] = {file: [] for file in parts}
    for place, judge in zip(places, plan.judges, strict=True):
        own = {place / file: rows for file, rows in parts.items()}
        found = yield from _ask(judge, own, plan.samples, sampling, method)
        for path, log in found.items():
            logs[path.name].append(log)
    return logs


def _ask(
    judge: EngineOptions,
    parts: Mapping[Path, EvaluationRows],
    times: int,
    sampling: Sampling,
    method: str,
) -> Work[dict[Path, list[LoggedRecord]]]:
    """Ask one judge, and return its records in the order of the samples."""
    opened = open_engine(judge, scores=method != "generate")
    try:
        identity = engine_identity(judge, scores=method != "generate")
        found = {}
        for path, rows in parts.items():
            samples = repeated(rows.samples, times)
            log = yield from collected(
                path.parent.name if path.name == RECORDS else f"{path.parent.name} {path.stem}",
                rows.task,
                collect_log(
                    rows.task,
                    samples,
                    rows.task.answer_with(opened, method),
                    sampling,
                    path,
                    model=identity if method == "generate" else f"{identity} by {method}",
                ),
                len(samples),
            )
            by_id = {logged.record.sample.id: logged for logged in log}
            found[path] = [by_id[sample.id] for sample in samples]
        return found
    finally:
        opened.close()


def _combined(plan: EnsemblePlan, used: Asked | None, seed: int) -> Calibrated:
    """Return the combination: as saved, calibrated, or a plain majority."""
    if plan.saved is not None:
        return plan.saved.calibrated
    if used is None:
        return Calibrated(Combination(), None)
    return calibrate(
        used.ballots,
        plan.combine,
        risk=plan.risk,
        delta=plan.delta,
        seed=seed,
        source=used.rows.source,
    )
