"""Latency of a memory router's decisions: smidgen's `Router` and llama.cpp's server with a JSON schema.

    python benchmarks/router.py

Generated texts are routed one at a time, as they arrive at work: each is to be remembered or not, with a
category. Every contender is warm and gets the same prompts, which begin with the same instructions;
llama.cpp's server keeps the prefix of the last prompt too, and is asked in this process, without HTTP. The
two contenders on llama.cpp have the same Q8_0 file. The contenders take turns at every text, in alternating
order, so that other load affects all equally. The decisions are those of an untrained model, and only how
long they take means something. A latency covers a whole call, and ratios are of medians and 99th
percentiles. Results are saved to `benchmarks/results/router-<machine>.json`.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from typing import Any

from _common import machine, run, versions, write_results

MODEL = "smidgen:smollm2"
PACKAGES = ("llguidance", "mlx", "numpy", "scipy-openblas32", "xllamacpp")
OURS, AUTO, PEER = "Router, llama.cpp Q8_0", "Router, auto", "llama.cpp server, JSON schema"
Ask = Callable[[str], str]
"""Decides on a text; returns the action and the category."""


def texts(count: int) -> list[str]:
    """Return generated texts, in three languages."""
    from smidgen.tasks.memory import Memorize

    return [row["text"] for row in Memorize().world_rows("test", count, 0)]


def router(stack: ExitStack, model: str, engine: Any) -> tuple[Ask, dict[str, Any]]:
    """Open a router without a budget."""
    from smidgen import Router

    opened = stack.enter_context(Router(model, engine=engine, budget=None))

    def ask(text: str) -> str:
        decision = opened.memorize(text).decision
        assert decision is not None
        return f"{decision.action} {decision.category or ''}".strip()

    return ask, {"cold_start": opened.latencies.cold_start}


def server(file: str) -> Ask:
    """Start llama.cpp's server core with its own chat template, prompt cache and grammar."""
    import xllamacpp

    from smidgen.tasks.memory import memorize_sample
    from smidgen.tasks.memory.answers import memorize_answers, schema_of

    parameters = xllamacpp.CommonParams()
    parameters.model.path = file
    parameters.n_ctx, parameters.n_parallel, parameters.verbosity = 2048, 1, -1
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = machine()["cores"]
    started = xllamacpp.Server(parameters)
    schema = {
        "type": "json_schema",
        "json_schema": {"name": "decision", "schema": schema_of(memorize_answers())},
    }

    def ask(text: str) -> str:
        request = {
            "messages": [asdict(message) for message in memorize_sample(text).messages],
            "max_tokens": 40,
            "temperature": 0,
            "response_format": schema,
        }
        answer = json.loads(started.handle_chat_completions(request)["choices"][0]["message"]["content"])
        return f"{answer['decision']} {answer.get('category', '')}".strip()

    return ask


def child(count: int) -> None:
    """Let the contenders take turns, and print the latencies as JSON."""
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as smidgen sets it, for the server too
    from smidgen.inference.llama_files import llama_model

    file = str(llama_model(MODEL, dtype="Q8_0").file)
    with ExitStack() as stack:
        ours, facts = router(stack, file, "llama")
        auto, auto_facts = router(stack, MODEL, "auto")
        asks = {OURS: ours, AUTO: auto, PEER: server(file)}
        seconds: dict[str, list[float]] = {name: [] for name in asks}
        found: dict[str, list[str]] = {name: [] for name in asks}
        for number, text in enumerate([*texts(count + 3)]):
            for name in list(asks)[:: 1 if number % 2 else -1]:
                started = time.perf_counter()
                said = asks[name](text)
                if number >= 3:  # the first ones warm the server up
                    seconds[name].append(time.perf_counter() - started)
                    found[name].append(said)
    report = {"seconds": seconds, "decisions": found, "cold_start": {OURS: facts, AUTO: auto_facts}}
    print("\n" + json.dumps(report | {"versions": versions(PACKAGES)}))


def summary(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the percentiles of every round, their ratios to the server, and how many decisions are equal."""
    from smidgen.router.latency import percentiles

    rows: dict[str, Any] = {}
    for name in (OURS, AUTO, PEER):
        each = [percentiles(found["seconds"][name]) for found in rounds]
        same = sum(
            a == b for a, b in zip(rounds[0]["decisions"][name], rounds[0]["decisions"][PEER], strict=True)
        )
        rows[name] = {share: [found[share] for found in each] for share in ("p50", "p95", "p99")}
        rows[name] |= {"same_decisions": same, "decisions": len(rounds[0]["decisions"][name])}
        rows[name]["saved"] = sum(said != "SKIP" for said in rounds[0]["decisions"][name])
    for row in rows.values():
        row["ratios"] = {
            share: [a / b for a, b in zip(row[share], rows[PEER][share], strict=True)]
            for share in ("p50", "p99")
        }
    return {
        "contenders": rows,
        "cold_start": [found["cold_start"] for found in rounds],
        "load": [found["load"] for found in rounds],
        "versions": rounds[0]["versions"],
    }


def show(result: dict[str, Any]) -> None:
    """Print the result as a table."""
    print(f"{'':32}{'p50 ms':>9}{'p95 ms':>9}{'p99 ms':>9}{'p50 ratio':>11}{'p99 ratio':>11}{'same':>10}")
    for name, row in result["contenders"].items():
        p50, p95, p99 = (1e3 * statistics.median(row[share]) for share in ("p50", "p95", "p99"))
        ratios = [statistics.median(row["ratios"][share]) for share in ("p50", "p99")]
        same = f"{row['same_decisions']}/{row['decisions']}"
        print(f"{name:32}{p50:9.1f}{p95:9.1f}{p99:9.1f}{ratios[0]:11.2f}{ratios[1]:11.2f}{same:>10}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--texts", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments.texts)
        return
    rounds = []
    for number in range(1, arguments.rounds + 1):
        print(f"round {number} …", file=sys.stderr)
        rounds.append(run(__file__, ["--child", "--texts", str(arguments.texts)], what=f"round {number}"))
    result = summary(rounds)
    show(result)
    print(f"\nwritten to {write_results('router', result)}")


if __name__ == "__main__":
    main()
