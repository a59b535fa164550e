"""`smidgen bench`: the speed of a model on this machine, and the device's upper bound."""

from collections.abc import Iterator
from itertools import groupby
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from smidgen.cli.console import Progress, count, print_json, print_table, say, size
from smidgen.cli.parameters import Json
from smidgen.options import Adapter, EngineOptions, KvCacheBits, Model, WorkloadOptions

if TYPE_CHECKING:
    from smidgen.benchmark import BenchmarkResult, Percentiles


def bench(
    model: Model = EngineOptions.model,
    /,
    *,
    engine: Annotated[
        tuple[Literal["mlx", "llama", "http"], ...],
        Parameter(help="Engine to measure; repeatable. Default: every engine that can run the model."),
    ] = (),
    adapter: Adapter = None,
    kv_bits: KvCacheBits = None,
    workload: WorkloadOptions = WorkloadOptions(),
    json: Json = False,
) -> None:
    """Measure prefill, decoding, latency and memory of a model, with the upper bound of this device.

    Times are wall-clock from submitting the requests to receiving the answers, queueing included. No two
    prompts share a prefix, so that prefix caches do not help. Prompts are sent without the chat template; a
    server applies its own, whose tokens do not count as prefill. Rates are medians over the repeats and
    latencies are percentiles over all requests. A dash is a decoding rate that is lost in the noise between
    repeats. On a CPU, memory is that of the whole process.
    """
    from smidgen.benchmark import Benchmark

    work = Benchmark(EngineOptions(model, adapter=adapter, kv_bits=kv_bits), engine, workload)
    for name, steps in groupby(work, key=lambda step: step.engine):
        with Progress(f"bench {name}", total=work.total) as progress:
            for step in steps:
                progress.update(step.done)
    assert work.result is not None
    if json:
        print_json(work.result.to_json())
    else:
        _show(work.result)


def _show(found: "BenchmarkResult") -> None:
    """Print the results, with a column per engine and one for the device's upper bound."""
    roofline = found.roofline
    headers = [found.model, *found.engines, *(["upper bound"] if roofline else [])]
    width = len(headers)
    print_table([row[:width] for row in _rows(found)], headers=headers)
    machine = f"{found.device.name}, {found.device.cores} cores"
    say(f"medians of {found.repeats} repeats, prompts of {found.prompt_tokens} tokens, on {machine}")
    if roofline:
        say(
            f"upper bound: {count(roofline.flops_per_second / 1e9)} GFLOP/s in {roofline.dtype}, "
            f"{count(roofline.bytes_per_second / 1e9)} GB/s, {size(roofline.step_bytes)} of weights as "
            "stored read per step; it ignores the KV cache and attention, and weights that fit into a CPU "
            "cache may be read faster"
        )
    for name, reason in found.skipped.items():
        say(f"{name} skipped: {reason}")
    if found.auto:
        say(f"engine auto: {found.auto}")


def _rows(found: "BenchmarkResult") -> Iterator[list[str]]:
    """Yield the lines of the table; the last cell is the upper bound."""
    engines, roofline = list(found.engines.values()), found.roofline
    sizes = list(engines[0].batches)
    decode = roofline.decode_tokens_per_second if roofline else {}
    prefill = [_rate(one.prefill_tokens_per_second) for one in engines]
    yield ["prefill, tokens/s", *prefill, _rate(roofline and roofline.prefill_tokens_per_second)]
    for number in sizes:
        rates = (_rate(one.batches[number].decode_tokens_per_second) for one in engines)
        yield [f"decode, batch of {number}, tokens/s", *rates, _rate(decode.get(number))]
    yield ["time to first token, p50 / p95", *(_pair(one.time_to_first_token) for one in engines), ""]
    for number in sizes:
        latencies = (_pair(one.batches[number].latency) for one in engines)
        yield [f"latency, batch of {number}, p50 / p95", *latencies, ""]
    written = [[batch.completion_tokens for batch in one.batches.values()] for one in engines]
    yield ["tokens per answer, mean", *(count(sum(means) / len(means)) for means in written), ""]
    memory = [one.peak_memory_bytes for one in engines]
    yield ["peak memory", *("–" if peak is None else size(peak) for peak in memory), ""]


def _rate(value: float | None) -> str:
    return "–" if value is None else count(value)


def _pair(seconds: "Percentiles") -> str:
    return f"{1000 * seconds.p50:,.0f} / {1000 * seconds.p95:,.0f} ms"
