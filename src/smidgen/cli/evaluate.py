"""`smidgen evaluate`: what a model is worth on a task, with intervals and baselines."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Literal

from cyclopts import Parameter
from cyclopts.types import PositiveInt

from smidgen.cli.console import figure, follow, print_json, print_table, say, say_cost, say_rejected
from smidgen.cli.options import EvaluationOut, Json, PricesFile
from smidgen.errors import ConfigError
from smidgen.options import EngineOptions, JudgeOptions, RowOptions, SamplingOptions


@Parameter(name="*")
@dataclass(frozen=True)
class EvaluatedEngine(EngineOptions):
    """The engine of an evaluation, which decodes many rows together."""

    batch_size: Annotated[PositiveInt, Parameter(help="Rows decoded together.")] = 64


@Parameter(name="*")
@dataclass(frozen=True)
class EvaluatedRows(RowOptions):
    """Which rows a model is evaluated on."""

    data: Annotated[
        str,
        Parameter(
            allow_leading_hyphen=True,
            help="A file of rows, - for standard input, or world for generated ones.",
        ),
    ] = "world"
    split: Annotated[
        tuple[str, ...],
        Parameter(
            help="Only rows of this split; may be given several times. All but the training splits if not."
        ),
    ] = ()


@Parameter(name="*")
@dataclass(frozen=True)
class EvaluatedTask(JudgeOptions):
    """How the task is asked and read."""

    rubric_file: Annotated[
        Path | None,
        Parameter(
            name="--rubric",
            help="A text file with what the template grade is to grade by; a general rubric if not.",
        ),
    ] = None
    form: Annotated[
        Path | None,
        Parameter(help="The recipe, or a TOML file of its [settings], that describes the task own."),
    ] = None
    method: Annotated[
        Literal["generate", "logits"] | None,
        Parameter(
            help="How answers are found: generated, or by log-probability scoring of every possible one, "
            "which needs the engine mlx. The task's own default if not given."
        ),
    ] = None
    constrained: Annotated[
        bool,
        Parameter(
            show_default=False,
            help="Hold answers to their form: the labels of intent, the schema or regex of a template file.",
        ),
    ] = False

    def settings(self) -> dict[str, Any]:
        """The table of settings that the options stand for."""
        from smidgen.files import read_text
        from smidgen.tasks.own_settings import read_own_settings

        given = {
            "template": self.template,
            "reference": self.reference or None,
            "rubric": self.rubric_file and read_text(self.rubric_file, "rubric"),
            **(read_own_settings(self.form) if self.form else {}),
        }
        return {name: value for name, value in given.items() if value is not None}


@Parameter(name="*")
@dataclass(frozen=True)
class EvaluationOutput:
    """Where an evaluation goes."""

    prices: PricesFile = None
    out: EvaluationOut = None
    track: Annotated[
        Literal["wandb", "mlflow"] | None,
        Parameter(help="Log the metrics to Weights & Biases or to MLflow too."),
    ] = None
    json: Json = False


def evaluate(
    task: Annotated[str, Parameter(help="What the model is to do: judge, intent, answers or own.")],
    /,
    *,
    engine: EvaluatedEngine = EvaluatedEngine(),
    rows: EvaluatedRows = EvaluatedRows(),
    asked: EvaluatedTask = EvaluatedTask(),
    sampling: SamplingOptions = SamplingOptions(),
    output: EvaluationOutput = EvaluationOutput(),
) -> None:
    """Ask a model every item of a dataset and score its answers, with 95 % intervals and baselines."""
    from smidgen.config import read_prices
    from smidgen.evaluation import tracking
    from smidgen.pipeline.one_evaluation import evaluate_rows
    from smidgen.pipeline.sources import EvaluationRows
    from smidgen.tasks import find_task

    tracking.check_tracker(output.track)
    found = find_task(task, asked.settings())
    prices = read_prices(output.prices)
    if rows.split and rows.data == "world":
        raise ConfigError(
            "the world is generated and has no --split; leave it out, or name a file with --data"
        )
    with TemporaryDirectory() as scratch:
        read = EvaluationRows.read(
            found,
            rows.data,
            splits=rows.split,
            limit=rows.limit,
            seed=sampling.seed,
            skip_bad_rows=rows.skip_bad_rows,
        )
        say_rejected(read.rejected)
        report = follow(
            evaluate_rows(
                read,
                sampling.sampling(),
                output.out or Path(scratch),
                engine,
                method=asked.method,
                constrained=asked.constrained,
                prices=prices,
                keep=output.out is not None,
            )
        )
    if output.track is not None:
        tracking.track(output.track, report["after"])
    print_json(report["after"]) if output.json else show(report)


def show(report: Mapping[str, Any]) -> None:
    """Print an evaluation as a table, and in words what it shows."""
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
    for scores in task_class(result["task"]).score_tables(report):
        if scores.rows:
            table = [(name, *values) for name, values in scores.rows]
            print_table(table, headers=(scores.title, *scores.columns))
        for note in scores.notes:
            say(f"{scores.title}: {note}")
    for reason, count in result["details"].get("unparsed", {}).items():
        say(f"not read: {reason} ({count:,})")
    for sentence in (headline(report), *remarks(report)):
        say(sentence)
    say_cost(report["cost"])
