"""Options of a judge's ensemble, and the ensemble that they describe."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

from cyclopts import Parameter

from smidgen.errors import ConfigError
from smidgen.files import is_url
from smidgen.options import EngineOptions, JudgeOptions, SamplingOptions

if TYPE_CHECKING:
    from smidgen.pipeline.ensemble_plan import EnsemblePlan
    from smidgen.pipeline.sources import EvaluationRows


@Parameter(name="*")
@dataclass(frozen=True)
class EnsembleOptions:
    """Further judges, or an ensemble that was calibrated."""

    also: Annotated[
        tuple[str, ...],
        Parameter(
            allow_leading_hyphen=True,
            show_default=False,
            help="Further judge whose judgements are combined with those of --model: a model as --model "
            "takes it, with its adapter after a plus sign (MODEL+ADAPTER); repeatable.",
        ),
    ] = ()
    ensemble: Annotated[
        Path | None,
        Parameter(
            help="Ensemble that `evaluate judge --calibrate` saved as ensemble.json in its --out folder: its "
            "judges, weights and threshold. Replaces --model and the options of how it is asked."
        ),
    ] = None


@Parameter(name="*")
@dataclass(frozen=True)
class CalibrationOptions(EnsembleOptions):
    """An ensemble and its calibration."""

    combine: Annotated[
        Literal["majority", "mean"],
        Parameter(
            help="How judgements of a pair are combined (task judge): majority of all votes, or mean of the "
            "judges' margins with weights fitted to the calibration rows."
        ),
    ] = "majority"
    calibrate: Annotated[
        str | None,
        Parameter(
            help="Labelled pairs that weights and threshold are chosen on, and that are not reported on: a "
            "file, or a share of --data by prompts, such as 0.5."
        ),
    ] = None
    risk: Annotated[
        float | None,
        Parameter(
            help="Abstain (verdict unsure) where the judges are not confident, so that at most this share of "
            "the verdicts is wrong, such as 0.1; needs --calibrate."
        ),
    ] = None
    delta: Annotated[
        float,
        Parameter(help="Probability that the calibration rows misled, so that the share is exceeded."),
    ] = 0.1


class Opened(NamedTuple):
    """An ensemble that is to be evaluated: the settings of its task, how it is asked, and its judges."""

    settings: dict[str, Any]
    sampling: SamplingOptions
    method: str | None
    plan: "EnsemblePlan"


def changed(options: Any, but: Sequence[str] = ()) -> list[str]:
    """Return the fields of a group of options that differ from their defaults, as options are written."""
    return [
        f"--{field.name.removesuffix('_file').replace('_', '-')}"  # as `rubric_file`
        for field in fields(options)
        if field.name not in but and getattr(options, field.name) != field.default
    ]


def judges_of(engine: EngineOptions, also: Sequence[str]) -> list[EngineOptions]:
    """Return the engine options of `--model` and of every judge in `--also`.

    Raises:
        ConfigError: a judge is named twice, or has further servers.
    """
    if also and engine.workers is not None and engine.workers.endpoints:
        raise ConfigError(
            f"--endpoint {engine.workers.endpoints[0]} is a further server of one judge, and several are "
            "given; leave --endpoint or --also out"
        )
    judges = [engine, *(_named(engine, name) for name in also)]
    if any(is_url(judge.model) for judge in judges):
        judges = [judge if is_url(judge.model) else _local(judge) for judge in judges]
    named = [(judge.model, judge.adapter) for judge in judges]
    if twice := next((name for name in named if named.count(name) > 1), None):
        raise ConfigError(
            f"the judge {twice[0]} is named twice and would say the same twice; name it once, or give "
            "--samples"
        )
    return judges


def _named(engine: EngineOptions, name: str) -> EngineOptions:
    """Return the options of `MODEL+ADAPTER`; other options are those of `--model`."""
    model, plus, adapter = name.rpartition("+")
    if not plus or is_url(name) or Path(name).exists():
        return replace(engine, model=name, adapter=None)
    return replace(engine, model=model, adapter=Path(adapter))


def _local(judge: EngineOptions) -> EngineOptions:
    """Return the options of a judge without those of servers, which are for other judges."""
    return replace(judge, model_name=None, api_key_env=None, timeout=None)


def open_ensemble(
    given: CalibrationOptions,
    task: str,
    engine: EngineOptions,
    task_options: Any,
    sampling: SamplingOptions,
) -> Opened | None:
    """Return the ensemble that the options of `evaluate` describe; None for a single judge asked once.

    Raises:
        ConfigError: the options contradict each other, or the task is another than judge.
        DataError: the file of the ensemble is none.
    """
    from smidgen.judge.ensemble import saved_judges
    from smidgen.pipeline.ensemble_plan import EnsemblePlan

    own = [*changed(given), *(["--samples"] if task_options.samples != JudgeOptions.samples else [])]
    if not own:
        return None
    if task != "judge":
        raise ConfigError(f"{own[0]} applies only to the task judge, not to {task}; remove it")
    if task_options.num_attacked():
        raise ConfigError("--attacks does not apply to several judgements of a pair; remove it")
    if task_options.constrained:
        raise ConfigError("--constrained does not apply to several judgements of a pair; remove it")
    if "--delta" in own and given.risk is None:
        raise ConfigError("--delta needs --risk, of which it is the probability to exceed it; give --risk")
    if given.ensemble is None:
        plan = EnsemblePlan(
            judges_of(engine, given.also), task_options.samples, given.combine, given.risk, given.delta
        )
        plan.check(calibrated=given.calibrate is not None, temperature=sampling.temperature)
        return Opened(task_options.settings(task), sampling, task_options.method, plan)
    refuse_beside_ensemble(given, engine, task_options, sampling)
    saved, judges = saved_judges(given.ensemble, engine)
    asking = saved.asking
    plan = EnsemblePlan(judges, asking.samples, saved.combine, saved=saved)
    asked = SamplingOptions(asking.max_tokens, asking.temperature, asking.seed)
    return Opened(asking.settings, asked, asking.method, plan)


def refuse_beside_ensemble(
    given: EnsembleOptions, engine: EngineOptions, asking: JudgeOptions, sampling: SamplingOptions
) -> None:
    """Refuse options that a calibrated ensemble replaces.

    Raises:
        ConfigError: one is given.
    """
    others = [
        *changed(given, ["ensemble"]),
        *changed(engine, ["batch_size", "api_key_env", "timeout", "workers"]),
    ]
    if others := [*others, *changed(asking), *changed(sampling)]:
        raise ConfigError(
            f"{others[0]} does not apply to {given.ensemble}, which says how its judges are asked; remove it"
        )


def calibration_rows(
    rows: "EvaluationRows", calibrate: str | None, seed: int, *, skip_bad_rows: bool
) -> tuple["EvaluationRows", "EvaluationRows | None"]:
    """Return the rows to report on and those to calibrate with.

    Raises:
        ConfigError: the share is not between 0 and 1.
        DataError: the file cannot be read, or shares prompts with the rows to report on.
    """
    from smidgen.pipeline.ensemble_plan import refuse_shared_prompts, share_of_rows
    from smidgen.pipeline.sources import EvaluationRows

    if calibrate is None:
        return rows, None
    try:
        share = float(calibrate)
    except ValueError:
        found = EvaluationRows.read(rows.task, calibrate, skip_bad_rows=skip_bad_rows)
        refuse_shared_prompts(rows, found)
        return rows, found
    return share_of_rows(rows, share, seed)
