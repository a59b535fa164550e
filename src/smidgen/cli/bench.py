"""`smidgen bench`: how fast a model is on this machine, and how fast it could be."""

import gc
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter
from cyclopts.types import PositiveInt

from smidgen.cli.console import count, print_json, print_table, say, size
from smidgen.cli.measuring import Load, measure
from smidgen.cli.options import Json
from smidgen.errors import ConfigError, UserError
from smidgen.files import is_url
from smidgen.options import Adapter, EngineName, EngineOptions, KvCacheBits, Model, whole

if TYPE_CHECKING:
    from smidgen.backend import Rates
    from smidgen.evaluation.roofline import Weights


def bench(
    model: Model = "smidgen:nano",
    /,
    *,
    engine: Annotated[
        tuple[Literal["mlx", "llama", "http"], ...],
        Parameter(
            help="An engine to measure; may be given several times. All that run such a model when absent."
        ),
    ] = (),
    adapter: Adapter = None,
    kv_bits: KvCacheBits = None,
    prompt_tokens: Annotated[
        PositiveInt, Parameter(converter=whole, help="Length of each prompt, reached to within a few tokens.")
    ] = 256,
    max_tokens: Annotated[PositiveInt, Parameter(converter=whole, help="Longest answer in tokens.")] = 64,
    batch: Annotated[
        tuple[PositiveInt, ...], Parameter(help="Requests at once; may be given several times.")
    ] = (1, 4, 16),
    repeats: Annotated[
        PositiveInt, Parameter(converter=whole, help="Times that each thing is measured, after a warm-up.")
    ] = 5,
    json: Json = False,
) -> None:
    """Measure prefill, decoding, latency and memory of a model, beside what this device could reach.

    Every time is wall-clock from handing requests to an engine until it hands them back, queueing included,
    and no two prompts begin alike, so that no cache of prompts helps: they go without the chat template, but
    to servers, whose template's tokens are not counted as prefill. Rates are medians over the repeats,
    latencies percentiles over all requests; decoding that is lost in what the repeats differ by is a dash.
    Memory on a CPU is that of the whole process.
    """
    from smidgen.backend import measure_rates

    if max_tokens < 2:
        raise ConfigError("--max-tokens is 1, and decoding is measured after the first token; give 2 or more")
    sizes = sorted(set(batch))
    engines, skipped = {}, {}
    rates = [measure_rates()]
    for name in engine or _engines_for(model):
        try:
            options = EngineOptions(model, name, adapter=adapter, kv_bits=kv_bits, batch_size=max(sizes))
            engines[name] = _measure_engine(options, Load(prompt_tokens, max_tokens, sizes, repeats))
        except UserError as error:
            if engine:
                raise
            skipped[name] = str(error)
    if not engines:
        raise ConfigError(
            f"no engine can be measured with {model}: {'; '.join(dict.fromkeys(skipped.values()))}"
        )
    rates.append(measure_rates())
    found = {
        "model": model,
        "kv_bits": kv_bits,
        "device": _device(),
        "prompt_tokens": prompt_tokens,
        "max_tokens": max_tokens,
        "repeats": repeats,
        "roofline": _roofline(model, rates, prompt_tokens, sizes),
        "engines": engines,
        "skipped": skipped,
    }
    if json:
        print_json(found)
    else:
        _show(found, sizes)


def _engines_for(model: str) -> list[EngineName]:
    """The engines that take such a model, installed or not: those of servers, files or folders."""
    if is_url(model):
        return ["http"]
    return ["llama"] if model.endswith(".gguf") else ["mlx", "llama"]


def _measure_engine(options: EngineOptions, load: Load) -> dict[str, Any]:
    """Open an engine, measure it and close it."""
    from smidgen.backend import reset_peak_memory
    from smidgen.inference import open_engine

    gc.collect()
    reset_peak_memory()
    started = time.perf_counter()
    engine = open_engine(options)
    try:
        opened = time.perf_counter() - started
        return {
            "seconds_to_open": opened,
            **measure(engine, options.engine, load, is_chat=options.engine == "http"),
        }
    finally:
        engine.close()


def _device() -> dict[str, Any]:
    from smidgen import backend

    device = backend.device()
    return {"kind": device.kind, "name": device.name, "cores": device.cores}


def _roofline(
    model: str, measured: "Sequence[Rates]", prompt_tokens: int, sizes: Sequence[int]
) -> dict[str, Any] | None:
    """What this device could reach with the weights as they are stored; None where they are not here.

    Its rates are the best that were measured, before and after the engines: another program slows both.
    """
    from smidgen.backend import Rates, compute_dtype
    from smidgen.evaluation.roofline import decode_bound, prefill_bound

    weights = _weights(model)
    if weights is None:
        return None
    rates = Rates(*map(max, zip(*measured, strict=True)))
    found: dict[str, Any] = {
        "flops_per_second": rates.flops,
        "bytes_per_second": rates.bandwidth,
        "dtype": str(compute_dtype()).removeprefix("mlx.core."),
        **weights._asdict(),
        "prefill_tokens_per_second": prefill_bound(weights, **rates._asdict(), prompt_tokens=prompt_tokens),
    }
    return found | {
        "decode_tokens_per_second": {
            str(number): decode_bound(weights, **rates._asdict(), batch=number) for number in sizes
        }
    }


def _weights(model: str) -> "Weights | None":
    """What the headers of a model's weights say; None for what is neither a folder nor a GGUF file."""
    return _gguf_weights(model) if model.endswith(".gguf") else _folder_weights(model)


def _folder_weights(model: str) -> "Weights | None":
    from smidgen.cli.inspect import parameters_of, part_of
    from smidgen.errors import ModelError
    from smidgen.models.load import read_config, resolve
    from smidgen.models.weights import read_weights

    try:
        path = resolve(model)
        arrays, config = read_weights(path), read_config(path)
    except ModelError:
        return None
    numbers = [(part_of(name), number) for name, number, _ in parameters_of(arrays, config)]
    return _summed(numbers, [(part_of(name), array.nbytes) for name, array in arrays.items()])


def _gguf_weights(model: str) -> "Weights | None":
    from gguf import GGUFReader

    try:
        tensors = GGUFReader(Path(model).expanduser()).tensors
    except (OSError, ValueError, KeyError, IndexError):  # the engine that opens it says what is wrong
        return None
    ends = {"token_embd.weight": "embedding", "output.weight": "head"}
    parts = [ends.get(tensor.name, "blocks") for tensor in tensors]
    return _summed(
        [(part, int(tensor.n_elements)) for part, tensor in zip(parts, tensors, strict=True)],
        [(part, int(tensor.n_bytes)) for part, tensor in zip(parts, tensors, strict=True)],
    )


def _summed(numbers: Iterable[tuple[str, int]], sizes: Iterable[tuple[str, int]]) -> "Weights":
    """The roofline's view of parameters and bytes by part; an embedding beside a head is not read whole."""
    from smidgen.evaluation.roofline import Weights

    parts = dict.fromkeys(("embedding", "head", "blocks"), 0)
    for part, number in numbers:
        parts[part if part in parts else "blocks"] += number
    head = "head" if parts["head"] else "embedding"
    unread = "embedding" if parts["head"] else None
    num_bytes = sum(length for part, length in sizes if part != unread)
    return Weights(sum(parts.values()), parts["blocks"], parts["blocks"] + parts[head], num_bytes)


def _show(found: dict[str, Any], sizes: Sequence[int]) -> None:
    """Print what was measured, a column for each engine and one for the device's bounds."""
    engines, roofline = found["engines"], found["roofline"]
    rows = list(_rows(found, sizes))
    headers = [found["model"], *engines, *(["device's bound"] if roofline else [])]
    width = len(headers)
    print_table([row[:width] for row in rows], headers=headers)
    machine = f"{found['device']['name']}, {found['device']['cores']} cores"
    say(f"medians of {found['repeats']} repeats, prompts of {found['prompt_tokens']} tokens, on {machine}")
    if roofline:
        say(
            f"the bound: {count(roofline['flops_per_second'] / 1e9)} GFLOP/s in {roofline['dtype']}, "
            f"{count(roofline['bytes_per_second'] / 1e9)} GB/s, {size(roofline['step_bytes'])} of weights as "
            "stored for each step; keys, values and attention are left out, and weights that fit into a "
            "cache may be read faster"
        )
    for name, reason in found["skipped"].items():
        say(f"{name} left out: {reason}")


def _rows(found: dict[str, Any], sizes: Sequence[int]) -> Iterator[list[str]]:
    """The lines of the table; the last cell is the device's bound."""
    engines, roofline = list(found["engines"].values()), found["roofline"] or {}
    decode = roofline.get("decode_tokens_per_second", {})
    prefill = [_rate(one["prefill_tokens_per_second"]) for one in engines]
    yield ["prefill, tokens/s", *prefill, _rate(roofline.get("prefill_tokens_per_second"))]
    for number in sizes:
        cells = [one["batches"][str(number)] for one in engines]
        rates = (_rate(cell["decode_tokens_per_second"]) for cell in cells)
        yield [f"decode, {number} at once, tokens/s", *rates, _rate(decode.get(str(number)))]
    yield ["time to first token, p50 / p95", *(_pair(one["time_to_first_token"]) for one in engines), ""]
    for number in sizes:
        cells = [one["batches"][str(number)] for one in engines]
        yield [f"latency, {number} at once, p50 / p95", *(_pair(cell["latency"]) for cell in cells), ""]
    written = [[one["batches"][str(number)]["completion_tokens"] for number in sizes] for one in engines]
    yield ["tokens of an answer, mean", *(count(sum(means) / len(means)) for means in written), ""]
    memory = [one["peak_memory_bytes"] for one in engines]
    yield ["peak memory", *("–" if peak is None else size(peak) for peak in memory), ""]


def _rate(value: float | None) -> str:
    return "–" if value is None else count(value)


def _pair(seconds: dict[str, float]) -> str:
    return f"{1000 * seconds['p50']:,.0f} / {1000 * seconds['p95']:,.0f} ms"
