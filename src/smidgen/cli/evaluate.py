"""`smidgen evaluate`: a model's metrics on a task, with intervals and baselines."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Literal

from cyclopts import Parameter
from cyclopts.types import PositiveInt

from smidgen.cli.console import figure, follow, print_json, print_table, say, say_cost, say_rejected
from smidgen.cli.ensemble import CalibrationOptions, calibration_rows, open_ensemble
from smidgen.cli.parameters import EvaluationOut, Json, PricesFile
from smidgen.cli.workers import RayOptions
from smidgen.errors import ConfigError
from smidgen.options import EngineOptions, JudgeOptions, RowOptions, SamplingOptions, whole

ATTACKED = 100
"""Pairs that are manipulated by default, whose cost is 4,200 judgements."""


@Parameter(name="*")
@dataclass(frozen=True)
class EvaluatedEngine(EngineOptions):
    """The engine of an evaluation, which decodes rows in batches."""

    batch_size: Annotated[PositiveInt, Parameter(help="Number of rows decoded together.")] = 64


@Parameter(name="*")
@dataclass(frozen=True)
class EvaluatedRows(RowOptions):
    """The rows of an evaluation."""

    data: Annotated[
        str,
        Parameter(
            allow_leading_hyphen=True,
            help="File of rows, - for standard input, world for generated rows, or rows written by hand: "
            "smidgen:memorize-cases, smidgen:arbitrate-cases.",
        ),
    ] = "world"
    split: Annotated[
        tuple[str, ...],
        Parameter(help="Split to use; repeatable. Default: all except training splits."),
    ] = ()

    def check(self) -> None:
        """Refuse a split of rows that have none."""
        if self.split and self.data == "world":
            raise ConfigError(
                "--split does not apply to generated rows (--data world); remove it, or give a file as --data"
            )


@Parameter(name="*")
@dataclass(frozen=True)
class EvaluatedTask(JudgeOptions):
    """How the task is prompted and parsed."""

    rubric_file: Annotated[
        Path | None,
        Parameter(
            name="--rubric",
            help="Text file with the rubric of the template grade; default: a general rubric.",
        ),
    ] = None
    form: Annotated[
        Path | None,
        Parameter(
            help="Recipe, or a TOML file with its [settings]: defines the task own, or sets how another task "
            "is asked."
        ),
    ] = None
    shots: Annotated[
        PositiveInt | None,
        Parameter(help="Number of worked examples before each problem (task math); needs --examples."),
    ] = None
    examples: Annotated[
        str | None, Parameter(help="File of training rows that the worked examples come from.")
    ] = None
    samples: Annotated[
        PositiveInt,
        Parameter(
            converter=whole,
            help="Number of judgements per order (task judge); all are combined. Needs --temperature.",
        ),
    ] = JudgeOptions.samples
    answers: Annotated[
        PositiveInt | None,
        Parameter(help="Number of answers to each problem (task code), for pass@k; needs --temperature."),
    ] = None
    unsafe: Annotated[
        bool,
        Parameter(
            show_default=False,
            help="Run programs (task code) even where the platform does not keep them from files, the "
            "network or other processes.",
        ),
    ] = False
    method: Annotated[
        Literal["generate", "logits"] | None,
        Parameter(
            help="How answers are obtained: generate, or logits for log-probability scoring of every "
            "possible answer, which requires the mlx engine. Default: decided by the task."
        ),
    ] = None
    constrained: Annotated[
        bool,
        Parameter(
            show_default=False,
            help="Constrain answers to their format: the labels of intent, or the schema or regex of a "
            "template file.",
        ),
    ] = False

    attacks: Annotated[
        bool,
        Parameter(
            show_default=False,
            help="Also ask with the worse answer manipulated in every family of docs/attacks.md "
            "(task judge), and with benign edits as control: 42 more judgements for each pair.",
        ),
    ] = False
    attacked: Annotated[
        PositiveInt | None,
        Parameter(help="Number of pairs that are manipulated; needs --attacks. Default: 100."),
    ] = None

    def num_attacked(self) -> int:
        """Return the number of items that are manipulated; raises `ConfigError` without --attacks."""
        if self.attacked is not None and not self.attacks:
            raise ConfigError(f"--attacked is {self.attacked}, but nothing is attacked; add --attacks")
        return (self.attacked or ATTACKED) if self.attacks else 0

    def settings(self, task: str) -> dict[str, Any]:
        """Return the options as a table of settings of a task."""
        from smidgen.files import read_text
        from smidgen.tasks.own_settings import read_settings

        given = {
            "template": self.template,
            "reference": self.reference or None,
            "rubric": self.rubric_file and read_text(self.rubric_file, "rubric"),
            "shots": self.shots,
            "examples": self.examples,
            "samples": self.answers,
            "unsafe": self.unsafe or None,
        }
        file = read_settings(self.form, task) if self.form else {}
        return file | {name: value for name, value in given.items() if value is not None}


@Parameter(name="*")
@dataclass(frozen=True)
class EvaluationOutput:
    """Output of an evaluation."""

    prices: PricesFile = None
    out: EvaluationOut = None
    track: Annotated[
        Literal["wandb", "mlflow"] | None,
        Parameter(help="Also log the metrics to Weights & Biases or MLflow."),
    ] = None
    json: Json = False


def evaluate(
    task: Annotated[
        str,
        Parameter(
            help="Task to evaluate: judge, intent, answers, math, code, choice, memorize, arbitrate, "
            "classify, chat or own."
        ),
    ],
    /,
    *,
    engine: EvaluatedEngine = EvaluatedEngine(),
    rows: EvaluatedRows = EvaluatedRows(),
    task_options: EvaluatedTask = EvaluatedTask(),
    sampling: SamplingOptions = SamplingOptions(),
    ensemble: CalibrationOptions = CalibrationOptions(),
    ray: RayOptions = RayOptions(),
    output: EvaluationOutput = EvaluationOutput(),
) -> None:
    """Evaluate a model on a dataset, with 95 % intervals and baselines."""
    from smidgen.config import read_prices
    from smidgen.pipeline.ensembles import ENSEMBLE, evaluate_ensemble
    from smidgen.pipeline.one_evaluation import evaluate_rows
    from smidgen.pipeline.sources import EvaluationRows
    from smidgen.tasks import find_task
    from smidgen.tracking.tracker import check_trackers, track

    rows.check()
    check_trackers([output.track] if output.track else [], "--track is")
    engine = ray.spread(engine)
    opened = open_ensemble(ensemble, task, engine, task_options, sampling)
    found = find_task(task, opened.settings if opened else task_options.settings(task))
    prices = read_prices(output.prices)
    if output.out and not opened and (output.out / ENSEMBLE).exists():
        raise ConfigError(
            f"{output.out} has the evaluation of an ensemble, and this one asks a single judge once; give "
            "another --out"
        )
    with TemporaryDirectory() as scratch:  # for the records, if they are not kept
        read = EvaluationRows.read(
            found,
            rows.data,
            splits=rows.split,
            limit=rows.limit,
            seed=sampling.seed,
            skip_bad_rows=rows.skip_bad_rows,
            attacked=task_options.num_attacked(),
        )
        say_rejected(read.rejected)
        folder, keep = output.out or Path(scratch), output.out is not None
        if opened:
            reported, used = calibration_rows(
                read, ensemble.calibrate, sampling.seed, skip_bad_rows=rows.skip_bad_rows
            )
            work = evaluate_ensemble(
                reported,
                used,
                opened.plan,
                opened.sampling.sampling(),
                folder,
                method=opened.method,
                prices=prices,
                keep=keep,
            )
        else:
            work = evaluate_rows(
                read,
                sampling.sampling(),
                folder,
                engine,
                method=task_options.method,
                constrained=task_options.constrained,
                prices=prices,
                keep=keep,
            )
        report = follow(work)
    if output.track is not None:
        track(output.track, report["after"])
    print_json(report["after"]) if output.json else show(report)


def show(report: Mapping[str, Any]) -> None:
    """Print an evaluation as a table, followed by its headline and remarks."""
    from smidgen.evaluation.wording import headline, remarks
    from smidgen.tasks import task_class

    result = report["after"]
    rows = [
        (
            name,
            figure(metric["value"]),
            f"{figure(metric['low'])} – {figure(metric['high'])}",
            str(metric["n"]),
        )
        for group in (result["metrics"], result["baselines"])
        for name, metric in group.items()
    ]
    say(f"{result['task']}: {result['model']} on {result['data']}, {result['n']:,} answers")
    print_table(rows, headers=("", "value", "95 % interval", "n"))
    asked = task_class(result["task"])
    resistance = asked.resistance_table(report)
    for scores in [*asked.score_tables(report), *([resistance] if resistance else [])]:
        if scores.rows:
            table = [(name, *values) for name, values in scores.rows]
            print_table(table, headers=(scores.title, *scores.columns))
        for note in scores.notes:
            say(f"{scores.title}: {note}")
    for reason, count in result["details"].get("unparsed", {}).items():
        say(f"unparsed: {reason} ({count:,})")
    for sentence in (headline(report), *remarks(report)):
        say(sentence)
    if asked.words.claim.answer:
        say_cost(report["cost"])
