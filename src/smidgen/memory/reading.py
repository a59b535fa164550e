"""What is read from a store: memories, those that could be about the same as a fact, and pending inputs."""

import json
import sqlite3
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from smidgen.memory.journal import Entry
from smidgen.memory.tables import entry_from, memory_id
from smidgen.memory.terms import storable, trigrams, words

DEPTH = 50
"""Best memories of each index that are ranked together."""
TRIGRAM_WEIGHT = 0.5
"""Weight of trigrams beside words; with 1, recall@5 on PAWS-X is below that of words alone, with 0.5 not."""
MAX_TERMS = 256
"""Most terms of a query that are looked for: of a longer text, those at its beginning."""
MAX_POSTINGS = 20_000
"""A query takes its rarest terms first, until they are in so many memories together.

This bounds its time: BM25 reads every memory that has any of the terms, and gives words that are everywhere
next to no weight.
"""

ALL = -1
"""What SQLite takes for a limit that is none."""
Kind = Literal["memories", "journal", "pending"]
_COUNTS: Mapping[Kind, str] = {
    "memories": "SELECT count(*) FROM memory",
    # counting would read every entry; their numbers have no gap
    "journal": "SELECT coalesce(max(number), 0) FROM entry",
    "pending": "SELECT count(*) FROM input WHERE decided IS NULL",
}


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


class Page(NamedTuple):
    """Some of the memories, entries or inputs, and how many there are of them."""

    total: int
    found: Sequence[Memory | Entry | Input]


def nearest(connection: sqlite3.Connection, text: str, k: int) -> list[Memory]:
    """The k memories most like a text, best first; one with the very same text is always the first.

    A memory's score is its BM25 over words plus half of that over trigrams, each divided by the best of its
    index (CombSUM of Fox and Shaw, TREC-2, 1994). Equals are in the order of their making.
    """
    scores: dict[int, float] = defaultdict(float)
    same = connection.execute(
        "SELECT number FROM memory WHERE text = ? ORDER BY number LIMIT 1", (storable(text),)
    ).fetchone()
    if same:
        scores[same[0]] = 2.0  # more than both indexes give together
    found = words(text)
    for index, terms, weight in (
        ("by_words", found, 1.0),
        ("by_trigrams", trigrams(found), TRIGRAM_WEIGHT),
    ):
        ranked = _ranked(connection, index, terms)
        for number, score in ranked:
            scores[number] += weight * score / ranked[0][1]
    best = sorted(scores, key=lambda number: (-scores[number], number))[:k]
    rows = connection.execute(f"SELECT * FROM memory WHERE number IN ({', '.join('?' * len(best))})", best)
    by_number = {row["number"]: _memory(row) for row in rows}
    return [by_number[number] for number in best]


def containing(connection: sqlite3.Connection, text: str, k: int) -> list[Memory]:
    """The first k memories that a text is part of, letter for letter: what is shorter than any term."""
    rows = connection.execute(
        "SELECT * FROM memory WHERE instr(text, ?) ORDER BY number LIMIT ?", (storable(text), k)
    )
    return [_memory(row) for row in rows]


def memories_from(connection: sqlite3.Connection, *, limit: int = ALL, offset: int = 0) -> list[Memory]:
    """Memories after so many others, in the order of their making."""
    rows = connection.execute("SELECT * FROM memory ORDER BY number LIMIT ? OFFSET ?", (limit, offset))
    return [_memory(row) for row in rows]


def entries_from(connection: sqlite3.Connection, *, limit: int = ALL, offset: int = 0) -> list[Entry]:
    """Entries of the journal after so many others; they are numbered from 1 without a gap."""
    rows = connection.execute("SELECT * FROM entry WHERE number > ? ORDER BY number LIMIT ?", (offset, limit))
    return [entry_from(row) for row in rows]


def pending_from(connection: sqlite3.Connection, *, limit: int = ALL, offset: int = 0) -> list[Input]:
    """Inputs that are not decided, after so many others, oldest first."""
    rows = connection.execute(
        "SELECT input.id, attempts, first.time, first.body AS received, last.kind, last.body AS latest "
        "FROM input JOIN entry AS first ON first.number = input.received "
        "JOIN entry AS last ON last.number = input.latest "
        "WHERE decided IS NULL ORDER BY input.received LIMIT ? OFFSET ?",
        (limit, offset),
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


def page_of(connection: sqlite3.Connection, what: Kind, *, limit: int, offset: int) -> Page:
    """So many memories, entries of the journal or pending inputs after so many others."""
    total = connection.execute(_COUNTS[what]).fetchone()[0]
    match what:
        case "memories":
            return Page(total, memories_from(connection, limit=limit, offset=offset))
        case "journal":
            return Page(total, entries_from(connection, limit=limit, offset=offset))
        case "pending":
            return Page(total, pending_from(connection, limit=limit, offset=offset))


def _ranked(connection: sqlite3.Connection, index: str, terms: Sequence[str]) -> list[tuple[int, float]]:
    """The best memories of an index for any of some terms, with FTS5's BM25, which is negative."""
    distinct = list(dict.fromkeys(terms))[:MAX_TERMS]
    places = ", ".join("?" * len(distinct))
    counted = connection.execute(
        f"SELECT term, doc FROM {index}_terms WHERE term IN ({places}) ORDER BY doc, term", distinct
    )
    query, postings = [], 0
    for term, num_memories in counted:
        postings += num_memories
        if query and postings > MAX_POSTINGS:
            break
        query.append(f'"{term}"')  # letters, marks and digits only: nothing in it is an operator
    if not query:
        return []
    rows = connection.execute(
        f"SELECT rowid, rank FROM {index} WHERE {index} MATCH ? ORDER BY rank, rowid LIMIT {DEPTH}",
        (" OR ".join(query),),
    )
    return [(number, rank) for number, rank in rows]


def _memory(row: sqlite3.Row) -> Memory:
    return Memory(memory_id(row["number"]), row["text"], row["category"], row["created"], row["updated"])
