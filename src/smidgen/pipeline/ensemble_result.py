"""The result of an ensemble's evaluation as `evaluation.json` has it, and the ensemble as it is saved."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from smidgen import __version__
from smidgen.data.types import Record, Sampling
from smidgen.evaluation import Evaluation, Measured, measure, measure_speed, measured, paired_difference
from smidgen.evaluation.records import LoggedRecord, wall_clock
from smidgen.files import sha256_json
from smidgen.inference import model_hash
from smidgen.options import EngineOptions
from smidgen.pipeline.ensemble_plan import EnsemblePlan, prompt_hashes
from smidgen.pipeline.sources import EvaluationRows
from smidgen.tasks.judge import JudgeTask
from smidgen.tasks.judge.ballots import Ballot, gather, in_each_order
from smidgen.tasks.judge.calibrating import Calibrated
from smidgen.tasks.judge.calibration import calibration
from smidgen.tasks.judge.ensemble_evidence import (
    abstention_facts,
    ensemble_measures,
    judges_facts,
    pair_measures,
)
from smidgen.tasks.judge.judgements import Judgement, measures, read_judgements
from smidgen.tasks.judge.reader import Reader
from smidgen.tasks.judge.saved_ensemble import (
    SavedAsking,
    SavedCalibration,
    SavedEnsemble,
    SavedJudge,
    SavedThreshold,
    template_hash,
)
from smidgen.tasks.measures import Measure, Metric


@dataclass(frozen=True)
class Asked:
    """The records of every judge on some rows.

    Attributes:
        rows: the rows.
        logs: the records of each judge, in the order of the samples.
    """

    rows: EvaluationRows
    logs: list[list[LoggedRecord]]

    @property
    def task(self) -> JudgeTask:
        """The task of the rows."""
        assert isinstance(self.rows.task, JudgeTask)
        return self.rows.task

    @cached_property
    def ballots(self) -> list[Ballot]:
        """The judgements by pair."""
        reader = Reader(self.task.form)
        return gather([read_judgements([logged.record for logged in log], reader) for log in self.logs])

    @property
    def records(self) -> list[Record]:
        """The records of all judges."""
        return [logged.record for log in self.logs for logged in log]


def ensemble_result(
    asked: Asked, found: Calibrated, plan: EnsemblePlan, method: str, seed: int
) -> dict[str, Any]:
    """Return the content of `evaluation.json`: that of one judge, with the ensemble's own facts."""
    task, combination = asked.task, found.combination
    in_orders = list(in_each_order(asked.ballots, combination))
    records = asked.records
    own = ensemble_measures(asked.ballots, combination, abstains=found.threshold is not None)
    speed = measure_speed(
        [record.completion.timing for record in records], sum(wall_clock(log) for log in asked.logs)
    )
    evaluation = Evaluation(
        task=task.name,
        version=task.version,
        variant=task.variant,
        model=", ".join(map(name_of, plan.judges)),
        data=asked.rows.source,
        n=len(records),
        metrics=_measured(own, seed),
        baselines=_measured(task.baselines(asked.rows.samples), seed),
        subsets=_by_subset(in_orders, seed),
        details=task.details(records),
        speed=speed,
    )
    facts = {
        "abstention": abstention_facts(asked.ballots, combination, found.threshold),
        "calibration": calibration(in_orders),
    }
    return evaluation.to_json() | {
        "settings": task.settings.model_dump(mode="json", exclude_none=True),
        "method": method,
        "has_right_answers": True,
        "rejected_rows": len(asked.rows.rejected),
        "ensemble": _ensemble_facts(asked, found, plan, seed),
        **measured(facts, seed=seed),
    }


def saved_ensemble(
    plan: EnsemblePlan, found: Calibrated, used: Asked, sampling: Sampling, method: str
) -> SavedEnsemble:
    """Return the calibrated ensemble as it is saved; `used` are the calibration rows."""
    task, rows = used.task, used.rows
    asked = [[sample.id, sample.messages, sample.metadata] for sample in rows.samples]
    return SavedEnsemble(
        smidgen=__version__,
        judges=tuple(saved_judge(judge) for judge in plan.judges),
        asking=SavedAsking(
            template=task.form.name,
            template_sha256=template_hash(task.form.name),
            settings=task.settings.model_dump(mode="json", exclude_none=True),
            task_version=task.version,
            method=method,
            samples=plan.samples,
            max_tokens=sampling.max_tokens,
            temperature=sampling.temperature,
            seed=sampling.seed,
        ),
        combine=found.combination.method,
        weights=found.combination.weights,
        abstention=None if found.threshold is None else SavedThreshold(**found.threshold.to_json()),
        calibration=SavedCalibration(
            source=rows.source,
            pairs=len(used.ballots),
            sha256=sha256_json(asked),
            prompts=tuple(sorted(set(prompt_hashes(rows).values()))),
        ),
    )


def saved_judge(judge: EngineOptions) -> SavedJudge:
    """Return a judge as it is saved, with the hash of its weights."""
    return SavedJudge(
        model=judge.model,
        adapter=None if judge.adapter is None else str(judge.adapter),
        engine=judge.engine,
        model_name=judge.model_name,
        thinking=judge.thinking,
        kv_bits=judge.kv_bits,
        sha256=model_hash(judge),
    )


def name_of(judge: EngineOptions) -> str:
    """Return a judge as reports name it."""
    return f"{judge.model} + {judge.adapter}" if judge.adapter else judge.model


def _measured(metrics: Mapping[str, Metric], seed: int) -> dict[str, Measured]:
    return {name: measure(metric, seed=seed) for name, metric in metrics.items()}


def _by_subset(judgements: list[Judgement], seed: int) -> dict[str, dict[str, Measured]]:
    """Return the metrics of every subset; empty if there are fewer than two."""
    groups: dict[str, list[Judgement]] = {}
    for judgement in judgements:
        if judgement.subset is not None:
            groups.setdefault(judgement.subset, []).append(judgement)
    if len(groups) < 2:
        return {}
    return {name: _measured(measures(group), seed) for name, group in sorted(groups.items())}


def _ensemble_facts(asked: Asked, found: Calibrated, plan: EnsemblePlan, seed: int) -> dict[str, Any]:
    """Describe the judges, and how much better than each the ensemble is, in the accuracy over pairs."""
    together = pair_measures(asked.ballots, found.combination)["pair_accuracy"]
    judges = []
    names = list(map(name_of, plan.judges))
    for facts in judges_facts(asked.ballots, found.combination, names, plan.samples):
        alone = facts["pair_accuracy"]
        assert isinstance(alone, Measure)
        difference = paired_difference(together, alone, seed=seed).to_json()
        judges.append({**measured(facts, seed=seed), "difference": difference})
    return {"combine": found.combination.method, "samples": plan.samples, "judges": judges}
