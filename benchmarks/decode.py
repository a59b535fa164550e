"""Prefill and decoding of a real model at several numbers of rows, as shares of what the machine allows.

    python benchmarks/decode.py

Prompts are those of a judge: pairs of the generated world in both orders, with the template `rubric`. Every
engine and file type answers the same prompts of SmolLM2-135M-Instruct greedily in a separate process. Prefill
is the time until every prompt has one token, decoding the time of longer answers beyond that; no prompt is
asked twice. Loading is not counted.

The bound of a decoding step of n rows is the larger of two times, at rates measured before and after: reading
all weights from memory as the contender stores them, and 2 operations per weight and row as in a large matrix
product. The bound of prefill is 2 operations per token and weight of the blocks; what prompts share counts
once.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import count, pairwise
from typing import Any

from _common import machine, peak_memory_bytes, run, versions, write_results

MODEL = "smidgen:smollm2"
ROWS = (1, 8, 32, 64)
MAX_TOKENS = 48
BITS = {"mlx": 32, "llama F32": 32, "llama F16": 16, "llama BF16": 16, "llama Q8_0": 8.5, "mlx_lm": 32}
"""The contenders, with the bits per weight that they read."""
MOST_ROWS = {"mlx_lm": 8}
"""Contenders that would take many minutes with more rows."""
PACKAGES = ("xllamacpp", "mlx", "mlx-lm", "numpy", "scipy-openblas32")


# ------------------------------------------------------------------------------------- in a separate process


def samples_of(rows: int, turn: int) -> list[Any]:
    """Return the prompts of a judge, both orders of each pair; those of two turns share no beginning."""
    from smidgen.tasks import JudgeTask, find_task

    pairs = JudgeTask().world_rows("test", max(1, rows // 2), seed=0)
    samples = list(find_task("judge").samples(pairs, source="world"))[:rows]
    return [
        replace(sample, messages=(replace(first, content=f"{turn}. {first.content}"), *rest))
        for sample in samples
        for first, *rest in [sample.messages]
    ]


class Ours:
    """One of smidgen's engines."""

    def __init__(self, contender: str):
        """Open the engine; the first question loads the weights."""
        from smidgen.inference import open_engine
        from smidgen.inference.llama import LlamaEngine
        from smidgen.inference.llama_files import llama_model
        from smidgen.options import EngineOptions

        if contender == "mlx":
            self._engine: Any = open_engine(EngineOptions(MODEL, engine="mlx"))
        else:
            model = llama_model(MODEL, dtype=contender.removeprefix("llama "))
            self._engine = LlamaEngine(model, batch_size=max(ROWS))

    def answer(self, samples: Sequence[Any], max_tokens: int) -> int:
        """Answer all prompts together; return the number of tokens."""
        from smidgen.data.types import Request, Sampling

        requests = [Request(sample, Sampling(max_tokens=max_tokens), logprobs=False) for sample in samples]
        return sum(len(completion.token_ids) for _, completion in self._engine.complete(requests))


class MlxLm:
    """mlx-lm's own batches, in float32 on smidgen's BLAS, its fastest way on a CPU."""

    def __init__(self, contender: str):
        """Load the model."""
        from smidgen import backend

        assert backend.blas().fast, backend.blas().problem
        from mlx_lm import load

        from smidgen.models.load import resolve

        self._model, self._tokenizer = load(str(resolve(MODEL)))[:2]
        self._model.set_dtype(backend.mx.float32)

    def answer(self, samples: Sequence[Any], max_tokens: int) -> int:
        """Answer all prompts together; return the number of tokens."""
        from mlx_lm import batch_generate

        prompts = list(tokens_of(samples))
        answered = batch_generate(self._model, self._tokenizer, prompts, max_tokens=max_tokens)
        return answered.stats.generation_tokens


def tokens_of(samples: Sequence[Any]) -> list[list[int]]:
    """Return the prompts as token ids."""
    from smidgen.data.templates import load_tokenizer
    from smidgen.models.load import resolve

    tokenizer = load_tokenizer(resolve(MODEL))
    return [tokenizer.render_prompt(sample.messages) for sample in samples]


def num_distinct(prompts: Sequence[Sequence[int]]) -> int:
    """Return the number of tokens to compute if every shared prefix is computed once."""
    from smidgen.inference.prefixes import common_prefix

    ordered = sorted(map(tuple, prompts))
    return sum(map(len, ordered)) - sum(len(common_prefix(*pair)) for pair in pairwise(ordered))


def child(contender: str, numbers: Sequence[int], repeats: int) -> None:
    """Measure a contender at every number of rows and print the results as JSON."""
    from smidgen.backend import measure_rates

    asked = (MlxLm if contender == "mlx_lm" else Ours)(contender)
    turns = count(1)
    found = {}
    for rows in numbers:
        if rows > MOST_ROWS.get(contender, rows):
            continue
        asked.answer(samples_of(rows, next(turns)), 2)  # loads the model with that many slots
        rates, firsts, alls = [measure_rates()], [], []
        for _ in range(repeats):
            for times, max_tokens in ((firsts, 1), (alls, MAX_TOKENS)):
                samples = samples_of(rows, next(turns))
                started = time.perf_counter()
                tokens = asked.answer(samples, max_tokens)
                times.append((time.perf_counter() - started, tokens))
        rates.append(measure_rates())
        prompts = tokens_of(samples)
        seconds, tokens = min(alls)
        found[rows] = {
            "prompt_tokens": sum(map(len, prompts)),
            "distinct_tokens": num_distinct(prompts),
            "prefill_seconds": min(firsts)[0],
            "decode_seconds": seconds - min(firsts)[0],
            "decoded_tokens": tokens - rows,
            "flops": max(rate.flops for rate in rates),
            "bandwidth": max(rate.bandwidth for rate in rates),
        }
    report = {"rows": found, "peak": peak_memory_bytes(), "versions": versions(PACKAGES)}
    print("\n" + json.dumps(report))


# ------------------------------------------------------------------------------------------------ comparison


def rated(contender: str, found: dict[str, Any], weights: Any) -> dict[str, Any]:
    """Return the rates of a contender at one number of rows, beside their bounds."""
    from smidgen.benchmark.roofline import decode_bound

    rows = found["decoded_tokens"] / (MAX_TOKENS - 1)  # on average, since some answers end early
    read = weights._replace(step_bytes=weights.step_parameters * BITS[contender] / 8)
    most = decode_bound(read, flops=found["flops"], bandwidth=found["bandwidth"], batch=rows)
    head = weights.step_parameters - weights.block_parameters
    operations = 2 * (weights.block_parameters * found["distinct_tokens"] + head * round(rows))
    prefill = found["distinct_tokens"] / found["prefill_seconds"]
    decode = found["decoded_tokens"] / found["decode_seconds"]
    return found | {
        "prefill": prefill,
        "prefill_share": operations / found["flops"] / found["prefill_seconds"],
        "decode": decode,
        "decode_bound": most,
        "decode_share": decode / most,
    }


def show(results: dict[str, Any], numbers: Sequence[int]) -> None:
    """Print a table per number of rows."""
    for rows in map(str, numbers):
        found = {name: one[rows] for name, one in results.items() if rows in one}
        if not found:
            continue
        first = next(iter(found.values()))
        print(
            f"\n{rows} rows, {first['prompt_tokens']} tokens of prompts, {first['distinct_tokens']} of them "
            f"to compute, {MAX_TOKENS} tokens an answer"
        )
        print(
            f"{'':14}{'prefill/s':>10}{'of bound':>10}{'decode/s':>10}{'bound':>8}{'share':>7}{'mlx is':>9}"
        )
        for name, one in found.items():
            ratio = found["mlx"]["decode"] / one["decode"] if "mlx" in found else float("nan")
            print(
                f"{name:14}{one['prefill']:10.0f}{one['prefill_share']:10.2f}{one['decode']:10.0f}"
                f"{one['decode_bound']:8.0f}{one['decode_share']:7.2f}{ratio:8.2f}x"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--contenders", nargs="+", choices=BITS, default=list(BITS))
    parser.add_argument("--rows", nargs="+", type=int, default=list(ROWS))
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments.child, arguments.rows, arguments.repeats)
        return
    from smidgen.benchmark.roofline import weights_of

    weights = weights_of(MODEL)
    results = {}
    for name in arguments.contenders:
        print(f"{name} …", file=sys.stderr)
        numbers = [str(number) for number in arguments.rows]
        given = ["--child", name, "--rows", *numbers, "--repeats", str(arguments.repeats)]
        found = run(__file__, given, what=name)
        results[name] = {rows: rated(name, one, weights) for rows, one in found["rows"].items()}
        results[name]["load"] = found["load"]
        results[name]["peak_memory_bytes"] = found["peak"]
    show(results, arguments.rows)
    print(f"\n{machine()['cpu']}, {machine()['cores']} cores; written to {write_results('decode', results)}")


if __name__ == "__main__":
    main()
