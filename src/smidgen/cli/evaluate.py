"""`smidgen evaluate`: what a model is worth on a task, with intervals and baselines."""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter
from cyclopts.types import PositiveInt

from smidgen.cli.console import Progress, figure, print_json, print_table, say, say_cost, say_rejected
from smidgen.cli.options import (
    Adapter,
    ApiKeyEnv,
    Engine,
    EvaluationOut,
    Json,
    KvBits,
    Limit,
    MaxTokens,
    Model,
    ModelName,
    PricesFile,
    Reference,
    Seed,
    SkipBadRows,
    Temperature,
    Template,
    Thinking,
    Timeout,
)
from smidgen.errors import ConfigError, first_few

if TYPE_CHECKING:
    from smidgen.data.formats import Pair
    from smidgen.data.types import Record, Sample, Sampling
    from smidgen.tasks import Judge, Task


def evaluate(
    task: Annotated[str, Parameter(help="What the model is to do: judge, intent or answers.")],
    /,
    *,
    model: Model = "smidgen:nano",
    data: Annotated[
        str,
        Parameter(
            allow_leading_hyphen=True,
            help="A file of rows, - for standard input, or world for generated ones.",
        ),
    ] = "world",
    split: Annotated[
        tuple[str, ...],
        Parameter(
            help="Only rows of this split; may be given several times. All but the training splits if not."
        ),
    ] = (),
    engine: Engine = "auto",
    model_name: ModelName = None,
    api_key_env: ApiKeyEnv = None,
    timeout: Timeout = None,
    adapter: Adapter = None,
    kv_bits: KvBits = None,
    template: Template = None,
    reference: Reference = False,
    rubric: Annotated[
        Path | None,
        Parameter(help="A text file with what the template grade is to grade by; a general rubric if not."),
    ] = None,
    method: Annotated[
        Literal["generate", "logits"],
        Parameter(
            help="How a judge answers: in words, or by the probabilities of its answers, unwritten, which "
            "only the engine mlx tells."
        ),
    ] = "generate",
    constrained: Annotated[
        bool,
        Parameter(
            show_default=False,
            help="Hold answers to their form: the labels of intent, the schema or regex of a template file.",
        ),
    ] = False,
    skip_bad_rows: SkipBadRows = False,
    thinking: Thinking = False,
    limit: Limit = None,
    max_tokens: MaxTokens = 256,
    temperature: Temperature = 0.0,
    batch_size: Annotated[PositiveInt, Parameter(help="Rows decoded together.")] = 64,
    seed: Seed = 0,
    prices: PricesFile = None,
    out: EvaluationOut = None,
    track: Annotated[
        Literal["wandb", "mlflow"] | None,
        Parameter(help="Log the metrics to Weights & Biases or to MLflow too."),
    ] = None,
    json: Json = False,
) -> None:
    """Ask a model every item of a dataset and score its answers, with 95 % intervals and baselines."""
    from smidgen.cli import tracking
    from smidgen.cli.reporting import evaluation_report
    from smidgen.cli.sources import all_rows, test_rows
    from smidgen.config import read_prices
    from smidgen.data.row_files import source_name
    from smidgen.data.types import Sampling
    from smidgen.evaluation.cost import cost_table
    from smidgen.evaluation.report import build_report
    from smidgen.evaluation.runner import constraint_of
    from smidgen.files import read_text, write_json, write_text
    from smidgen.inference.constraints import grammar_of
    from smidgen.tasks import find_task

    tracking.check_tracker(track)
    asked = find_task(
        task, template=template, reference=reference, rubric=rubric and read_text(rubric, "rubric")
    )
    price_list = read_prices(prices)
    if split and data == "world":
        raise ConfigError(
            "the world is generated and has no --split; leave it out, or name a file with --data"
        )
    rejected: list[str] | None = [] if skip_bad_rows else None
    rows = test_rows(task, data, splits=split, limit=limit, seed=seed, rejected=rejected)
    source = source_name(data)
    asked = asked.prepare(all_rows(task, data, rejected=rejected and []) or rows, source=source)
    if constrained:
        grammar_of(constraint_of(asked))  # so that a model is loaded only for what can be kept to
    samples = asked.samples(rows, source=source, rejected=rejected)
    say_rejected(rejected or ())
    with TemporaryDirectory() as scratch:
        result, records = prove(
            asked,
            samples,
            Sampling(max_tokens=max_tokens, temperature=temperature, seed=seed),
            (out or Path(scratch)) / "records.jsonl",
            model=model,
            adapter=adapter,
            kv_bits=kv_bits,
            engine=engine,
            model_name=model_name,
            api_key_env=api_key_env,
            timeout=timeout,
            thinking=thinking,
            batch_size=batch_size,
            data=data,
            method=method,
            constrained=constrained,
        )
    result["published"] = as_published(asked, rows, records, model, out)
    result["disagreements"] = disagreements(asked, rows, records)
    result["rejected_rows"] = len(rejected or ())
    result["cost"] = cost_table({"after": result}, price_list)
    report = evaluation_report(result, rows=len(rows), seed=seed)
    if out is not None:
        write_json(out / "evaluation.json", result)
        write_text(out / "report.html", build_report(report))
    if track is not None:
        tracking.track(track, result)
    print_json(result) if json else show(report)


def prove(
    task: "Task",
    samples: "Sequence[Sample]",
    sampling: "Sampling",
    records: Path,
    *,
    model: str,
    adapter: Path | None = None,
    kv_bits: KvBits = None,
    engine: Engine = "auto",
    model_name: str | None = None,
    api_key_env: str | None = None,
    timeout: float | None = None,
    thinking: bool = False,
    batch_size: int = 64,
    data: str = "",
    stage: str = "evaluate",
    method: Literal["generate", "logits"] = "generate",
    constrained: bool = False,
) -> "tuple[dict[str, Any], list[Record]]":
    """Evaluate a model under a bar, going on with the records that are there.

    Returns:
        The evaluation as JSON, and its records.
    """
    from smidgen.backend import reset_peak_memory
    from smidgen.evaluation import collect_records, read_records, summarise
    from smidgen.evaluation.by_logits import ByLogits
    from smidgen.evaluation.calibration import calibration
    from smidgen.inference import engine_identity, open_engine
    from smidgen.inference.replay import ReplayEngine
    from smidgen.tasks import Judge
    from smidgen.tasks.judgements import judgements

    reset_peak_memory()
    if method == "logits" and not isinstance(task, Judge):
        raise ConfigError(f"--method logits is for the task judge, not for {task.name}; leave it out")
    same: dict[str, Any] = {
        "engine": engine,
        "adapter": adapter,
        "kv_bits": kv_bits,
        "thinking": thinking,
        "model_name": model_name,
        "scores": method == "logits",
    }
    known = len(read_records(records)) if records.exists() else 0
    opened = open_engine(model, **same, batch_size=batch_size, api_key_env=api_key_env, timeout=timeout)
    name = f"{model} + {adapter}" if adapter else model
    identity = engine_identity(model, **same)
    unused = opened.unused(samples) if isinstance(opened, ReplayEngine) else []
    answers: Any = opened
    if method == "logits":
        assert isinstance(task, Judge)
        answers, identity = ByLogits(opened, task.form), f"{identity} by logits"
    graded_alone = isinstance(task, Judge) and task.form.singly
    right = parsed = 0.0
    found: list[Record] = []
    with Progress(stage, total=len(samples)) as progress:
        progress.begin_at(known)
        collected = collect_records(
            task, samples, answers, sampling, records, model=identity, constrained=constrained
        )
        for number, record in enumerate(collected, start=1):
            found.append(record)
            right, parsed = right + record.score.value, parsed + record.score.parsed
            timing = record.completion.timing
            progress.update(
                number,
                tokens=timing.completion_tokens if timing and number > known else 0,
                right=None if graded_alone else right / number,
                parsed=parsed / number,
            )
    peak = opened.peak_memory_bytes()
    opened.close()
    if unused:
        say(f"{len(unused):,} rows of {model} answer nothing that is asked: {first_few(unused, ', ')}")
    evaluation = summarise(
        task,
        samples,
        records,
        model=name,
        data=data,
        seed=sampling.seed,
        peak_memory_bytes=peak,
    )
    result = evaluation.to_json() | {"method": method, "graded_alone": graded_alone}
    if isinstance(opened, ReplayEngine):
        result["unused_replay_rows"] = len(unused)
    if isinstance(task, Judge):
        result["calibration"] = calibration(judgements(found, task.form), seed=sampling.seed)
    return result, found


def as_published(
    task: "Task", rows: "Sequence[Any]", records: "Sequence[Record]", model: str, out: Path | None
) -> dict[str, Any]:
    """The scores of a judge as JudgeLM, RewardBench and RM-Bench publish theirs; in `out`, their files."""
    from smidgen.evaluation.judgelm import judgelm_metrics
    from smidgen.evaluation.rewardbench import (
        result_file,
        rewardbench,
        row_file,
        style_matrix,
    )
    from smidgen.evaluation.rewardbench2 import rewardbench2
    from smidgen.files import write_json
    from smidgen.tasks import Judge
    from smidgen.tasks.judgements import judgements

    if not isinstance(task, Judge):
        return {}
    found = judgements(records, task.form)
    published: dict[str, Any] = {
        "judgelm": judgelm_metrics(found),
        "rmbench": style_matrix(found),
        "rewardbench": rewardbench(found),
        "rewardbench2": rewardbench2(records, task.form),
    }
    files = {"judgelm.json": published["judgelm"]}
    if published["rewardbench"] is not None:
        files["rewardbench.json"] = result_file(found, model=model)
        files["rewardbench_rows.json"] = row_file(found, _pairs_by_id(task, rows), model=model)
    for name, content in files.items():
        if out is not None and content is not None:
            write_json(out / name, content)
    return {name: scores for name, scores in published.items() if scores is not None}


def disagreements(task: "Task", rows: "Sequence[Any]", records: "Sequence[Record]") -> dict[str, Any] | None:
    """The pairs on which a judge's two orders do not agree, to be read; None for any other task."""
    from smidgen.evaluation.disagreements import find_disagreements
    from smidgen.tasks import Judge

    if not isinstance(task, Judge) or task.form.singly:
        return None
    return find_disagreements(records, task.form, _pairs_by_id(task, rows))


def _pairs_by_id(task: "Judge", rows: "Sequence[Any]") -> "dict[str, Pair]":
    from smidgen.data.formats import pairs

    return {pair.id: pair for pair in pairs(rows, with_reference=task.reference, rejected=[])}


def show(report: dict[str, Any]) -> None:
    """Print an evaluation as a table, and in words what it shows."""
    from smidgen.evaluation.published import as_published
    from smidgen.evaluation.wording import headline, remarks

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
    for scores in as_published(report):
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
