"""`smidgen serve` beside llama-server (the xllamacpp server) and `mlx_lm.server`, with the same requests.

    python benchmarks/serving.py

Every server runs SmolLM2-135M-Instruct in a process of its own, the first two from the same GGUF file.
Clients send rendered prompts to `/v1/completions`, each its next request when it has the answer of its last
one, and decode greedily. Traffic is of two kinds: `chat`, short prompts that share nothing, and `judge`, the
two orders of pairs of answers under one rubric, whose prompts share a long prefix. Servers take turns; every
cell is the median of the rounds, and the rate counts generated tokens. Before, each server answers other
requests. llama-server gets as many slots as smidgen has, and the prompt cache that it has by default.
mlx_lm.server runs in float32 on smidgen's BLAS, its fastest way on a CPU, and gets fewer requests, since it
takes long.

Answers are compared by text. Rows that are decoded together are rounded differently, so where two tokens are
almost equally probable, servers may differ, and so may one server with itself. Results are saved to
`benchmarks/results/serving-<machine>.json`.
"""

import argparse
import asyncio
import json
import os
import random
import runpy
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx2

from _common import versions, write_results

MODEL = "smidgen:smollm2"
OURS, LLAMA, MLX = "smidgen", "llama-server", "mlx_lm.server"
PEERS = (LLAMA, MLX)
PACKAGES = ("xllamacpp", "mlx", "mlx-lm", "uvicorn", "starlette", "numpy", "scipy-openblas32")
SLOTS, CONTEXT = 16, 1024
CLIENTS = (1, 8, 32)
MAX_TOKENS = 32
PATIENCE = 600
"""Seconds until a server has to listen, and until it has to answer."""


# ------------------------------------------------------------------------------------- in a separate process


def serve_llama(file: str) -> None:
    """Run the server of xllamacpp with its settings, but for the file, the threads and the slots."""
    import xllamacpp

    from smidgen.backend import device
    from smidgen.export.gguf.llama_cpp import start_server

    parameters = xllamacpp.CommonParams()
    parameters.model.path = file
    parameters.n_parallel, parameters.n_ctx = SLOTS, SLOTS * CONTEXT
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = device().cores
    if device().kind == "cpu":
        parameters.n_gpu_layers = 0
    parameters.verbosity = -1
    server = start_server(parameters)
    print(json.dumps({"url": f"{server.listening_address}/v1"}), flush=True)
    time.sleep(24 * 3600)


def serve_mlx(folder: str, port: int) -> None:
    """Run mlx_lm.server on smidgen's BLAS."""
    from smidgen.backend import blas

    blas()  # bound before mlx_lm loads MLX
    sys.argv = ["mlx_lm.server", "--model", folder, "--port", str(port), "--log-level", "ERROR"]
    sys.argv += ["--decode-concurrency", "32", "--prompt-concurrency", "8", "--temp", "0"]
    runpy.run_module("mlx_lm.server", run_name="__main__")


# -------------------------------------------------------------------------------------------------- requests


def prompts_of(kind: str, count: int, seed: int) -> list[str]:
    """Return rendered prompts."""
    from smidgen.data.templates import load_tokenizer
    from smidgen.data.types import Message
    from smidgen.models.load import resolve
    from smidgen.tasks import JudgeTask, find_task

    tokenizer = load_tokenizer(resolve(MODEL))
    if kind == "judge":
        rows = JudgeTask().world_rows("test", -(-count // 2), seed=seed)
        conversations = [each.messages for each in find_task("judge").samples(rows, source="world")][:count]
    else:
        rng = random.Random(seed)
        topics = "rivers bread clocks foxes glass winter maps bees stone music trains salt".split()
        ways = ("Explain {} to a child.", "Write a short story about {}.", "What do people know about {}?")
        conversations = [
            (Message("user", rng.choice(ways).format(" and ".join(rng.sample(topics, 3)))),)
            for _ in range(count)
        ]
    return [tokenizer.decode(tokenizer.render_prompt(each), keep_special=True) for each in conversations]


async def load(url: str, model: str, prompts: Sequence[str], clients: int, *, stream: bool) -> dict[str, Any]:
    """Let clients send prompts; return the time, the tokens and the texts, by prompt."""
    waiting, texts, latencies, tokens = list(enumerate(prompts))[::-1], {}, [], 0
    limits = httpx2.Limits(max_connections=None)

    async def client(connection: httpx2.AsyncClient) -> None:
        nonlocal tokens
        while waiting:
            index, prompt = waiting.pop()
            body = {"model": model, "prompt": prompt, "max_tokens": MAX_TOKENS, "temperature": 0.0}
            began = time.perf_counter()
            if stream:
                body |= {"stream": True, "stream_options": {"include_usage": True}}
            answer = await connection.post(f"{url}/completions", json=body)
            latencies.append(time.perf_counter() - began)
            answer.raise_for_status()
            parts = [answer.json()] if not stream else chunks_of(answer.text)
            texts[index] = "".join(part["choices"][0]["text"] for part in parts if part["choices"])
            tokens += next(part["usage"]["completion_tokens"] for part in parts[::-1] if part.get("usage"))

    async with httpx2.AsyncClient(timeout=PATIENCE, limits=limits, trust_env=False) as connection:
        began = time.perf_counter()
        await asyncio.gather(*(client(connection) for _ in range(clients)))
        seconds = time.perf_counter() - began
    return {
        "seconds": seconds,
        "tokens": tokens,
        "rate": tokens / seconds,
        "p50": statistics.median(latencies),
        "texts": [texts[index] for index in range(len(prompts))],
    }


def chunks_of(text: str) -> list[dict[str, Any]]:
    """Return the chunks of a stream."""
    lines = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    return [json.loads(line) for line in lines if line != "[DONE]"]


# --------------------------------------------------------------------------------------------------- servers


@contextmanager
def server(name: str, command: Sequence[str], log: Path) -> Iterator[str]:
    """Run a server; yields its URL once it answers."""
    with (
        log.open("wb") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors) as process,
    ):
        try:
            assert process.stdout is not None
            line = process.stdout.readline() if name != MLX else b'{"url": "%s"}' % command[-1].encode()
            if not line:
                raise SystemExit(f"{name} failed:\n{log.read_text()[-3000:]}")
            url = json.loads(line)["url"]
            wait_for(url, process, log)
            yield url
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()


def wait_for(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    """Wait until a server lists its models."""
    end = time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < end:
        try:
            if httpx2.get(f"{url}/models", timeout=PATIENCE, trust_env=False).status_code == 200:
                return
        except httpx2.TransportError:
            time.sleep(0.2)
    raise SystemExit(f"{url} does not answer:\n{log.read_text()[-3000:]}")


def commands(names: Sequence[str], engine: str) -> dict[str, tuple[list[str], str]]:
    """Return the command of every server, and its name of the model."""
    from smidgen.inference.llama_files import llama_model
    from smidgen.models.load import resolve

    this = [sys.executable, __file__]
    folder, port = str(resolve(MODEL)), str(free_port())
    ours = [sys.executable, "-m", "smidgen", "serve", MODEL, "--port", "0", "--json", "--engine", engine]
    file = str(llama_model(MODEL).file) if LLAMA in names else ""
    found = {
        OURS: ([*ours, "--batch-size", str(SLOTS)], MODEL),
        LLAMA: ([*this, "--serve-llama", file], MODEL),
        MLX: ([*this, "--serve-mlx", folder, port, f"http://127.0.0.1:{port}/v1"], folder),
    }
    return {name: found[name] for name in names}


def free_port() -> int:
    """Return a port that is free now."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return listening.getsockname()[1]


# ------------------------------------------------------------------------------------------------- the report


def compare(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure every server in turns."""
    names = [OURS, *(peer for peer in PEERS if peer not in options.without)]
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        running = {
            name: (stack.enter_context(server(name, command, Path(folder, name))), model)
            for name, (command, model) in commands(names, options.engine).items()
        }
        for kind in options.kinds:
            prompts, others = (prompts_of(kind, options.requests, seed) for seed in (0, 1))
            for clients in options.clients:
                turns: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
                for number in range(options.rounds + 1):
                    for name, (url, model) in running.items():
                        asked = others[:clients] if number == 0 else prompts  # first a warm-up
                        asked = asked[: options.mlx_requests] if name == MLX else asked
                        before = os.getloadavg()[0]
                        turn = asyncio.run(load(url, model, asked, clients, stream=options.stream))
                        if number:
                            turns[name].append(turn | {"load": before})
                rows.append({"kind": kind, "clients": clients, **summary(turns)})
                show(rows[-1])
    return rows


def summary(turns: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Return the medians of every server, its ratio to ours, and how many of its texts are ours."""
    facts: dict[str, Any] = {}
    rates = {name: statistics.median(turn["rate"] for turn in each) for name, each in turns.items()}
    mine = turns[OURS][0]["texts"]
    for name, each in turns.items():
        equal = sum(a == b for a, b in zip(mine, each[0]["texts"], strict=False))
        facts[name] = {
            "tokens_per_second": rates[name],
            "p50_seconds": statistics.median(turn["p50"] for turn in each),
            "rates": [turn["rate"] for turn in each],
            "load": [turn["load"] for turn in each],
            "requests": len(each[0]["texts"]),
            "equal_texts": equal,
        }
    best = max((rates[name] for name in turns if name != OURS), default=None)
    return {"servers": facts, "ratio_to_best_peer": best and rates[OURS] / best}


def show(row: dict[str, Any]) -> None:
    """Print a row of the report."""
    ratio = row["ratio_to_best_peer"]
    print(f"{row['kind']}, {row['clients']} clients" + (f": {ratio:.2f} × the best peer" if ratio else ""))
    for name, facts in row["servers"].items():
        print(
            f"  {name:14} {facts['tokens_per_second']:8.1f} tokens/s  p50 {facts['p50_seconds']:7.3f} s  "
            f"{facts['equal_texts']} of {facts['requests']} texts as smidgen's",
            flush=True,
        )


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])  # type: ignore[union-attr]
    parser.add_argument("--requests", type=int, default=64, help="requests of a round")
    parser.add_argument("--mlx-requests", type=int, default=16, help="of which mlx_lm.server gets the first")
    parser.add_argument("--clients", type=int, nargs="+", default=CLIENTS)
    parser.add_argument("--kinds", nargs="+", choices=("chat", "judge"), default=("chat", "judge"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--engine", choices=("auto", "mlx", "llama"), default="auto")
    parser.add_argument("--without", nargs="*", choices=PEERS, default=(), help="peers to leave out")
    parser.add_argument("--stream", action="store_true", help="answers come in chunks")
    parser.add_argument("--no-save", action="store_true", help="save no results")
    parser.add_argument("--serve-llama", help=argparse.SUPPRESS)
    parser.add_argument("--serve-mlx", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve_llama:
        return serve_llama(options.serve_llama)
    if options.serve_mlx:
        return serve_mlx(options.serve_mlx[0], int(options.serve_mlx[1]))
    rows = compare(options)
    if not options.no_save:
        print(write_results("serving", {"rows": rows, "versions": versions(PACKAGES)}))
    return None


if __name__ == "__main__":
    main()
