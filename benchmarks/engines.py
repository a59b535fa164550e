"""The engine `llama` compared with plain xllamacpp, with mlx-lm, and with the device's roofline.

    python benchmarks/engines.py

Pairs of the generated world are judged with the template `rubric` by a model of the shape of Qwen3-0.6B with
random 4-bit weights (GGUF Q4_0). Every contender gets the same prompts as token ids, decodes greedily and
runs in a separate process; loading is not counted. Plain xllamacpp answers one completion after the other,
with default settings except for context and threads: with its default prompt cache, warm, and without it.
mlx-lm gets the first few prompts; it runs the unquantised weights in float32 on smidgen's BLAS, its fastest
way on a CPU.

The roofline is the limit set by the device's memory and arithmetic: decoding cannot be faster than reading
the weights, and prefill cannot be faster than computing their products.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from _common import facts_of, machine, peak_memory_bytes, run, versions, write_results

ROOT = Path(__file__).parents[1]
SHAPE = "Qwen3-0.6B"
OURS = "smidgen, llama"
PROMPTS, MAX_TOKENS = 64, 32
PACKAGES = ("xllamacpp", "gguf", "mlx", "mlx-lm", "numpy", "scipy-openblas32")
Answers = dict[str, list[int] | str]


# ------------------------------------------------------------------------------------- in a separate process


def samples_of(count: int) -> list[Any]:
    """Return the prompts of a judge, both orders of each pair."""
    from smidgen.tasks import JudgeTask, find_task

    rows = JudgeTask().world_rows("test", PROMPTS // 2, seed=0)
    return list(find_task("judge").samples(rows, source="world"))[:count]


def prompts_of(folder: Path, count: int) -> dict[str, list[int]]:
    """Return the prompts as token ids."""
    from smidgen.data.templates import load_tokenizer

    tokenizer = load_tokenizer(folder)
    return {sample.id: tokenizer.render_prompt(sample.messages) for sample in samples_of(count)}


def ours(folder: Path, count: int) -> tuple[float, Answers]:
    """Answer all prompts at once through `open_engine`."""
    from smidgen.data.types import Request, Sampling
    from smidgen.inference import open_engine
    from smidgen.inference.llama import MOST_SLOTS
    from smidgen.options import EngineOptions

    engine = open_engine(EngineOptions(str(folder / "model.gguf")))
    sampling = Sampling(max_tokens=MAX_TOKENS)
    requests = [Request(sample, sampling, logprobs=False) for sample in samples_of(count)]
    list(engine.complete(requests[:1] * MOST_SLOTS))  # loads the model with that many slots
    started = time.perf_counter()
    found = {r.sample.id: list(c.token_ids) for r, c in engine.complete(requests)}
    return time.perf_counter() - started, found


def sequential(folder: Path, count: int, *, cache_prompt: bool = True) -> tuple[float, Answers]:
    """Answer one completion after the other through xllamacpp."""
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(folder / "model.gguf")
    parameters.n_ctx = 2048
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = machine()["cores"]
    parameters.verbosity = -1
    server = xllamacpp.Server(parameters)
    prompts = prompts_of(folder, count)
    settings = {"temperature": 0, "cache_prompt": cache_prompt, "verbose": True, "return_tokens": True}
    server.handle_completions({"prompt": next(iter(prompts.values())), "max_tokens": MAX_TOKENS, **settings})
    started = time.perf_counter()
    found = {}
    for name, prompt in prompts.items():
        answer = server.handle_completions({"prompt": prompt, "max_tokens": MAX_TOKENS, **settings})
        found[name] = answer["__verbose"]["tokens"]
    return time.perf_counter() - started, found


def uncached(folder: Path, count: int) -> tuple[float, Answers]:
    """The same without the prompt cache."""
    return sequential(folder, count, cache_prompt=False)


def mlx_lm(folder: Path, count: int) -> tuple[float, Answers]:
    """Answer one prompt after the other through `mlx_lm.generate`, in float32 on the fast BLAS."""
    from smidgen import backend

    assert backend.blas().fast, backend.blas().problem
    from mlx_lm import generate, load

    model, tokenizer = load(str(folder))[:2]
    model.set_dtype(backend.mx.float32)
    prompts = prompts_of(folder, count)
    started = time.perf_counter()
    found: Answers = {
        name: generate(model, tokenizer, prompt, max_tokens=MAX_TOKENS) for name, prompt in prompts.items()
    }
    return time.perf_counter() - started, found


CONTENDERS: dict[str, tuple[Callable[[Path, int], tuple[float, Answers]], int]] = {
    OURS: (ours, PROMPTS),
    "xllamacpp, one by one": (sequential, PROMPTS),
    "xllamacpp, no prompt cache": (uncached, PROMPTS),
    "mlx_lm.generate, our BLAS": (mlx_lm, 4),
}
"""The contenders, each with its number of prompts."""


def child(contender: str, folder: Path) -> None:
    """Answer the prompts and print the measurements as JSON."""
    work, count = CONTENDERS[contender]
    seconds, answers = work(folder, count)
    report = {"seconds": seconds, "answers": answers, "peak": peak_memory_bytes()}
    print("\n" + json.dumps(report | {"versions": versions(PACKAGES)}))


# ------------------------------------------------------------------------------------------------ comparison


def make_model(folder: Path) -> dict[str, int]:
    """Write the weights as safetensors and GGUF; return the cost of a token."""
    sys.path.insert(0, str(ROOT))
    from tests.tools.real_shapes import SHAPES, tensors, write_model

    from smidgen.export.gguf import write_gguf

    write_model(folder, SHAPES[SHAPE])
    write_gguf(str(folder), folder / "model.gguf", dtype="Q4_0")
    sizes = {name: shape for name, shape in tensors(SHAPES[SHAPE]) if len(shape) == 2}
    products = {name: rows * columns for name, (rows, columns) in sizes.items()}
    head = products["model.embed_tokens.weight"]
    return {
        "file_bytes": (folder / "model.gguf").stat().st_size,
        "flop_a_token_read": 2 * (sum(products.values()) - head),
        "flop_a_token_written": 2 * sum(products.values()),
    }


def read_bandwidth() -> float:
    """Return the memory read bandwidth of all cores in bytes per second; the best of five."""
    import numpy as np

    cores = machine()["cores"]
    parts = np.array_split(np.ones(128 << 20, np.float32), cores)

    def timed(pool: ThreadPoolExecutor) -> float:
        started = time.perf_counter()
        list(pool.map(np.max, parts))
        return time.perf_counter() - started

    with ThreadPoolExecutor(cores) as pool:
        return sum(part.nbytes for part in parts) / min(timed(pool) for _ in range(5))


def roofline(model: dict[str, int]) -> dict[str, float]:
    """Return the roofline of prefill and decode in tokens per second."""
    from smidgen.backend import measure_gflops

    bandwidth, gflops = read_bandwidth(), max(measure_gflops(repeats=9))
    return {
        "bytes_per_second": bandwidth,
        "flop_per_second": gflops * 1e9,
        "written_one_by_one": bandwidth / model["file_bytes"],
        "written_together": gflops * 1e9 / model["flop_a_token_written"],
        "read": gflops * 1e9 / model["flop_a_token_read"],
    }


def summary(turns: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Return the best round of each contender, and the ratio of our rate to its rate."""
    rows: dict[str, dict[str, Any]] = {}
    reference = turns[OURS][0]["answers"]
    for name, results in turns.items():
        best = min(results, key=lambda result: result["seconds"])
        count = CONTENDERS[name][1]
        rows[name] = {
            "requests": count,
            "requests_per_second": count / best["seconds"],
            **facts_of(results),
        }
        if name.startswith("xllamacpp"):
            rows[name]["same_answers"] = sum(reference[key] == ids for key, ids in best["answers"].items())
    for row in rows.values():
        row["ratio"] = rows[OURS]["requests_per_second"] / row["requests_per_second"]
    return rows


def show(report: dict[str, Any]) -> None:
    prompts, top = report["prompts"], report["roofline"]
    print(
        f"\n{SHAPE}, Q4_0: prompts of {prompts['tokens']:.0f} tokens, of which {prompts['shared']} are all "
        f"prompts' beginning, and answers of {MAX_TOKENS}"
    )
    print(f"{'':28}{'requests/s':>12}{'requests':>10}{'peak MB':>9}{'smidgen is':>12}{'same answers':>14}")
    for name, row in report["contenders"].items():
        same = f"{row['same_answers']} of {row['requests']}" if "same_answers" in row else ""
        print(
            f"{name:28}{row['requests_per_second']:12.3f}{row['requests']:10}"
            f"{row['peak_memory_bytes'] / 1e6:9.0f}{row['ratio']:11.2f}x{same:>14}"
        )
    print(
        f"at best: {top['written_one_by_one']:.0f} tokens/s written one by one "
        f"({top['bytes_per_second'] / 1e9:.1f} GB/s), {top['written_together']:.0f} together and "
        f"{top['read']:.0f} read ({top['flop_per_second'] / 1e9:.0f} GFLOP/s in float32)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--model", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments.child, arguments.model)
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        print("making the weights …", file=sys.stderr)
        model = make_model(folder)
        turns: dict[str, list[dict[str, Any]]] = {name: [] for name in CONTENDERS}
        for turn in range(arguments.rounds):
            for name, results in turns.items():
                print(f"round {turn + 1}: {name} …", file=sys.stderr)
                results.append(run(__file__, ["--child", name, "--model", str(folder)], what=name))
        prompts = list(prompts_of(folder, PROMPTS).values())
        shared = next(i for i, ids in enumerate(zip(*prompts, strict=False)) if len(set(ids)) > 1)
        report = {
            "shape": SHAPE,
            "model": model,
            "prompts": {"tokens": sum(map(len, prompts)) / len(prompts), "shared": shared},
            "max_tokens": MAX_TOKENS,
            "roofline": roofline(model),
            "contenders": summary(turns),
        }
    show(report)
    print(f"\nwritten to {write_results('engines', report)}")


if __name__ == "__main__":
    main()
