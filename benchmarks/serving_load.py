"""Many streaming clients at once: errors, waiting, fairness, memory, and what those who leave take with them.

    python benchmarks/serving_load.py [--clients 200] [--minutes 3] [--leave 0.5]

`smidgen serve` runs on the bundled model in a process of its own. Every client sends one streaming request
after the other under its own name; a share of the requests is left midway, by closing the connection. Counted
are answers by status (429 and 503 are declared, anything else but 200 is an error), streams that end without
`[DONE]`, seconds until the first text of each client, the server's memory every second, and how many requests
it still runs when all clients are gone. Saved to `benchmarks/results/serving_load-<machine>.json`.
"""

import argparse
import asyncio
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit
from urllib.request import urlopen

import psutil

from _common import write_results
from smidgen.data.world_items import question_rows

DECLARED = {429, 503}
SETTLED_S = 10.0
"""Seconds after the last client in which the server has to have nothing left to do."""


@dataclass
class Seen:
    """What the clients saw."""

    statuses: Counter[int] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)
    left: int = 0
    pieces: int = 0
    first_text: dict[int, list[float]] = field(default_factory=dict)


async def ask(address: str, body: dict[str, Any], name: str) -> tuple[asyncio.StreamReader, Any, int]:
    """Send a request; return the open answer and its status."""
    found = urlsplit(address)
    reader, writer = await asyncio.open_connection(found.hostname, found.port)
    data = json.dumps({**body, "user": name}).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: {found.netloc}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(data)}\r\nConnection: close\r\n\r\n"
    )
    writer.write(head.encode() + data)
    await writer.drain()
    status = int((await reader.readline()).split()[1])
    while (await reader.readline()).strip():
        pass
    return reader, writer, status


async def client(number: int, address: str, questions: list[str], until: float, leave: float, seen: Seen):
    """Ask until the time is over."""
    draw = random.Random(number)
    waits = seen.first_text.setdefault(number, [])
    while time.monotonic() < until:
        body = {
            "model": "smidgen:nano",
            "messages": [{"role": "user", "content": draw.choice(questions)}],
            "max_tokens": draw.choice((16, 32, 64)),
            "temperature": 0,
            "stream": True,
        }
        began = time.monotonic()
        leaves_after = draw.randrange(1, 6) if draw.random() < leave else None
        try:
            reader, writer, status = await ask(address, body, f"client-{number}")
            seen.statuses[status] += 1
            if status == 200:
                await _read(reader, leaves_after, began, waits, seen)
            writer.close()
            if status in DECLARED:
                await asyncio.sleep(1)
        except (OSError, ValueError, IndexError) as error:
            seen.broken.append(f"{type(error).__name__}: {error}")
            await asyncio.sleep(1)


async def _read(
    reader: asyncio.StreamReader, leaves_after: int | None, began: float, waits: list[float], seen: Seen
) -> None:
    """Read a stream to its end, or leave after some pieces."""
    pieces, is_done = 0, False
    async for line in reader:
        if not line.startswith(b"data:"):
            continue
        if b"[DONE]" in line:
            is_done = True
            break
        if b'"error"' in line:
            seen.broken.append(line.decode()[:200])
            return
        pieces += 1
        if pieces == 1:
            waits.append(time.monotonic() - began)
        if pieces == leaves_after:
            seen.left += 1
            return
    seen.pieces += pieces
    if not is_done:
        seen.broken.append("a stream ended without [DONE]")


async def watch(process: psutil.Process, until: float) -> list[int]:
    """Return the server's resident bytes, every second."""
    found = []
    while time.monotonic() < until:
        found.append(process.memory_info().rss)
        await asyncio.sleep(1)
    return found


async def load(address: str, process: psutil.Process, given: argparse.Namespace) -> dict[str, Any]:
    """Run all clients, then look whether the server has let go of everything."""
    questions = [row["prompt"] for row in question_rows("test", 400, 0)]
    seen, until = Seen(), time.monotonic() + 60 * given.minutes
    watching = asyncio.create_task(watch(process, until))
    await asyncio.gather(
        *(client(i, address, questions, until, given.leave, seen) for i in range(given.clients))
    )
    memory, began = await watching, time.monotonic()
    while (left := running(address)) and time.monotonic() - began < SETTLED_S:
        await asyncio.sleep(0.1)
    settled = memory[len(memory) // 4 :]
    medians = sorted(statistics.median(waits) for waits in seen.first_text.values() if waits)
    return {
        "clients": given.clients,
        "minutes": given.minutes,
        "requests": seen.statuses.total(),
        "statuses": dict(sorted(seen.statuses.items())),
        "errors": len(seen.broken),
        "first_errors": sorted(set(seen.broken))[:5],
        "undeclared": {k: v for k, v in seen.statuses.items() if k != 200 and k not in DECLARED},
        "left_midway": seen.left,
        "still_running": left,
        "seconds_until_free": round(time.monotonic() - began, 2),
        "first_text_s": spread([wait for waits in seen.first_text.values() for wait in waits]),
        "clients_without_an_answer": sum(not waits for waits in seen.first_text.values()),
        "medians_of_clients_s": {"least": round(medians[0], 3), "most": round(medians[-1], 3)},
        "memory_mb": {"first": round(memory[0] / 1e6, 1), **flatness(settled)},
    }


def running(address: str) -> int:
    """Return the number of requests that the server waits for or runs."""
    with urlopen(f"{address}/health", timeout=10) as answer:
        facts = json.load(answer)
    return facts["running"] + facts["waiting"]


def spread(values: list[float]) -> dict[str, float]:
    """Return the median, the 99th percentile, and one by the other."""
    ordered = sorted(values)
    median, high = statistics.median(ordered), ordered[int(len(ordered) * 0.99)]
    return {"p50": round(median, 3), "p99": round(high, 3), "ratio": round(high / median, 2)}


def flatness(memory: list[int]) -> dict[str, float]:
    """Return the mean memory after the first quarter, and how far it was above and below that."""
    mean = statistics.mean(memory)
    return {
        "mean": round(mean / 1e6, 1),
        "below_percent": round(100 * (1 - min(memory) / mean), 2),
        "above_percent": round(100 * (max(memory) / mean - 1), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--minutes", type=float, default=3)
    parser.add_argument("--leave", type=float, default=0.5, help="share of the requests left midway")
    parser.add_argument("--engine", default="auto")
    given = parser.parse_args()
    command = [sys.executable, "-m", "smidgen", "serve", "smidgen:nano", "--port", "0", "--json"]
    command += ["--engine", given.engine, "--log-file", os.devnull]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        address = json.loads(server.stdout.readline())["url"].removesuffix("/v1")
        try:
            results = asyncio.run(load(address, psutil.Process(server.pid), given))
        finally:
            server.terminate()
    results |= {"engine": given.engine, "exit": server.returncode}
    print(json.dumps(results, indent=1), flush=True)
    print(write_results("serving_load", results))


if __name__ == "__main__":
    main()
