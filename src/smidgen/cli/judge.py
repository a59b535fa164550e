"""`smidgen judge`: verdicts on one pair of answers, or on a file of pairs."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter
from cyclopts.types import PositiveInt

from smidgen.cli.console import Progress, print_json, print_table, say, say_cost, say_rejected
from smidgen.cli.options import Json, PricesFile
from smidgen.errors import ConfigError
from smidgen.options import EngineOptions, JudgeOptions, RowOptions, SamplingOptions, whole

if TYPE_CHECKING:
    from smidgen.config import Prices
    from smidgen.data.types import Record, Sample


@Parameter(name="*")
@dataclass(frozen=True)
class PairOptions:
    """One pair of answers."""

    prompt: Annotated[
        str | None, Parameter(allow_leading_hyphen=True, help="What was asked, to judge one pair.")
    ] = None
    a: Annotated[str | None, Parameter(allow_leading_hyphen=True, help="One answer.")] = None
    b: Annotated[str | None, Parameter(allow_leading_hyphen=True, help="The other answer.")] = None


@Parameter(name="*")
@dataclass(frozen=True)
class JudgeEngine(EngineOptions):
    """The engine of `smidgen judge`."""

    batch_size: Annotated[
        PositiveInt, Parameter(name="--concurrency", converter=whole, help="Judgements decoded together.")
    ] = EngineOptions.batch_size


@Parameter(name="*")
@dataclass(frozen=True)
class Judging(JudgeOptions):
    """How `smidgen judge` asks."""

    samples: Annotated[
        PositiveInt, Parameter(converter=whole, help="Judgements in each order; the majority decides.")
    ] = JudgeOptions.samples


def judge(
    file: Annotated[
        Path | None, Parameter(help="A file of pairs in any known format; labels are not needed.")
    ] = None,
    /,
    *,
    pair: PairOptions = PairOptions(),
    out: Annotated[
        Path | None,
        Parameter(help="The file of judgements, one a line as they are given; an unfinished one goes on."),
    ] = None,
    engine: JudgeEngine = JudgeEngine(),
    judging: Judging = Judging(),
    sampling: SamplingOptions = SamplingOptions(),
    rows: RowOptions = RowOptions(),
    prices: PricesFile = None,
    json: Json = False,
) -> None:
    """Say which of two answers is better, asked in both orders."""
    from smidgen.config import read_prices
    from smidgen.judge import check_samples

    check_samples(judging.samples, sampling.temperature)
    parts = (pair.prompt, pair.a, pair.b)
    if file is not None:
        if any(part is not None for part in parts):
            raise ConfigError("give a file of pairs, or --prompt, --a and --b for one pair, but not both")
        if out is None:
            raise ConfigError(
                f"name the file for the judgements of {file} with --out, as --out verdicts.jsonl"
            )
        result = judge_file(
            file,
            out,
            engine=engine,
            judging=judging,
            sampling=sampling,
            rows=rows,
            prices=read_prices(prices),
        )
        print_json(result) if json else _show_file(result)
        return
    if pair.prompt is None or pair.a is None or pair.b is None:
        raise ConfigError("give --prompt, --a and --b to judge one pair, or a file of pairs")
    for_files = {
        "--out": out,
        "--limit": rows.limit,
        "--prices": prices,
        "--skip-bad-rows": rows.skip_bad_rows or None,
        "--reference": judging.reference or None,
    }
    if given := [name for name, value in for_files.items() if value is not None]:
        raise ConfigError(f"{given[0]} is for a file of pairs; leave it out")
    _judge_one(pair.prompt, pair.a, pair.b, engine, judging, sampling, json=json)


def _judge_one(
    prompt: str,
    a: str,
    b: str,
    engine: EngineOptions,
    judging: JudgeOptions,
    sampling: SamplingOptions,
    *,
    json: bool,
) -> None:
    from dataclasses import asdict

    from smidgen.judge import Judge

    with Judge(engine, judging, sampling) as opened:
        found = opened.compare(prompt, a, b)
    if json:
        print_json(asdict(found))
        return
    verdicts = {"a": "A is better", "b": "B is better", "tie": "neither is better", None: "no verdict"}
    contradicted = found.verdict == "tie" and {"a", "b"} <= {said.verdict for said in found.said}
    contradiction = "the judgements contradict each other, so neither is taken as better"
    print(contradiction if contradicted else verdicts[found.verdict])
    for said in found.said:
        scores = f", scores {said.scores[0]:g} for A and {said.scores[1]:g} for B" if said.scores else ""
        fault = f": {said.fault}" if said.fault else ""
        say(f"\n{said.order[0].upper()} shown first: {verdicts[said.verdict]}{scores}{fault}")
        say(said.text)
    agreed = "all say the same" if found.consistent else "they do not all say the same"
    say(f"\n{found.judgements} judgements, {agreed}; {found.tokens:,} tokens in {found.seconds:.1f} s")


def judge_file(
    file: Path,
    out: Path,
    *,
    engine: EngineOptions,
    judging: JudgeOptions,
    sampling: SamplingOptions,
    rows: RowOptions,
    prices: "Prices",
) -> dict[str, Any]:
    """Judge every pair of a file; each judgement is on disk as soon as it is made, and is made once.

    Beside `out` stands `<out>.pairs.jsonl` when all is done: one verdict a pair.
    """
    from smidgen.data.rows import read_rows, select_rows
    from smidgen.evaluation import collect_records, measure_speed, read_records
    from smidgen.evaluation.cost import cost_table
    from smidgen.evaluation.records import read_log, wall_clock
    from smidgen.files import write_jsonl
    from smidgen.inference import engine_identity, open_engine
    from smidgen.tasks import JudgeTask, find_form
    from smidgen.tasks.judge import Rubric

    task = JudgeTask(find_form(judging.template or Rubric.name), reference=judging.reference)
    if task.form.singly:
        raise ConfigError(
            f"the template {task.form.name} grades one answer; judge with rubric, scores or verdict"
        )
    rejected: list[str] | None = [] if rows.skip_bad_rows else None
    found = select_rows(read_rows(file, rejected=rejected), limit=rows.limit, source=str(file))
    samples = task.samples(found, source=str(file), labelled=False, rejected=rejected)
    asked = _repeated(samples, judging.samples)
    say_rejected(rejected or ())
    identity = engine_identity(engine)
    known = len(read_records(out)) if out.exists() else 0
    opened = open_engine(engine)
    records: list[Record] = []
    with Progress("judge", total=len(asked)) as progress:
        progress.begin_at(known)
        for record in collect_records(task, asked, opened, sampling.sampling(), out, model=identity):
            records.append(record)
            timing = record.completion.timing
            new = timing is not None and len(records) > known
            progress.update(len(records), tokens=timing.completion_tokens if timing and new else 0)
    peak = opened.peak_memory_bytes()
    opened.close()
    verdicts = _verdicts(asked, records, task)
    write_jsonl(out.with_name(f"{out.name.removesuffix('.jsonl')}.pairs.jsonl"), verdicts)
    counts = {str(side): sum(row["verdict"] == side for row in verdicts) for side in ("a", "b", "tie", None)}
    timings = [record.completion.timing for record in records]
    speed = measure_speed(timings, wall_clock(read_log(out)), peak_memory_bytes=peak).to_json()
    return {
        "file": str(file),
        "out": str(out),
        "pairs": len(verdicts),
        "judgements": len(records),
        "verdicts": counts,
        "consistent": sum(row["consistent"] for row in verdicts),
        "unparsed": sum(not record.score.parsed for record in records),
        "rejected_rows": len(rejected or ()),
        "speed": speed,
        "cost": cost_table({"judge": {"n": len(records), "speed": speed}}, prices),
        "labelled": any(sample.metadata["label"] for sample in asked),
    }


def _repeated(asked: "list[Sample]", times: int) -> "list[Sample]":
    """Every sample so many times; the first keeps its id, and the others draw by theirs."""
    from dataclasses import replace

    return [
        sample if time == 1 else replace(sample, id=f"{sample.id}#{time}")
        for sample in asked
        for time in range(1, times + 1)
    ]


def _verdicts(asked: "list[Sample]", records: "list[Record]", task: Any) -> list[dict[str, Any]]:
    """One row a pair, in the order of the file."""
    from smidgen.tasks.judge.judgements import outcome, read_record

    said: dict[str, list[Any]] = {sample.metadata["pair"]: [] for sample in asked}
    for record in records:
        facts = record.sample.metadata
        verdict = read_record(task.form.parse, record)
        said[facts["pair"]].append((facts["order"], verdict))
    return [
        {
            "id": pair,
            "verdict": found.verdict,
            "consistent": found.consistent,
            "scores": found.scores,
            "judgements": found.judgements,
            "unparsed": found.unparsed,
        }
        for pair, found in ((pair, outcome(verdicts)) for pair, verdicts in said.items())
    ]


def _show_file(result: dict[str, Any]) -> None:
    verdicts, number = result["verdicts"], result["pairs"]
    names = {"a": "A is better", "b": "B is better", "tie": "neither", "None": "unreadable"}
    print_table([(name, f"{verdicts[side]:,}") for side, name in names.items()], headers=("verdict", "pairs"))
    say(
        f"{number:,} pairs, {result['judgements']:,} judgements: both orders agree on "
        f"{result['consistent']:,}; {result['unparsed']:,} judgements could not be read"
    )
    say_cost(result["cost"])
    if result["labelled"]:
        say("The file has labels; `smidgen evaluate judge` says how good these verdicts are.")
    say(f"judgements: {result['out']}")
