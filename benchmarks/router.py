"""Latency of a memory router's decisions: smidgen's `Router` and llama.cpp's server with a JSON schema.

    python benchmarks/router.py

Generated texts are routed one at a time, as they arrive at work: each is to be remembered or not, with a
category. Every contender is warm and gets the same prompts, which begin with the same instructions;
llama.cpp's server keeps the prefix of the last prompt too, and is asked in this process, without HTTP. It is
asked twice: with a JSON schema, which also allows spaces, and with a grammar of exactly the answers that a
router gives. All but `auto` run the same Q8_0 file. The contenders take turns every ten texts, in
alternating order, so that other load affects all equally.

An untrained model, the default, spells a grammar's answers in more tokens than there need be, and so decides
otherwise than with a router's; `tokens` says how many. Give a trained one (`--model`, `--adapter`) to compare
answers that the model itself would write. A latency covers a whole call. Results are saved to
`benchmarks/results/router-<machine>.json`.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from _common import machine, run, versions, write_results

BLOCK = 10
"""Texts of a turn: at work, too, one model runs at a time."""
PACKAGES = ("llguidance", "mlx", "numpy", "scipy-openblas32", "xllamacpp")
OURS, AUTO = "Router, llama.cpp Q8_0", "Router, auto"
PEER, COMPACT = "llama.cpp server, JSON schema", "llama.cpp server, grammar"
Ask = Callable[[str], str]
"""Decides on a text; returns the action and the category."""


def batched(items: Sequence[str], size: int) -> list[Sequence[str]]:
    """Return items in groups of `size`; the last one may be smaller."""
    return [items[start : start + size] for start in range(0, len(items), size)]


def texts(count: int) -> list[str]:
    """Return generated texts, in three languages."""
    from smidgen.tasks.memory import Memorize

    return [row["text"] for row in Memorize().world_rows("test", count, 0)]


def router(
    stack: ExitStack, model: str, engine: Any, adapter: str | None = None
) -> tuple[Ask, dict[str, Any]]:
    """Open a router without a budget."""
    from smidgen import Router

    opened = stack.enter_context(Router(model, adapter, engine=engine, budget=None))

    def ask(text: str) -> str:
        decision = opened.memorize(text).decision
        assert decision is not None
        return f"{decision.action} {decision.category or ''}".strip()

    return ask, {"cold_start": opened.latencies.cold_start}


def server(file: str, tokens: list[int], *, compact: bool) -> Ask:
    """Start llama.cpp's server core; see the module. `tokens` gets the length of every answer."""
    import xllamacpp

    from smidgen.tasks.memory import memorize_sample
    from smidgen.tasks.memory.answers import memorize_answers, schema_of, written

    parameters = xllamacpp.CommonParams()
    parameters.model.path = file
    parameters.n_ctx, parameters.n_parallel, parameters.verbosity = 2048, 1, -1
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = machine()["cores"]
    started = xllamacpp.Server(parameters)
    answers = memorize_answers()
    if compact:
        choices = " | ".join(json.dumps(written(answer)) for answer in answers)
        constraint: dict[str, Any] = {"grammar": f"root ::= {choices}"}
    else:
        schema = {"name": "decision", "schema": schema_of(answers)}
        constraint = {"response_format": {"type": "json_schema", "json_schema": schema}}

    def ask(text: str) -> str:
        request = {
            "messages": [asdict(message) for message in memorize_sample(text).messages],
            "max_tokens": 40,
            "temperature": 0,
            **constraint,
        }
        answered = started.handle_chat_completions(request)
        tokens.append(answered["usage"]["completion_tokens"])
        said = answered["choices"][0]["message"]["content"]
        try:
            answer = json.loads(said)
        except ValueError:  # spaces up to its maximum length
            return "unfinished"
        return f"{answer['decision']} {answer.get('category', '')}".strip()

    return ask


def child(count: int, model: str, adapter: str | None) -> None:
    """Let the contenders take turns, and print the latencies as JSON."""
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as smidgen sets it, for the server too
    from smidgen.inference.llama_files import llama_model

    file = str(llama_model(model, adapter=Path(adapter) if adapter else None, dtype="Q8_0").file)
    tokens: dict[str, list[int]] = {PEER: [], COMPACT: []}
    with ExitStack() as stack:
        ours, facts = router(stack, file, "llama")
        auto, auto_facts = router(stack, model, "auto", adapter)
        asks = {
            OURS: ours,
            AUTO: auto,
            PEER: server(file, tokens[PEER], compact=False),
            COMPACT: server(file, tokens[COMPACT], compact=True),
        }
        seconds: dict[str, list[float]] = {name: [] for name in asks}
        found: dict[str, list[str]] = {name: [] for name in asks}
        warming, *every = texts(count + 1)
        for number, block in enumerate(batched(every, BLOCK)):
            for name in list(asks)[:: 1 if number % 2 else -1]:
                asks[name](warming)  # the others have taken the processor's caches
                for text in block:
                    started = time.perf_counter()
                    found[name].append(asks[name](text))
                    seconds[name].append(time.perf_counter() - started)
    report = {"seconds": seconds, "decisions": found, "cold_start": {OURS: facts, AUTO: auto_facts}}
    report["tokens"] = {name: statistics.mean(counts) for name, counts in tokens.items()}
    print("\n" + json.dumps(report | {"versions": versions(PACKAGES)}))


def summary(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the percentiles of every round, their ratios to the server, and how many decisions are equal."""
    from smidgen.router.latency import percentiles

    rows: dict[str, Any] = {}
    for name in (OURS, AUTO, PEER, COMPACT):
        each = [percentiles(found["seconds"][name]) for found in rounds]
        same = sum(
            a == b for a, b in zip(rounds[0]["decisions"][name], rounds[0]["decisions"][COMPACT], strict=True)
        )
        rows[name] = {share: [found[share] for found in each] for share in ("p50", "p95", "p99")}
        rows[name] |= {"same_decisions": same, "decisions": len(rounds[0]["decisions"][name])}
        rows[name]["saved"] = sum(said != "SKIP" for said in rounds[0]["decisions"][name])
    for row in rows.values():
        row["ratios"] = {
            f"{share} to {peer}": [a / b for a, b in zip(row[share], rows[peer][share], strict=True)]
            for share in ("p50", "p99")
            for peer in (PEER, COMPACT)
        }
    return {
        "contenders": rows,
        "tokens_per_answer": rounds[0]["tokens"],
        "cold_start": [found["cold_start"] for found in rounds],
        "load": [found["load"] for found in rounds],
        "versions": rounds[0]["versions"],
    }


def show(result: dict[str, Any]) -> None:
    """Print the result as a table."""
    print(f"{'':32}{'p50 ms':>9}{'p95 ms':>9}{'p99 ms':>9}{'to schema':>11}{'to grammar':>12}{'same':>10}")
    for name, row in result["contenders"].items():
        p50, p95, p99 = (1e3 * statistics.median(row[share]) for share in ("p50", "p95", "p99"))
        schema, grammar = (statistics.median(row["ratios"][f"p50 to {peer}"]) for peer in (PEER, COMPACT))
        same = f"{row['same_decisions']}/{row['decisions']}"
        print(f"{name:32}{p50:9.1f}{p95:9.1f}{p99:9.1f}{schema:11.2f}{grammar:12.2f}{same:>10}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--texts", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", default="smidgen:smollm2")
    parser.add_argument("--adapter")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments.texts, arguments.model, arguments.adapter)
        return
    rounds = []
    for number in range(1, arguments.rounds + 1):
        print(f"round {number} …", file=sys.stderr)
        given = ["--texts", str(arguments.texts), "--model", arguments.model]
        given += ["--adapter", arguments.adapter] if arguments.adapter else []
        rounds.append(run(__file__, ["--child", *given], what=f"round {number}"))
    result = summary(rounds)
    show(result)
    print(f"tokens per answer: {result['tokens_per_answer']}")
    print(f"\nwritten to {write_results('router', result)}")


if __name__ == "__main__":
    main()
