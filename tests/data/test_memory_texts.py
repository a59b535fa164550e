"""Generated texts: every sort that the guide names, and nothing but the rule tells what is to be saved."""

import math
import random
import re
from collections import Counter
from pathlib import Path

import pytest

from smidgen.data.grammar import LANGUAGES, WRITTEN, in_split, sections
from smidgen.data.memory_texts import CATEGORY_WEIGHTS, SORT_WEIGHTS, Author, memorize_rows
from smidgen.data.world import Split

GUIDE = Path(__file__).parents[2] / "src/smidgen/data/memory_cases/GUIDE.md"
TOLD = "{told}"


def templates(section: str, language: str, split: Split) -> tuple[str, ...]:
    return in_split(sections(f"texts.{language}.txt").get(f"@{section}", ()), split)


def test_every_sort_that_the_guide_names_is_written_and_no_other() -> None:
    table = GUIDE.read_text(encoding="utf-8").partition("| `kind` of SKIP")[2].partition("\n\n")[0]
    named = {name for row in table.splitlines()[2:] for name in re.findall(r"`(\w+)`", row.split("|")[1])}
    assert named == set(SORT_WEIGHTS)
    rows = memorize_rows("test", 600, 0)
    assert {row["kind"] for row in rows if "kind" in row} == named
    assert {row["category"] for row in rows if "category" in row} == set(CATEGORY_WEIGHTS)


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("language", LANGUAGES)
def test_frames_of_both_decisions_are_in_every_split(language: str, split: Split) -> None:
    skipping = [line for sort in SORT_WEIGHTS for line in templates(sort, language, split) if TOLD in line]
    assert len(skipping) >= 2 and templates("save", language, split)
    for frame in ("again", "changed", "ended", "save"):
        assert all(TOLD in line for line in templates(frame, language, split)), frame
        assert templates(frame, language, split), frame


def test_one_sentence_is_saved_and_skipped_by_what_stands_around_it() -> None:
    author, told = Author("train", random.Random(0), WRITTEN), "We keep bees behind the chapel."
    for section, share in {"save": 1.0, "fiction": 0.3, "quote": 0.3, "command": 0.06, "code": 0.1}.items():
        drawn = [author._drawn(section, "en", told) for _ in range(300)]
        assert sum(told in text for text in drawn) >= share * len(drawn), section


def test_texts_to_save_and_to_skip_are_as_long() -> None:
    rows = memorize_rows("train", 1500, 0, ["en"])
    saved, skipped = (
        sorted(len(row["text"].split()) for row in rows if row["decision"] == decision)
        for decision in ("SAVE", "SKIP")
    )
    assert abs(saved[len(saved) // 2] - skipped[len(skipped) // 2]) <= 6
    assert sum(length > 20 for length in saved) > 75 < sum(length > 20 for length in skipped)


def words(text: str) -> set[str]:
    return {*re.findall(r"[^\W\u4e00-\u9fff]+|[\u4e00-\u9fff]|[^\w\s]", text.casefold())}


def naive_bayes(train: list[dict], test: list[dict]) -> float:
    """The share of test rows that a bag of words decides rightly."""
    rows, seen = Counter(row["decision"] for row in train), {"SAVE": Counter(), "SKIP": Counter()}
    for row in train:
        seen[row["decision"]].update(words(row["text"]))
    known = seen["SAVE"].keys() | seen["SKIP"].keys()

    def likelihood(text: str, decision: str) -> float:
        counts, number = seen[decision], rows[decision]
        found = words(text) & known
        return math.log(number) + sum(math.log((counts[word] + 0.5) / (number + 1)) for word in found)

    guesses = [max(seen, key=lambda decision: likelihood(row["text"], decision)) for row in test]
    return sum(guess == row["decision"] for guess, row in zip(guesses, test, strict=True)) / len(test)


def test_a_bag_of_words_does_not_tell_what_is_worth_remembering() -> None:
    """Measured with 3,000 rows: 0.69 on texts of held-out templates, 0.77 on those of its own."""
    train = memorize_rows("train", 2000, 0)
    assert naive_bayes(train, memorize_rows("test", 600, 0)) < 0.75
    assert naive_bayes(train, memorize_rows("train", 600, 1)) < 0.85


def test_the_bag_of_words_learns_what_words_tell() -> None:
    told = [
        {"decision": d, "text": f"{w} thing {n}"}
        for d, w in (("SAVE", "ours"), ("SKIP", "theirs"))
        for n in "abc"
    ]
    assert naive_bayes(told, told) == 1.0
