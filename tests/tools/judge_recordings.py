"""Pairs with labels, and recordings of judges that are right on some of them."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def pair_rows(number: int, *, prompts: int | None = None) -> list[Row]:
    """Labelled pairs; several of them share a prompt if there are fewer prompts."""
    return [
        {"id": f"p{n}", "prompt": f"question {n % (prompts or number)}", "a": f"x{n}", "b": f"yy{n}",
         "better": "ab"[n * 7 % 13 % 2]}
        for n in range(number)
    ]  # fmt: skip


def letter(row: Row, order: str, side: str) -> str:
    """The verdict in the template `verdict` that prefers a side."""
    return "[[A]]" if order[0] == side else "[[B]]"


def judge_of(accuracy: float, seed: int = 0, *, steady: float = 0.9) -> Callable[[Row, str, int], str]:
    """A judge that is right on a share of the pairs, and says the same in both orders of most of those."""

    def said(row: Row, order: str, time: int) -> str:
        draw = random.Random(f"{seed}/{row['id']}")
        is_right, is_steady = draw.random() < accuracy, draw.random() < steady
        if (not is_right and not is_steady) or (is_right and draw.random() < 1 - steady):
            return "[[A]]"  # whatever the order
        other = {"a": "b", "b": "a"}[row["better"]]
        return letter(row, order, row["better"] if is_right else other)

    return said


def write_rows(path: Path, rows: list[Row]) -> str:
    """Write a file of rows."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def record(path: Path, rows: list[Row], said: Callable[[Row, str, int], str], samples: int = 1) -> str:
    """Write the recording of a judge of every pair in both orders, in the ids of several samples."""
    return write_rows(
        path,
        [
            {"id": f"{row['id']}#{order}" + (f"#{time}" if time > 1 else ""), "text": said(row, order, time)}
            for row in rows
            for order in ("ab", "ba")
            for time in range(1, samples + 1)
        ],
    )
