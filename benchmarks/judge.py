"""Judging speed: smidgen, a loop over `mlx_lm.generate`, and chat requests to llama.cpp's server.

    python benchmarks/judge.py

Pairs of the generated world are judged in both orders with the template `rubric`. Every contender answers the
same prompts greedily with the same weights in a separate process; loading is not counted, and the texts are
compared. On shapes where a contender would take hours, it judges fewer pairs. Pairs per second, ratios and
the measuring conditions are saved to `benchmarks/results/judge-<machine>.json`.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from _common import facts_of, machine, peak_memory_bytes, run, versions, write_results

ROOT = Path(__file__).parents[1]
OURS = "smidgen"


@dataclass(frozen=True)
class Case:
    """A model and its number of pairs.

    Attributes:
        name: name of the case.
        shape: a shape of `tests/tools/real_shapes.py`, with random weights; empty for the judge of `make
            demo`.
        pairs: number of pairs, each judged in both orders.
        loop_pairs: number of pairs for the loop.
        shipped_pairs: number of pairs for the loop on MLX as shipped.
        max_tokens: maximum length of an answer.
    """

    name: str
    shape: str
    pairs: int
    loop_pairs: int
    shipped_pairs: int
    max_tokens: int


CASES = {
    case.name: case
    for case in (
        Case("bundled", "", 240, 40, 10, 96),
        Case("Qwen3-0.6B", "Qwen3-0.6B", 16, 4, 0, 32),
    )
}
PACKAGES = ("mlx", "mlx-lm", "numpy", "scipy-openblas32", "xllamacpp")


# ------------------------------------------------------------------------------------- in a separate process


def samples_of(case: Case, pairs: int) -> Any:
    """Return the first pairs of the world, in both orders."""
    from smidgen.tasks import JudgeTask, find_task

    rows = JudgeTask().world_rows("test", case.pairs, seed=0)
    return find_task("judge").samples(rows[:pairs], source="world")


def smidgen(model: str, case: Case, pairs: int) -> tuple[float, dict[str, str]]:
    """Judge with smidgen's engine: batched prompts with shared prefixes."""
    from smidgen.data.types import Request, Sampling
    from smidgen.inference import open_engine
    from smidgen.options import EngineOptions

    samples = samples_of(case, pairs)
    engine = open_engine(EngineOptions(model, engine="mlx"))
    started = time.perf_counter()
    sampling = Sampling(max_tokens=case.max_tokens)
    found = {
        request.sample.id: completion.text
        for request, completion in engine.complete([Request(sample, sampling) for sample in samples])
    }
    return time.perf_counter() - started, found


def smidgen_logits(model: str, case: Case, pairs: int) -> tuple[float, dict[str, str]]:
    """Judge with smidgen's engine by log-probability scoring."""
    from smidgen.data.types import Request
    from smidgen.inference import open_engine
    from smidgen.options import EngineOptions
    from smidgen.tasks.judge.by_logits import ByLogits
    from smidgen.tasks.judge.published_templates import Rubric

    samples = samples_of(case, pairs)
    judge = ByLogits(open_engine(EngineOptions(model, engine="mlx")), Rubric())
    started = time.perf_counter()
    found = {
        request.sample.id: completion.text
        for request, completion in judge.complete([Request(sample) for sample in samples])
    }
    return time.perf_counter() - started, found


def loop(model: str, case: Case, pairs: int) -> tuple[float, dict[str, str]]:
    """Judge one prompt after the other through mlx-lm, as shipped."""
    from mlx_lm import generate, load

    from smidgen.models.load import resolve

    samples = samples_of(case, pairs)
    loaded, tokenizer = load(str(resolve(model)))[:2]
    started = time.perf_counter()
    found = {}
    for sample in samples:
        messages = [asdict(message) for message in sample.messages]
        prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, enable_thinking=False)
        found[sample.id] = generate(loaded, tokenizer, prompt, max_tokens=case.max_tokens)
    return time.perf_counter() - started, found


def loop_fast(model: str, case: Case, pairs: int) -> tuple[float, dict[str, str]]:
    """The same on smidgen's BLAS for MLX, in float32 where that is faster on this device."""
    from smidgen import backend

    assert backend.blas().fast, backend.blas().problem
    return loop(model, case, pairs)


def chat(model: str, case: Case, pairs: int) -> tuple[float, dict[str, str]]:
    """Judge one chat request after the other with llama.cpp's server in this process, prompt cache on."""
    import xllamacpp

    from smidgen.export.gguf import write_gguf

    samples = samples_of(case, pairs)
    path = Path(model) / "model.gguf"
    if not path.exists():
        write_gguf(model, path, dtype="F16")
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(path)
    parameters.n_ctx, parameters.verbosity = 4096, -1
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = machine()["cores"]
    server = xllamacpp.Server(parameters)

    def asked(sample: Any, max_tokens: int) -> str:
        request = {
            "messages": [asdict(message) for message in sample.messages],
            "max_tokens": max_tokens,
            "temperature": 0,
            "chat_template_kwargs": {"enable_thinking": False},
        }
        return server.handle_chat_completions(request)["choices"][0]["message"]["content"]

    asked(samples[0], 1)
    started = time.perf_counter()
    found = {sample.id: asked(sample, case.max_tokens) for sample in samples}
    return time.perf_counter() - started, found


CONTENDERS: dict[str, Callable[[str, Case, int], tuple[float, dict[str, str]]]] = {
    OURS: smidgen,
    "smidgen, by probabilities": smidgen_logits,
    "llama.cpp chat, one by one": chat,
    "mlx_lm.generate, our BLAS": loop_fast,
    "mlx_lm.generate": loop,
}


def child(contender: str, model: str, case: Case, pairs: int) -> None:
    """Judge, and print the measurements as JSON."""
    seconds, texts = CONTENDERS[contender](model, case, pairs)
    report = {"seconds": seconds, "texts": texts, "peak": peak_memory_bytes(), "versions": versions(PACKAGES)}
    print("\n" + json.dumps(report))


# ------------------------------------------------------------------------------------------------ comparison


def bundled_judge(folder: Path) -> Path:
    """Return the fused judge of `make demo`, which is trained first if it does not exist."""
    command = ["run", str(ROOT / "recipes/nano-judge.toml"), "--runs", str(ROOT / "runs")]
    subprocess.run([sys.executable, "-m", "smidgen", *command], check=True, stdout=subprocess.DEVNULL)
    from smidgen.models.load import load
    from smidgen.models.lora import fuse
    from smidgen.models.save import save_model

    loaded = load("smidgen:nano", adapter=ROOT / "runs/nano-judge/best")
    fuse(loaded.model)
    save_model(folder / "judge", loaded.model, loaded.config, loaded.path)
    return folder / "judge"


def random_model(folder: Path, shape: str) -> Path:
    """Write random weights of a real shape."""
    sys.path.insert(0, str(ROOT))
    from tests.tools.real_shapes import SHAPES, write_model

    return write_model(folder, SHAPES[shape], dtype="float32")


def pairs_for(contender: str, case: Case) -> int:
    """Return the number of pairs that a contender judges."""
    if contender.startswith(OURS):
        return case.pairs
    return case.shipped_pairs if contender == "mlx_lm.generate" else case.loop_pairs


def compare(case: Case, contenders: Sequence[str], rounds: int) -> dict[str, Any]:
    """Let the contenders take turns on one case."""
    turns: dict[str, list[dict[str, Any]]] = {name: [] for name in contenders if pairs_for(name, case)}
    with tempfile.TemporaryDirectory() as folder:
        print(f"{case.name}: making the weights …", file=sys.stderr)
        model = str(random_model(Path(folder), case.shape) if case.shape else bundled_judge(Path(folder)))
        for turn in range(rounds):
            for name, results in turns.items():
                print(f"{case.name}, round {turn + 1}: {name} …", file=sys.stderr)
                arguments = ["--child", name, "--model", model, "--cases", case.name]
                results.append(run(__file__, arguments, what=f"{name} on {case.name}"))
    return summary(case, turns)


def summary(case: Case, turns: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Return the best round of each contender, and the ratio of our rate to its rate."""
    rows: dict[str, dict[str, Any]] = {}
    for name, results in turns.items():
        pairs = pairs_for(name, case)
        best = min(results, key=lambda result: result["seconds"])
        rows[name] = {
            "pairs": pairs,
            "pairs_per_second": pairs / best["seconds"],
            **facts_of(results),
        }
    ours = turns[OURS][0]["texts"]
    for name, row in rows.items():
        texts = turns[name][0]["texts"]
        row["ratio"] = rows[OURS]["pairs_per_second"] / row["pairs_per_second"]
        if "probabilities" not in name:
            row["same_texts"] = sum(ours[key].strip() == text.strip() for key, text in texts.items())
            row["texts"] = len(texts)
    return {"case": asdict(case), "contenders": rows}


def show(result: dict[str, Any]) -> None:
    """Print one case as a table."""
    case = result["case"]
    print(f"\n{case['name']}: pairs in both orders, at most {case['max_tokens']} tokens each")
    print(f"{'':28}{'pairs/s':>10}{'pairs':>7}{'peak MB':>9}{'smidgen is':>12}{'same texts':>12}")
    for name, row in result["contenders"].items():
        same = f"{row['same_texts']} of {row['texts']}" if "texts" in row else ""
        print(
            f"{name:28}{row['pairs_per_second']:10.3f}{row['pairs']:7}{row['peak_memory_bytes'] / 1e6:9.0f}"
            f"{row['ratio']:11.2f}x{same:>12}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--model", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        case = CASES[arguments.cases[0]]
        child(arguments.child, arguments.model, case, pairs_for(arguments.child, case))
        return
    names = list(CONTENDERS) if sys.platform == "linux" else [n for n in CONTENDERS if "our BLAS" not in n]
    results = [compare(CASES[name], names, arguments.rounds) for name in arguments.cases]
    for result in results:
        show(result)
    print(f"\nwritten to {write_results('judge', results)}")


if __name__ == "__main__":
    main()
