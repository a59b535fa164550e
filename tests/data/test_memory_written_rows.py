"""Rows that were written for training: of our own format, apart from the exam, and in their share."""

import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from smidgen.data.memory_rows import arbitrations, memories
from smidgen.data.memory_texts import memorize_rows
from smidgen.data.memory_world import arbitrate_rows
from smidgen.data.memory_written_rows import written_rows
from smidgen.data.near import near_copies

CASES = Path(__file__).parents[2] / "src/smidgen/data/memory_cases"
NAME = re.compile(r"(?<=[a-z,] )[A-Z][a-zà-ÿ]{2,}|[A-Z][a-zà-ÿ]{2,}(?='s)")
NO_NAMES = re.compile(
    r"(?:(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)days?|(?:Jan|Febr)uary|March|April|June|July|August"
    r"|(?:Sept|Nov|Dec)ember|October|English|Spanish|Portuguese|Dutch|Swedish|Celsius|Fahrenheit|Christmas"
    r"|Dad|Mother|Uncle|Mrs|Captain|Git|Harbour|Institute|Lane|Mill|Street|Red|May|She|That|There|What)"
)
"""Days, months, languages and other words, which are written with a capital too."""


def texts(row: dict) -> list[str]:
    return [row["text"]] if "text" in row else [row["fact"], *(each["text"] for each in row["candidates"])]


def named(rows: Sequence[dict]) -> set[str]:
    """The names of people, places and products in English texts."""
    told = [text for row in rows if row["language"] == "en" for text in texts(row)]
    return {name for text in told for name in NAME.findall(text)}


def cases(task: str) -> list[dict]:
    file = CASES / f"{task}.jsonl"
    if not file.is_file():
        pytest.skip("there are no hand-written cases")
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def test_they_are_of_our_own_format_and_of_every_kind():
    facts, kept = written_rows("arbitrate"), written_rows("memorize")
    assert len(arbitrations(facts)) == len(facts) > 1700 and len(memories(kept)) == len(kept) > 400
    kinds = Counter(row["kind"] for row in facts)
    assert len(kinds) == 9 and min(kinds.values()) > 80
    assert min(Counter(row["decision"] for row in kept).values()) > 190
    for rows in (facts, kept):
        assert {row["language"] for row in rows} == {"en", "de", "zh", "mixed"}
        assert len({texts(row)[0] for row in rows}) == len(rows)


def test_the_place_of_a_target_says_nothing():
    places = Counter(
        [each["id"] for each in row["candidates"]].index(row["target"])
        for row in written_rows("arbitrate")
        if "target" in row and len(row["candidates"]) == 3
    )
    assert all(
        abs(places[place] - places.total() / 3) < 4 * (places.total() / 3) ** 0.5 for place in range(3)
    )


@pytest.mark.parametrize("task", ["arbitrate", "memorize"])
def test_they_share_no_text_and_no_name_with_the_exam(task: str):
    made = [text for row in written_rows(task) for text in texts(row)]
    asked = [text for row in cases(task) for text in texts(row)]
    assert not set(made) & set(asked)
    assert not [made[at] for at in near_copies(made, asked)]
    mine, theirs = (
        {
            name
            for row in rows
            if row["language"] == "en"
            for text in texts(row)
            for name in NAME.findall(text)
        }
        for rows in (written_rows(task), cases("arbitrate") + cases("memorize"))
    )
    assert not {name for name in mine & theirs if not NO_NAMES.fullmatch(name)}, "give them other names"


@pytest.mark.parametrize(("task", "make"), [("arbitrate", arbitrate_rows), ("memorize", memorize_rows)])
def test_half_of_the_training_rows_are_written_and_no_test_row_is(task: str, make):
    written = {texts(row)[0] for row in written_rows(task)}
    rows = make("train", 300, 0)
    assert 0.4 < sum(texts(row)[0] in written for row in rows) / 300 < 0.6
    assert len({row["id"] for row in rows}) == 300
    assert not [row for row in make("test", 200, 0) if texts(row)[0] in written]
    german = make("train", 100, 0, ("de",))
    assert {row["language"] for row in german} == {"de"}
