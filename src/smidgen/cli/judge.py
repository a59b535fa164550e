"""`smidgen judge`: verdicts on one pair of answers, or on a file of pairs."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter
from cyclopts.types import PositiveInt

from smidgen.cli.console import Progress, print_json, print_table, say, say_cost, say_rejected
from smidgen.cli.options import (
    Adapter,
    ApiKeyEnv,
    Engine,
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
    file_or_stdin,
    whole,
)
from smidgen.errors import ConfigError

if TYPE_CHECKING:
    from smidgen.config import Prices
    from smidgen.data.types import Record, Sample


def judge(
    file: Annotated[
        Path | None,
        Parameter(
            allow_leading_hyphen=True,
            converter=file_or_stdin,
            help="A file of pairs in any known format, - for standard input; labels are not needed.",
        ),
    ] = None,
    /,
    *,
    prompt: Annotated[
        str | None, Parameter(allow_leading_hyphen=True, help="What was asked, to judge one pair.")
    ] = None,
    a: Annotated[str | None, Parameter(allow_leading_hyphen=True, help="One answer.")] = None,
    b: Annotated[str | None, Parameter(allow_leading_hyphen=True, help="The other answer.")] = None,
    out: Annotated[
        Path | None,
        Parameter(help="The file of judgements, one a line as they are given; an unfinished one goes on."),
    ] = None,
    model: Model = "smidgen:nano",
    engine: Engine = "auto",
    model_name: ModelName = None,
    api_key_env: ApiKeyEnv = None,
    timeout: Timeout = None,
    adapter: Adapter = None,
    kv_bits: KvBits = None,
    template: Template = None,
    reference: Reference = False,
    samples: Annotated[
        PositiveInt, Parameter(converter=whole, help="Judgements in each order; the majority decides.")
    ] = 1,
    temperature: Temperature = 0.0,
    max_tokens: MaxTokens = 256,
    concurrency: Annotated[PositiveInt, Parameter(converter=whole, help="Judgements decoded together.")] = 64,
    thinking: Thinking = False,
    limit: Limit = None,
    skip_bad_rows: SkipBadRows = False,
    seed: Seed = 0,
    prices: PricesFile = None,
    json: Json = False,
) -> None:
    """Say which of two answers is better, asked in both orders."""
    from smidgen.config import read_prices
    from smidgen.judge import check_samples

    check_samples(samples, temperature)
    pair = (prompt, a, b)
    if file is not None:
        if any(part is not None for part in pair):
            raise ConfigError("give a file of pairs, or --prompt, --a and --b for one pair, but not both")
        if out is None:
            raise ConfigError(
                f"name the file for the judgements of {file} with --out, as --out verdicts.jsonl"
            )
        result = judge_file(
            file,
            out,
            model=model,
            engine=engine,
            model_name=model_name,
            api_key_env=api_key_env,
            timeout=timeout,
            adapter=adapter,
            kv_bits=kv_bits,
            template=template,
            reference=reference,
            samples=samples,
            temperature=temperature,
            max_tokens=max_tokens,
            concurrency=concurrency,
            thinking=thinking,
            limit=limit,
            skip_bad_rows=skip_bad_rows,
            seed=seed,
            prices=read_prices(prices),
        )
        print_json(result) if json else _show_file(result)
        return
    if any(part is None for part in pair):
        raise ConfigError("give --prompt, --a and --b to judge one pair, or a file of pairs")
    for_files = {
        "--out": out,
        "--limit": limit,
        "--prices": prices,
        "--skip-bad-rows": skip_bad_rows or None,
        "--reference": reference or None,
        "--thinking": thinking or None,
    }
    if given := [name for name, value in for_files.items() if value is not None]:
        raise ConfigError(f"{given[0]} is for a file of pairs; leave it out")
    _judge_one(
        prompt or "",
        a or "",
        b or "",
        json=json,
        model=model,
        engine=engine,
        model_name=model_name,
        api_key_env=api_key_env,
        timeout=timeout,
        adapter=adapter,
        kv_bits=kv_bits,
        template=template or "rubric",
        samples=samples,
        temperature=temperature,
        max_tokens=max_tokens,
        concurrency=concurrency,
        seed=seed,
    )


def _judge_one(prompt: str, a: str, b: str, *, json: bool, model: str, **settings: Any) -> None:
    from dataclasses import asdict

    from smidgen.judge import Judge

    with Judge(model, **settings) as opened:
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
    model: str,
    engine: str,
    model_name: str | None,
    api_key_env: str | None,
    timeout: float | None,
    adapter: Path | None,
    kv_bits: int | None,
    template: str | None,
    reference: bool,
    samples: int,
    temperature: float,
    max_tokens: int,
    concurrency: int,
    thinking: bool,
    limit: int | None,
    skip_bad_rows: bool,
    seed: int,
    prices: "Prices",
) -> dict[str, Any]:
    """Judge every pair of a file; each judgement is on disk as soon as it is made, and is made once.

    Beside `out` stands `<out>.pairs.jsonl` when all is done: one verdict a pair.
    """
    from smidgen.data.row_files import source_name
    from smidgen.data.rows import read_rows, select_rows
    from smidgen.data.types import Sampling
    from smidgen.evaluation import collect_records, measure_speed, read_records
    from smidgen.evaluation.cost import cost_table
    from smidgen.evaluation.records import read_log, wall_clock
    from smidgen.files import write_jsonl
    from smidgen.inference import engine_identity, open_engine
    from smidgen.tasks import Judge, find_form

    task = Judge(find_form(template or "rubric"), reference=reference)
    if task.form.singly:
        raise ConfigError(
            f"the template {task.form.name} grades one answer; judge with rubric, scores or verdict"
        )
    rejected: list[str] | None = [] if skip_bad_rows else None
    source = source_name(file)
    rows = select_rows(read_rows(file, rejected=rejected), limit=limit, source=source)
    asked = _repeated(task.samples(rows, source=source, labelled=False, rejected=rejected), samples)
    say_rejected(rejected or ())
    sampling = Sampling(max_tokens=max_tokens, temperature=temperature, seed=seed)
    same: dict[str, Any] = {
        "engine": engine,
        "adapter": adapter,
        "kv_bits": kv_bits,
        "thinking": thinking,
        "model_name": model_name,
    }
    identity = engine_identity(model, **same)
    known = len(read_records(out)) if out.exists() else 0
    opened = open_engine(model, **same, batch_size=concurrency, api_key_env=api_key_env, timeout=timeout)
    records: list[Record] = []
    with Progress("judge", total=len(asked)) as progress:
        progress.begin_at(known)
        for record in collect_records(task, asked, opened, sampling, out, model=identity):
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
    from smidgen.tasks.judgements import outcome, read_record

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
