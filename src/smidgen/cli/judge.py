"""`smidgen judge`: verdicts on one pair of answers, or on a file of pairs."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter
from cyclopts.types import PositiveInt

from smidgen.cli.console import Progress, print_json, print_table, say, say_cost, say_rejected
from smidgen.cli.ensemble import EnsembleOptions, judges_of, refuse_beside_ensemble
from smidgen.cli.parameters import Json, PricesFile, file_or_stdin
from smidgen.cli.workers import RayOptions
from smidgen.errors import ConfigError
from smidgen.options import EngineOptions, JudgeOptions, RowOptions, SamplingOptions, whole

if TYPE_CHECKING:
    from smidgen.config import Prices
    from smidgen.judge import Ensemble, Judge, Said

VERDICTS = {
    "a": "A is better",
    "b": "B is better",
    "tie": "neither is better",
    "unsure": "unsure: the judgements do not suffice for a verdict",
    None: "no verdict",
}


@Parameter(name="*")
@dataclass(frozen=True)
class PairOptions:
    """One pair of answers."""

    prompt: Annotated[
        str | None, Parameter(allow_leading_hyphen=True, help="Question, to judge one pair.")
    ] = None
    a: Annotated[str | None, Parameter(allow_leading_hyphen=True, help="First answer.")] = None
    b: Annotated[str | None, Parameter(allow_leading_hyphen=True, help="Second answer.")] = None


@Parameter(name="*")
@dataclass(frozen=True)
class JudgeEngine(EngineOptions):
    """The engine of `smidgen judge`."""

    batch_size: Annotated[
        PositiveInt,
        Parameter(name="--concurrency", converter=whole, help="Number of judgements decoded together."),
    ] = EngineOptions.batch_size


@Parameter(name="*")
@dataclass(frozen=True)
class JudgingOptions(JudgeOptions):
    """The judge options of `smidgen judge`."""

    samples: Annotated[
        PositiveInt, Parameter(converter=whole, help="Number of judgements per order; the majority decides.")
    ] = JudgeOptions.samples


@Parameter(name="*")
@dataclass(frozen=True)
class JudgeOutput:
    """Output of `smidgen judge`."""

    out: Annotated[
        Path | None,
        Parameter(
            help="Output file, JSONL with one judgement per line; resumes if it exists. Several judges have "
            "a file each, FILE.judge-1.jsonl and so on; the verdicts are in FILE.pairs.jsonl."
        ),
    ] = None
    prices: PricesFile = None
    stream: Annotated[
        bool,
        Parameter(
            show_default=False,
            help="Print the judgements of one pair as they are generated, as lines of JSON, the result last.",
        ),
    ] = False
    json: Json = False


def judge(
    file: Annotated[
        Path | None,
        Parameter(
            allow_leading_hyphen=True,
            converter=file_or_stdin,
            help="File of pairs in any supported format, or - for standard input; labels are optional.",
        ),
    ] = None,
    /,
    *,
    pair: PairOptions = PairOptions(),
    engine: JudgeEngine = JudgeEngine(),
    judging: JudgingOptions = JudgingOptions(),
    sampling: SamplingOptions = SamplingOptions(),
    ensemble: EnsembleOptions = EnsembleOptions(),
    rows: RowOptions = RowOptions(),
    ray: RayOptions = RayOptions(),
    output: JudgeOutput = JudgeOutput(),
) -> None:
    """Judge which of two answers is better, asking one judge or several in both orders."""
    from smidgen.config import read_prices

    out = output.out
    _check_use(file, pair, out)
    if file is None:
        _check_one(output, judging, rows, ray)
    if output.stream and (file is not None or ensemble.also or ensemble.ensemble is not None):
        given = "a file of pairs" if file is not None else "several judges"
        raise ConfigError(
            f"--stream shows one pair and one judge, but {given} is given; leave one of them out"
        )
    price_list = read_prices(output.prices)
    with _open(ray.spread(engine), judging, sampling, ensemble) as opened:
        if output.stream:
            _stream_one(opened, pair)
        elif file is None or out is None:
            _judge_one(opened, pair, json=output.json)
        else:
            result = judge_file(opened, file, out, rows, price_list)
            print_json(result) if output.json else _show_file(result)


def _open(
    engine: EngineOptions, judging: JudgeOptions, sampling: SamplingOptions, given: EnsembleOptions
) -> "Judge | Ensemble":
    """Return the judge, several judges, or an ensemble that was calibrated."""
    from smidgen.judge import Ensemble, Judge, load_ensemble

    if given.ensemble is not None:
        refuse_beside_ensemble(given, engine, judging, sampling)
        return load_ensemble(given.ensemble, engine)
    if given.also:
        return Ensemble(judges_of(engine, given.also), judging, sampling)
    return Judge(engine, judging, sampling)


def _check_use(file: Path | None, pair: PairOptions, out: Path | None) -> None:
    """Check that either a file with --out or one complete pair is given."""
    parts = (pair.prompt, pair.a, pair.b)
    if file is None:
        if any(part is None for part in parts):
            raise ConfigError("give --prompt, --a and --b to judge one pair, or a file of pairs")
        return
    if any(part is not None for part in parts):
        raise ConfigError(
            "both a file of pairs and one pair are given; give the file, or --prompt, --a and --b"
        )
    if out is None:
        raise ConfigError(
            f"no output file is given for the judgements of {file}; give one, as --out verdicts.jsonl"
        )


def _check_one(output: JudgeOutput, judging: JudgeOptions, rows: RowOptions, ray: RayOptions) -> None:
    """Check that no option that needs a file of pairs is given."""
    for_files = {
        "--out": output.out is not None,
        "--limit": rows.limit is not None,
        "--prices": output.prices is not None,
        "--skip-bad-rows": rows.skip_bad_rows,
        "--reference": judging.reference,
        "--ray": ray.ray,
    }
    if given := [name for name, is_given in for_files.items() if is_given]:
        raise ConfigError(f"{given[0]} applies only to a file of pairs; remove it")


def _judge_one(judge: "Judge | Ensemble", pair: PairOptions, *, json: bool) -> None:
    from smidgen.judge import Compared

    found = judge.compare(pair.prompt or "", pair.a or "", pair.b or "")
    if json:
        print_json(asdict(found))
        return
    judges = [found.said] if isinstance(found, Compared) else found.said
    print(_in_words(found.verdict, [said for judge in judges for said in judge]))
    if not isinstance(found, Compared):
        say(f"leaning: {VERDICTS[found.leaning]}, with confidence {found.confidence:.3f}")
    for number, judgements in enumerate(judges, start=1):
        if len(judges) > 1:
            say(f"\njudge {number}")
        for said in judgements:
            scores = f", scores {said.scores[0]:g} for A and {said.scores[1]:g} for B" if said.scores else ""
            fault = f": {said.fault}" if said.fault else ""
            say(f"\n{said.order[0].upper()} shown first: {VERDICTS[said.verdict]}{scores}{fault}")
            say(said.text)
    agreed = "all agree" if found.consistent else "not all agree"
    say(f"\n{found.judgements} judgements, {agreed}; {found.tokens:,} tokens in {found.seconds:.1f} s")


def _stream_one(judge: "Judge | Ensemble", pair: PairOptions) -> None:
    from smidgen.judge import Judge

    assert isinstance(judge, Judge)
    judged = judge.stream(pair.prompt or "", pair.a or "", pair.b or "")
    while True:
        try:
            print_json(asdict(next(judged)), on_one_line=True)
        except StopIteration as finished:
            print_json(asdict(finished.value), on_one_line=True)
            return


def _in_words(verdict: str | None, said: Sequence["Said"]) -> str:
    """Describe a verdict; a tie of judgements that contradict each other is not called one."""
    if verdict == "tie" and {"a", "b"} <= {each.verdict for each in said}:
        return "the judgements contradict each other, so neither counts as better"
    return VERDICTS[verdict]


def judge_file(
    judge: "Judge | Ensemble", file: Path, out: Path, rows: RowOptions, prices: "Prices"
) -> dict[str, Any]:
    """Judge every pair of a file, resuming an unfinished output file and showing progress."""
    from smidgen.evaluation.cost import cost_table
    from smidgen.judge.ensemble import EnsembleJudgements

    found = judge.judge_rows(file, out, rows)
    say_rejected(found.rejected)
    with Progress("judge", total=found.total) as progress:
        progress.begin_at(found.known)
        for number, record in enumerate(found, start=1):
            timing = record.completion.timing
            is_new = timing is not None and number > found.known
            progress.update(number, tokens=timing.completion_tokens if timing and is_new else 0)
    verdicts = found.verdicts()
    sides = ("a", "b", "tie", *(["unsure"] if isinstance(found, EnsembleJudgements) else []), None)
    counts = {str(side): sum(pair.verdict == side for pair in verdicts) for side in sides}
    speed = found.speed().to_json()
    return {
        "file": str(file),
        "out": str(out),
        "pairs": len(verdicts),
        "judgements": len(found.records),
        "verdicts": counts,
        "consistent": sum(pair.consistent for pair in verdicts),
        "unparsed": sum(not record.score.parsed for record in found.records),
        "rejected_rows": len(found.rejected),
        "speed": speed,
        "cost": cost_table({"judge": {"n": len(found.records), "speed": speed}}, prices),
        "labelled": found.labelled,
    }


def _show_file(result: dict[str, Any]) -> None:
    verdicts, number = result["verdicts"], result["pairs"]
    names = {"a": "A is better", "b": "B is better", "tie": "neither", "unsure": "unsure", "None": "unparsed"}
    counts = [(name, f"{verdicts[side]:,}") for side, name in names.items() if side in verdicts]
    print_table(counts, headers=("verdict", "pairs"))
    say(
        f"{number:,} pairs, {result['judgements']:,} judgements; both orders agree on "
        f"{result['consistent']:,} pairs; {result['unparsed']:,} judgements unparsed"
    )
    say_cost(result["cost"])
    if result["labelled"]:
        say("the file has labels; `smidgen evaluate judge` measures the accuracy of the verdicts")
    say(f"judgements: {result['out']}")
