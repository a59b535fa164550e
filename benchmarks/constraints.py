"""Memory-router decisions constrained by a JSON schema, with and without fast-forward tokens.

    python benchmarks/constraints.py

The bundled model reads a message and greedily answers with an action, a category and a confidence. The keys
and most of each label are forced, so few choices remain. Both contenders decode with the same masks. Where
the schema leaves no choice, the mask allows one token, which is the one that fast-forward appends, so the
tokens are the same either way, which is checked; the contenders differ only in the number of forward passes.
They take turns at every message, in alternating order, so that other load on the machine affects both
equally. Every round is a separate process; loading and one warm-up decision are not counted. A latency covers
a whole request, including tokenization and grammar. The decisions themselves are meaningless: the model was
never trained to route. The results are saved to `benchmarks/results/constraints-<machine>.json`.
"""

import argparse
import json
import statistics
import sys
import time
from itertools import product
from typing import Any

import jsonschema

from _common import run, versions, write_results

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
FAST, SLOW = "fast-forward", "token by token"
CONTENDERS = {FAST: True, SLOW: False}
BATCH, BATCH_TURNS = 64, 4


def child(model: str) -> None:
    """Run both contenders in turn, message by message and then batched; print JSON."""
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
    report = {name: {"alone": [], "alone_cpu": [], "batched": []} for name in CONTENDERS}
    for size, field in ((1, "alone"), (BATCH, "batched")):
        engines = {
            name: MlxEngine(loaded, batch_size=size, fast_forward=is_fast)
            for name, is_fast in CONTENDERS.items()
        }
        for engine in engines.values():
            list(engine.complete(requests[-1:]))
        found: dict[str, dict[str, Any]] = {name: {} for name in CONTENDERS}
        parts = [[request] for request in requests] if size == 1 else [requests] * BATCH_TURNS
        for number, part in enumerate(parts):
            for name in list(CONTENDERS)[:: 1 if number % 2 else -1]:
                started, cpu = time.perf_counter(), time.process_time()
                completed = list(engines[name].complete(part))
                report[name][field].append(time.perf_counter() - started)
                if size == 1:
                    report[name]["alone_cpu"].append(time.process_time() - cpu)
                found[name] |= {request.sample.id: completion for request, completion in completed}
        for name, answers in found.items():
            report[name] |= {f"{field}_ids": {key: answer.token_ids for key, answer in answers.items()}}
            report[name] |= {"texts": [answer.text for answer in answers.values()]}
            if size == 1:
                report[name]["passes"] = count_passes(engines[name], requests[:10]) / 10
    print("\n" + json.dumps(report | {"versions": versions(PACKAGES)}))


def count_passes(engine: Any, requests: Any) -> int:
    """Return the number of forward passes for these requests, one at a time."""
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
    """Return a percentile by the nearest-rank method."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def summary(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Return latencies of every round, their ratios, and whether the answers are equal and valid."""
    expected = rounds[0][SLOW]["alone_ids"]
    for found in rounds:
        for text in found[SLOW]["texts"]:
            jsonschema.validate(json.loads(text), ROUTE)
    same = {
        f"{name}, {way}": min(
            sum(found[name][f"{way}_ids"][key] == ids for key, ids in expected.items()) for found in rounds
        )
        for name in CONTENDERS
        for way in ("alone", "batched")
    }
    rows = {
        name: {
            "p50": [statistics.median(found[name]["alone"]) for found in rounds],
            "p95": [percentile(found[name]["alone"], 0.95) for found in rounds],
            "p50_cpu": [statistics.median(found[name]["alone_cpu"]) for found in rounds],
            "batched": [statistics.median(found[name]["batched"]) for found in rounds],
            "passes_per_decision": rounds[0][name]["passes"],
        }
        for name in CONTENDERS
    }
    ratios = {
        field: [a / b for a, b in zip(rows[FAST][field], rows[SLOW][field], strict=True)]
        for field in ("p50", "p95", "p50_cpu", "batched")
    }
    return {
        "decisions": len(expected),
        "tokens_per_decision": statistics.mean(len(ids) for ids in expected.values()),
        "different_answers": len(set(rounds[0][SLOW]["texts"])),
        "same_token_ids": same,
        "contenders": rows,
        "ratios": ratios,
        "median_ratios": {field: statistics.median(values) for field, values in ratios.items()},
        "load": [found["load"] for found in rounds],
        "versions": rounds[0]["versions"],
    }


def show(result: dict[str, Any]) -> None:
    """Print the result as a table."""
    print(f"{result['decisions']} decisions of {result['tokens_per_decision']:.1f} tokens")
    print(f"{'':16}{'p50 ms':>9}{'p95 ms':>9}{'CPU p50 ms':>12}{f'batch {BATCH}, s':>13}{'passes':>8}")
    for name, row in result["contenders"].items():
        p50, p95, cpu = (1e3 * statistics.median(row[field]) for field in ("p50", "p95", "p50_cpu"))
        batch = statistics.median(row["batched"])
        print(f"{name:16}{p50:9.1f}{p95:9.1f}{cpu:12.1f}{batch:13.2f}{row['passes_per_decision']:8.1f}")
    for field, values in result["ratios"].items():
        told = ", ".join(f"{value:.2f}" for value in values)
        print(f"{field}: {result['median_ratios'][field]:.2f} of the time (rounds: {told})")
    print(f"same tokens as {SLOW}, alone: {result['same_token_ids']}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="smidgen:nano")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments.model)
        return
    rounds = []
    for number in range(1, arguments.rounds + 1):
        print(f"round {number} …", file=sys.stderr)
        rounds.append(run(__file__, ["--child", "--model", arguments.model], what=f"round {number}"))
    result = summary(rounds)
    show(result)
    print(f"\nwritten to {write_results('constraints', result)}")


if __name__ == "__main__":
    main()
