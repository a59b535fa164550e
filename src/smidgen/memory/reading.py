"""What is read from a store: memories, those that could be about the same thing as a fact, and pending inputs."""

import json
import sqlite3
from collections import defaultdict
from dataclasses import dataclass

from smidgen.memory.tables import memory_id
from smidgen.memory.terms import storable, trigrams_query, words_query

DEPTH = 50
"""Best memories of each index that are ranked together."""
RANK_OFFSET = 60
"""Constant of reciprocal rank fusion, as in its paper (Cormack et al., SIGIR 2009)."""


@dataclass(frozen=True)
class Memory:
    """A stored memory; `created` and `updated` are ISO 8601 in UTC."""

    id: str
    text: str
    category: str | None
    created: str
    updated: str


@dataclass(frozen=True)
class Input:
    """An input that is not decided yet.

    Attributes:
        id: its id.
        text: the text as it was received.
        received: when, ISO 8601 in UTC.
        attempts: how often a decision was deferred or was stale.
        reason: why it was the last time; empty without attempts.
    """

    id: str
    text: str
    received: str
    attempts: int
    reason: str


def nearest(connection: sqlite3.Connection, text: str, k: int) -> list[Memory]:
    """The k memories most like a text, best first; one with the very same text is always the first.

    Memories are ranked by BM25 over words and by BM25 over trigrams, and the two rankings are joined by
    reciprocal rank fusion. Equals are in the order of their making.
    """
    scores: dict[int, float] = defaultdict(float)
    same = connection.execute(
        "SELECT number FROM memory WHERE text = ? ORDER BY number LIMIT 1", (storable(text),)
    ).fetchone()
    if same:
        scores[same[0]] = 1.0  # more than both rankings give together
    for table, query in (("by_words", words_query(text)), ("by_trigrams", trigrams_query(text))):
        if query:
            found = connection.execute(
                f"SELECT rowid FROM {table} WHERE {table} MATCH ? ORDER BY rank, rowid LIMIT ?",
                (query, DEPTH),
            )
            for rank, (number,) in enumerate(found, start=1):
                scores[number] += 1 / (RANK_OFFSET + rank)
    best = sorted(scores, key=lambda number: (-scores[number], number))[:k]
    by_number = {
        row["number"]: _memory(row)
        for row in connection.execute(
            f"SELECT * FROM memory WHERE number IN ({', '.join('?' * len(best))})", best
        )
    }
    return [by_number[number] for number in best]


def all_memories(connection: sqlite3.Connection) -> list[Memory]:
    """Every memory, in the order of their making."""
    return [_memory(row) for row in connection.execute("SELECT * FROM memory ORDER BY number")]


def pending_inputs(connection: sqlite3.Connection) -> list[Input]:
    """Every input that is not decided, oldest first."""
    rows = connection.execute(
        "SELECT input.id, attempts, first.time, first.body AS received, last.kind, last.body AS latest FROM input "
        "JOIN entry AS first ON first.number = input.received JOIN entry AS last ON last.number = input.latest "
        "WHERE decided IS NULL ORDER BY input.received"
    )
    return [
        Input(
            row["id"],
            json.loads(row["received"])["text"],
            row["time"],
            row["attempts"],
            "" if row["kind"] == "received" else json.loads(row["latest"])["reason"],
        )
        for row in rows
    ]


def _memory(row: sqlite3.Row) -> Memory:
    return Memory(memory_id(row["number"]), row["text"], row["category"], row["created"], row["updated"])
