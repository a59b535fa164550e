"""The memory store: how well and how fast it finds candidates, and what a decision costs.

    python benchmarks/memory_store.py pawsx_dev_en_zh.jsonl [--memories 2000 20000 100000]

Recall: every first sentence of a file of PAWS-X pairs is stored, one store a language. The second sentence of
each pair that is labelled a paraphrase asks for candidates, in both languages, and counts if the first
sentence is among the best k. Words alone and trigrams alone are measured beside the two together; their
weights were chosen on these pairs.

Time: stores of more and more memories, made of the same sentences with three words exchanged, are asked for
second sentences, and inputs are received and decided, each flushed to the disk. Candidates are measured in
processor time, since other load on the machine counts less there, decisions in wall time, since they wait for
the disk. The results are saved to `benchmarks/results/memory_store-<machine>.json`.
"""

import argparse
import json
import random
import sqlite3
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from _common import write_results
from smidgen.data.memories import Decision
from smidgen.memory import Store, reading
from smidgen.memory.terms import words

LANGUAGES = ("en", "zh")
DEPTHS = (1, 5, 10)
INDEXES = {"words": 0.0, "trigrams": 1e9, "both": reading.TRIGRAM_WEIGHT}
"""Weights of trigrams beside words."""
ASKED = 100
"""Questions of which the time is taken."""
DECIDED = 300
"""Inputs that are received and decided in the measurement of a decision."""


def fill(store: Store, texts: list[str]) -> None:
    """Store texts as a router would, in one process."""
    for number, text in enumerate(dict.fromkeys(texts)):
        store.received(str(number), text)
        store.apply(str(number), [Decision("ADD")], model="none", version="1")


def recall(rows: list[dict[str, Any]], folder: Path) -> list[dict[str, Any]]:
    """Recall of the first sentence for the second one, for every pair of languages and every index."""
    results = []
    for stored in LANGUAGES:
        with Store.open(folder / f"{stored}.db") as store:
            fill(store, [row[f"sentence1_{stored}"] for row in rows])
            for asked in LANGUAGES:
                pairs = [row for row in rows if row[f"label_{asked}"] == 1 == row[f"label_{stored}"]]
                for name, weight in INDEXES.items():
                    reading.TRIGRAM_WEIGHT = weight
                    places = [
                        _place(store, row[f"sentence2_{asked}"], row[f"sentence1_{stored}"]) for row in pairs
                    ]
                    found = {
                        f"recall@{k}": round(sum(place < k for place in places) / len(places), 4)
                        for k in DEPTHS
                    }
                    result = {"asked": asked, "stored": stored, "index": name, "pairs": len(pairs), **found}
                    print(result, flush=True)
                    results.append(result)
    return results


def _place(store: Store, text: str, wanted: str) -> int:
    """The place of a text among the candidates, from 0; beyond the deepest if it is not there."""
    found = [candidate.text for candidate in store.candidates(text, max(DEPTHS))]
    return found.index(wanted) if wanted in found else max(DEPTHS)


def time_candidates(rows: list[dict[str, Any]], num_memories: int, folder: Path) -> dict[str, Any]:
    """Processor time of `candidates` in a store of many memories."""
    draw = random.Random(0)
    sentences = [row[f"sentence1_{language}"] for row in rows for language in LANGUAGES]
    vocabulary = [word for row in rows for word in row["sentence1_en"].split()]
    questions = draw.sample([row["sentence2_en"] for row in rows], ASKED)
    with Store.open(folder / f"{num_memories}.db") as store:
        connection = store._connection  # through the journal, 100,000 memories would take minutes
        connection.execute("BEGIN")
        for number in range(num_memories):
            varied = draw.choice(sentences).split()
            for _ in range(3):
                varied[draw.randrange(len(varied))] = draw.choice(vocabulary)
            _insert(connection, number, " ".join(varied))
        connection.execute("COMMIT")
        store.candidates(questions[0])
        times = []
        for question in questions:
            began = time.process_time()
            store.candidates(question)
            times.append((time.process_time() - began) * 1000)
    times.sort()
    return {
        "memories": num_memories,
        "milliseconds": {
            "median": round(statistics.median(times), 2),
            "p95": round(times[int(len(times) * 0.95)], 2),
            "longest": round(times[-1], 2),
        },
    }


def _insert(connection: sqlite3.Connection, number: int, text: str) -> None:
    connection.execute(
        "INSERT INTO memory VALUES (?, ?, NULL, '', '', ?)", (number + 1, text, " ".join(words(text)))
    )


def time_decisions(rows: list[dict[str, Any]], folder: Path) -> dict[str, float]:
    """Wall time of receiving an input and of deciding on it, in milliseconds, medians."""
    received, applied = [], []
    with Store.open(folder / "decisions.db") as store:
        for number, row in enumerate(rows[:DECIDED]):
            began = time.perf_counter()
            store.received(str(number), row["sentence1_en"])
            middle = time.perf_counter()
            store.apply(str(number), [Decision("ADD")], model="none", version="1")
            received.append((middle - began) * 1000)
            applied.append((time.perf_counter() - middle) * 1000)
    return {
        "received": round(statistics.median(received), 2),
        "applied": round(statistics.median(applied), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("pairs", type=Path)
    parser.add_argument("--memories", type=int, nargs="*", default=[2_000, 20_000, 100_000])
    given = parser.parse_args()
    rows = [json.loads(line) for line in given.pairs.read_text(encoding="utf-8").splitlines()]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        results: dict[str, Any] = {
            "sqlite": sqlite3.sqlite_version,
            "milliseconds": time_decisions(rows, folder),
        }
        print(results, flush=True)
        results["recall"] = recall(rows, folder)
        reading.TRIGRAM_WEIGHT = INDEXES["both"]
        results["candidates"] = []
        for number in given.memories:
            results["candidates"].append(time_candidates(rows, number, folder))
            print(results["candidates"][-1], flush=True)
    print(write_results("memory_store", results))


if __name__ == "__main__":
    main()
