"""Drafted decoding against one token a pass of the same engine: Jacobi, prompt look-up, a draft model.

    python benchmarks/jacobi.py --problems shared/data/solve/gsm8k_test_a.jsonl

One process holds an engine per way of decoding; they take turns on each batch of prompts, and the order of
turns rotates. Prompts are those of the generated world (`answers`, and a judge with the template `rubric`)
and problems of a file. Times are end to end, prefill included. The speed-up is the ratio of summed times with
a 95 % interval by bootstrap over the batches; `cpu` is the ratio of processor times, which other programs on
the machine disturb less. Answers must be the same, token for token, and the tokens whose choice was open to
rounding are counted. The first answer of each engine, which measures the times of passes, is not counted.
"""

import argparse
import json
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from _common import machine, versions, write_results

MODES = ("ar", "lookup", "jacobi")
PACKAGES = ("mlx", "mlx-lm", "numpy", "scipy-openblas32")


def prompts_of(kind: str, count: int, problems: Path | None) -> list[Any]:
    """Return the first prompts of a kind: `answers`, `judge` or `problems`."""
    from smidgen.data.types import Message, Sample
    from smidgen.tasks import JudgeTask, find_task

    if kind == "problems":
        assert problems is not None
        rows = [json.loads(line) for line in problems.read_text(encoding="utf-8").splitlines()[:count]]
        return [Sample(str(i), (Message("user", row["question"]),)) for i, row in enumerate(rows)]
    if kind == "judge":
        pairs = JudgeTask().world_rows("test", -(-count // 2), seed=0)
        return list(find_task("judge").samples(pairs, source="world"))[:count]
    task = find_task("answers")
    return list(task.samples(task.world_rows("test", count, seed=0), source="world"))[:count]


class Contender:
    """An engine with one way of decoding, and what it took."""

    def __init__(self, name: str, loaded: Any, draft: Any, batch: int):
        """Open it; a name is a mode, or a mode with a width, and with a pool, such as `jacobi 16 4`."""
        from smidgen.inference.drafting import Drafting
        from smidgen.inference.mlx import MlxEngine

        mode, *numbers = name.split()
        settings = dict(zip(("width", "pool_size"), map(int, numbers), strict=False))
        drafting = None if mode == "ar" else Drafting(mode, draft if mode == "draft" else None, **settings)
        self.engine = MlxEngine(loaded, batch_size=batch, drafting=drafting)
        self.seconds: list[float] = []
        self.processor: list[float] = []
        self.completions: list[Any] = []

    def answer(self, samples: list[Any], max_tokens: int, *, counts: bool) -> None:
        """Answer prompts together."""
        from smidgen.data.types import Request, Sampling

        requests = [Request(sample, Sampling(max_tokens=max_tokens), logprobs=False) for sample in samples]
        started, used = time.perf_counter(), time.process_time()
        found = {request.sample.id: completion for request, completion in self.engine.complete(requests)}
        if counts:
            self.seconds.append(time.perf_counter() - started)
            self.processor.append(time.process_time() - used)
            self.completions += [found[sample.id] for sample in samples]


def measured(names: list[str], loaded: Any, draft: Any, samples: list[Any], batch: int, most: int) -> Any:
    """Return the figures of each contender on some prompts."""
    contenders = {name: Contender(name, loaded, draft, batch) for name in names}
    for one in contenders.values():
        one.answer(samples[:1], most, counts=False)
    for turn, begin in enumerate(range(0, len(samples), batch)):
        order = names[turn % len(names) :] + names[: turn % len(names)]
        for name in order:
            contenders[name].answer(samples[begin : begin + batch], most, counts=True)
    return {name: figures(one, contenders["ar"]) for name, one in contenders.items()}


def figures(one: Contender, plain: Contender) -> dict[str, Any]:
    """Return what a contender took and gave, beside one token a pass."""
    tokens = sum(len(completion.token_ids) for completion in one.completions)
    same = [
        a.token_ids == b.token_ids and a.text == b.text
        for a, b in zip(one.completions, plain.completions, strict=True)
    ]
    found = {
        "tokens": tokens,
        "tokens_per_second": tokens / sum(one.seconds),
        "same": f"{sum(same)}/{len(same)}",
    }
    passes = [completion.passes for completion in one.completions if completion.passes]
    if not passes:
        return found
    committed = Counter(count for each in passes for count in each.committed)
    num_passes, drafted = sum(committed.values()), sum(each.drafted for each in passes)
    mine, theirs = np.array(one.seconds), np.array(plain.seconds)
    draws = np.random.default_rng(0).integers(0, len(mine), (2000, len(mine)))
    interval = np.quantile(theirs[draws].sum(1) / mine[draws].sum(1), [0.025, 0.975])
    return found | {
        "tokens_per_pass": tokens / num_passes,
        "accepted_share": (tokens - num_passes) / drafted if drafted else None,
        "near_ties": sum(each.near_ties for each in passes),
        "committed": {str(count): number for count, number in sorted(committed.items())},
        "speed_up": float(theirs.sum() / mine.sum()),
        "interval": interval.tolist(),
        "cpu": float(sum(plain.processor) / sum(one.processor)),
    }


def pass_times(loaded: Any) -> dict[int, float]:
    """Return the seconds of a pass by its number of tokens, relative to one token."""
    from smidgen.inference.decoder import Decoder
    from smidgen.inference.forward import forward_of
    from smidgen.inference.pass_costs import measure

    seconds = measure(Decoder(forward_of(loaded.model)), 256, (1, 2, 4, 8, 16, 32, 64))
    return {width: each / seconds[1] for width, each in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--models", nargs="+", default=["smidgen:nano", "smidgen:smollm2"])
    parser.add_argument("--modes", nargs="+", default=list(MODES), help="such as lookup, or 'jacobi 16 4'")
    parser.add_argument("--kinds", nargs="+", default=["answers", "judge", "problems"])
    parser.add_argument("--problems", type=Path, help="file of rows with a question")
    parser.add_argument("--draft-model", help="for the mode draft")
    parser.add_argument("--count", type=int, default=8, help="number of prompts of each kind")
    parser.add_argument("--batch", nargs="+", type=int, default=[1])
    parser.add_argument("--max-tokens", type=int, default=96)
    parser.add_argument("--no-times", action="store_true", help="do not measure passes by width")
    arguments = parser.parse_args()
    from smidgen.models.load import load

    names = list(dict.fromkeys(["ar", *arguments.modes]))
    kinds = [kind for kind in arguments.kinds if kind != "problems" or arguments.problems]
    draft = arguments.draft_model and load(arguments.draft_model)
    results: dict[str, Any] = {"versions": versions(PACKAGES)}
    for model in arguments.models:
        loaded = load(model)
        results[model] = found = {}
        if not arguments.no_times:
            found["pass_times"] = pass_times(loaded)
            print(model, {width: round(each, 2) for width, each in found["pass_times"].items()}, flush=True)
        for kind in kinds:
            samples = prompts_of(kind, arguments.count, arguments.problems)
            for batch in arguments.batch:
                found[f"{kind}, batch {batch}"] = rows = measured(
                    names, loaded, draft, samples, batch, arguments.max_tokens
                )
                print(f"\n{model}, {kind}, batch {batch}")
                for name, row in rows.items():
                    told = {key: value for key, value in row.items() if key != "committed"}
                    print(f"  {name:14}", json.dumps(told), flush=True)
    print(f"\n{machine()['cpu']}; written to {write_results('jacobi', results)}", file=sys.stderr)


if __name__ == "__main__":
    main()
