"""Decisions of a memory router held to a JSON schema, with fast-forward tokens and without.

    python benchmarks/constraints.py

The bundled model reads a message and answers with an action, a category and a confidence, greedily: the keys
and most of each label are forced, so a few choices are all it has. Both contenders decode under the same
masks. Where the schema leaves no choice the mask holds one token, the one that fast-forward takes, so the
tokens are the same either way, which is checked; the contenders differ only in how many passes they take.
Each runs in a process of its own, the contenders take turns, loading and one decision before the clock are
not counted. A latency is that of a whole request, tokenisation and grammar included. What it decides is worth
nothing: the model was never taught to route. All goes to `benchmarks/results/constraints-<machine>.json`.
"""

import argparse
import json
import statistics
import sys
import time
from itertools import product
from typing import Any

import jsonschema

from _common import peak_memory_bytes, run, versions, write_results

CATEGORIES = ["identity", "preference", "goal", "fact", "event", "task", "people", "other"]
ROUTE = {
    "type": "object",
    "properties": {
        "action": {"enum": ["SAVE", "SKIP"]},
        "category": {"enum": CATEGORIES},
        "confidence": {"type": "integer", "minimum": 0, "maximum": 10},
    },
    "required": ["action", "category", "confidence"],
    "additionalProperties": False,
}
SYSTEM = "Decide what to remember. Answer with an action, a category and a confidence from 0 to 10, as JSON."
WHO = ("I", "My sister", "Our neighbour", "The teacher", "A friend of mine")
DOES = ("moved to the coast", "wants to learn the violin", "cannot stand cold soup", "is called Ada at work")
WHEN = ("last spring", "since the accident", "as far as I know", "and nobody noticed", "these days")
PACKAGES = ("llguidance", "mlx", "numpy", "scipy-openblas32")
CONTENDERS = {"fast-forward": True, "token by token": False}
BATCH = 64


def child(name: str, model: str) -> None:
    """Decide one by one, then together, and print what it took as JSON."""
    from smidgen.data.types import Constraint, Message, Request, Sample, Sampling
    from smidgen.inference.mlx import MlxEngine
    from smidgen.models.load import load

    constraint = Constraint("json_schema", json.dumps(ROUTE))
    messages = [f"{who} {does} {when}." for who, does, when in product(WHO, DOES, WHEN)]
    requests = [
        Request(
            Sample(str(i), (Message("system", SYSTEM), Message("user", message))),
            Sampling(max_tokens=64),
            constraint,
        )
        for i, message in enumerate(messages)
    ]
    loaded = load(model)
    engine = MlxEngine(loaded, batch_size=1, fast_forward=CONTENDERS[name])
    list(engine.complete(requests[-1:]))
    seconds, found = [], {}
    for request in requests:
        started = time.perf_counter()
        ((_, completion),) = engine.complete([request])
        seconds.append(time.perf_counter() - started)
        found[request.sample.id] = completion
    together = MlxEngine(loaded, batch_size=BATCH, fast_forward=CONTENDERS[name])
    list(together.complete(requests[-1:]))
    started = time.perf_counter()
    batched = {request.sample.id: completion for request, completion in together.complete(requests)}
    report = {
        "seconds": seconds,
        "batch_seconds": time.perf_counter() - started,
        "texts": {key: completion.text for key, completion in found.items()},
        "token_ids": {key: completion.token_ids for key, completion in found.items()},
        "batched_token_ids": {key: completion.token_ids for key, completion in batched.items()},
        "passes": count_passes(engine, requests[:10]) / 10,
        "peak": peak_memory_bytes(),
        "versions": versions(PACKAGES),
    }
    print("\n" + json.dumps(report))


def count_passes(engine: Any, requests: Any) -> int:
    """How often the model is run for these requests, one at a time."""
    passes, hidden = 0, engine._forward.hidden

    def counted(*arguments: Any) -> Any:
        nonlocal passes
        passes += 1
        return hidden(*arguments)

    engine._forward.hidden = counted
    for request in requests:
        list(engine.complete([request]))
    return passes


def percentile(values: list[float], share: float) -> float:
    """The value that so many are below, by the nearest rank."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def summary(turns: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Latencies of every round, their ratios, and whether the answers are the same and valid."""
    fast, slow = (turns[name] for name in CONTENDERS)
    for text in fast[0]["texts"].values():
        jsonschema.validate(json.loads(text), ROUTE)
    expected = slow[0]["token_ids"]
    same = {
        f"{name}, {what}": min(
            sum(turn[field][key] == ids for key, ids in expected.items()) for turn in results
        )
        for name, results in turns.items()
        for what, field in (("alone", "token_ids"), ("batched", "batched_token_ids"))
    }
    rows = {
        name: {
            "p50": [statistics.median(turn["seconds"]) for turn in results],
            "p95": [percentile(turn["seconds"], 0.95) for turn in results],
            "batch_seconds": [turn["batch_seconds"] for turn in results],
            "passes_per_decision": results[0]["passes"],
            "peak_memory_bytes": min(turn["peak"] for turn in results),
            "load": [turn["load"] for turn in results],
        }
        for name, results in turns.items()
    }
    ratios = {
        field: [a / b for a, b in zip(*(rows[name][field] for name in CONTENDERS), strict=True)]
        for field in ("p50", "p95", "batch_seconds")
    }
    return {
        "decisions": len(expected),
        "tokens_per_decision": statistics.mean(len(ids) for ids in expected.values()),
        "different_answers": len(set(fast[0]["texts"].values())),
        "same_token_ids": same,
        "contenders": rows,
        "ratios": ratios,
        "median_ratios": {field: statistics.median(values) for field, values in ratios.items()},
        "versions": fast[0]["versions"],
    }


def show(result: dict[str, Any]) -> None:
    """Print the result as a table."""
    print(f"{result['decisions']} decisions of {result['tokens_per_decision']:.1f} tokens")
    print(f"{'':22}{'p50 ms':>9}{'p95 ms':>9}{f'batch {BATCH}, s':>13}{'passes':>8}")
    for name, row in result["contenders"].items():
        p50, p95, batch = (statistics.median(row[field]) for field in ("p50", "p95", "batch_seconds"))
        print(f"{name:22}{p50 * 1e3:9.1f}{p95 * 1e3:9.1f}{batch:13.2f}{row['passes_per_decision']:8.1f}")
    for field, values in result["ratios"].items():
        told = ", ".join(f"{value:.2f}" for value in values)
        print(f"{field}: {result['median_ratios'][field]:.2f} of the time (rounds: {told})")
    print(f"same tokens as token by token and alone: {result['same_token_ids']}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="smidgen:nano")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments.child, arguments.model)
        return
    turns: dict[str, list[dict[str, Any]]] = {name: [] for name in CONTENDERS}
    for turn in range(arguments.rounds):
        for name, results in turns.items():
            print(f"round {turn + 1}: {name} …", file=sys.stderr)
            results.append(run(__file__, ["--child", name, "--model", arguments.model], what=name))
    result = summary(turns)
    show(result)
    print(f"\nwritten to {write_results('constraints', result)}")


if __name__ == "__main__":
    main()
