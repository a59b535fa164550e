"""Drafted decoding against one token a pass of the same engine: Jacobi, prompt look-up, a draft model.

    python benchmarks/jacobi.py --problems shared/data/solve/gsm8k_test_a.jsonl

One process holds an engine per way of decoding; they take turns on each batch of prompts, and the order of
turns rotates. Prompts are those of the generated world (`answers`, and a judge with the template `rubric`)
and problems of a file. Times are end to end, prefill included. The speed-up is the ratio of summed times with
a 95 % interval by bootstrap over the batches; `cpu` is the ratio of processor times, which other programs on
the machine disturb less. Answers must be the same, token for token, and the tokens whose choice was open to
rounding are counted; llama.cpp's are compared as texts. The first answer of each engine, which measures the
times of passes, is not counted.
"""

import argparse
import json
import sys
import time
from itertools import product
from pathlib import Path
from typing import Any

from _common import machine, versions, write_results

MODES = ("ar", "lookup", "jacobi")
SWEPT = [f"jacobi {width} {pool}" for width, pool in product((4, 8, 16, 32, 64), (0, 1, 4, 8))]
"""Tokens in flight for a row, which is block size times blocks in flight, and passes in the pool."""
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

    def __init__(self, name: str, model: str, loaded: Any, draft: Any, batch: int):
        """Open it; a name is `llama`, or a mode with or without a width and a pool, such as `jacobi 16 4`."""
        from smidgen.evaluation.decoding_section import Answered
        from smidgen.inference import open_engine
        from smidgen.inference.drafting import Drafting
        from smidgen.inference.mlx import MlxEngine
        from smidgen.options import EngineOptions

        mode, *numbers = name.split()
        settings = dict(zip(("width", "pool_size"), map(int, numbers), strict=False))
        if mode == "llama":
            self.engine: Any = open_engine(EngineOptions(model, engine="llama", batch_size=batch))
        else:
            drafting = (
                None if mode == "ar" else Drafting(mode, draft if mode == "draft" else None, **settings)
            )
            self.engine = MlxEngine(loaded, batch_size=batch, drafting=drafting)
        self.answered = Answered()
        self.processor = 0.0

    def answer(self, samples: list[Any], max_tokens: int, *, counts: bool) -> None:
        """Answer prompts together."""
        from smidgen.data.types import Request, Sampling

        requests = [Request(sample, Sampling(max_tokens=max_tokens), logprobs=False) for sample in samples]
        started, used = time.perf_counter(), time.process_time()
        found = {request.sample.id: completion for request, completion in self.engine.complete(requests)}
        if counts:
            self.answered.seconds.append(time.perf_counter() - started)
            self.processor += time.process_time() - used
            self.answered.completions += [found[sample.id] for sample in samples]


def measured(
    names: list[str], model: str, loaded: Any, draft: Any, samples: list[Any], batch: int, most: int
) -> Any:
    """Return the figures of each contender on some prompts."""
    contenders = {name: Contender(name, model, loaded, draft, batch) for name in names}
    for one in contenders.values():
        one.answer(samples[:1], most, counts=False)
    for turn, begin in enumerate(range(0, len(samples), batch)):
        order = names[turn % len(names) :] + names[: turn % len(names)]
        for name in order:
            contenders[name].answer(samples[begin : begin + batch], most, counts=True)
    return {name: figures(one, contenders["ar"]) for name, one in contenders.items()}


def figures(one: Contender, plain: Contender) -> dict[str, Any]:
    """Return what a contender took and gave, beside one token a pass of the same engine."""
    from smidgen.evaluation.decoding_section import decoding_facts

    pairs = zip(one.answered.completions, plain.answered.completions, strict=True)
    return decoding_facts(one.answered, plain.answered) | {
        "same_text": sum(ours.text == theirs.text for ours, theirs in pairs),
        "seconds": sum(one.answered.seconds),
        "cpu": plain.processor / one.processor,
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
    parser.add_argument(
        "--modes", nargs="+", default=list(MODES), help="such as lookup, llama or 'jacobi 16 4'"
    )
    parser.add_argument("--sweep", action="store_true", help="also fixed numbers of tokens and pools")
    parser.add_argument("--kinds", nargs="+", default=["answers", "judge", "problems"])
    parser.add_argument("--problems", type=Path, help="file of rows with a question")
    parser.add_argument("--draft-model", help="for the mode draft; MODEL[:N] for the first N blocks")
    parser.add_argument("--name", default="jacobi", help="of the results")
    parser.add_argument("--count", type=int, default=8, help="number of prompts of each kind")
    parser.add_argument("--batch", nargs="+", type=int, default=[1])
    parser.add_argument("--max-tokens", type=int, default=96)
    parser.add_argument("--no-times", action="store_true", help="do not measure passes by width")
    arguments = parser.parse_args()
    from smidgen.models.load import load
    from smidgen.models.truncated import load_first

    names = list(dict.fromkeys(["ar", *arguments.modes, *(SWEPT if arguments.sweep else ())]))
    kinds = [kind for kind in arguments.kinds if kind != "problems" or arguments.problems]
    draft = arguments.draft_model and load_first(arguments.draft_model)
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
                    names, model, loaded, draft, samples, batch, arguments.max_tokens
                )
                print(f"\n{model}, {kind}, batch {batch}")
                for name, row in rows.items():
                    told = {key: value for key, value in row.items() if key != "committed"}
                    print(f"  {name:14}", json.dumps(told), flush=True)
    print(f"\n{machine()['cpu']}; written to {write_results(arguments.name, results)}", file=sys.stderr)


if __name__ == "__main__":
    main()
