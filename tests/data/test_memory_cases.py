"""The memory cases keep what their guide promises: numbers of each kind, and labels that are possible."""

from collections import Counter
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from smidgen.data import packaged_rows
from smidgen.data.memories import ARBITRATE_ACTIONS, CATEGORIES, KINDS, MEMORIZE_ACTIONS
from smidgen.data.packaged_rows import NAMES, row_path
from smidgen.data.row_files import fingerprint, read_rows
from smidgen.errors import DataError
from smidgen.files import sha256_file

MEMORIZE, ARBITRATE = ([dict(row) for row in read_rows(Path(name))] for name in NAMES)
GUIDE = (row_path(NAMES[0]).parent / "GUIDE.md").read_text(encoding="utf-8")
LANGUAGES = ("en", "zh", "de", "mixed")
DUPLICATES = ("paraphrase", "cross-language", "synonym", "abbreviation")
ACTIONS = {
    **{kind: {"NONE"} for kind in DUPLICATES},
    "correction": {"UPDATE"},
    "relational": {"UPDATE"},
    "expiry": {"UPDATE", "DELETE"},
    "mixed": {"UPDATE", "DELETE", "NONE"},
    "new": {"ADD"},
}
HAN = ("\u4e00", "\u9fff")


def counts(rows: list[dict[str, Any]], field: str, **where: str) -> Counter[str]:
    chosen = [row for row in rows if all(row[name] == value for name, value in where.items())]
    return Counter(row[field] for row in chosen if field in row)


def texts_of(row: dict[str, Any]) -> list[str]:
    return [row["text"]] if "text" in row else [row["fact"], *(c["text"] for c in row["candidates"])]


def has_han(text: str) -> bool:
    return any(HAN[0] <= character <= HAN[1] for character in text)


def length(text: str) -> int:
    """Words, or two Chinese characters for one."""
    han = sum(has_han(character) for character in text)
    return han // 2 + len("".join(" " if has_han(c) else c for c in text).split())


def plain(text: str) -> str:
    return "".join(character for character in text.casefold() if character.isalnum())


def test_memorize_has_the_promised_numbers():
    assert len(MEMORIZE) >= 130
    assert all(number >= 12 for number in counts(MEMORIZE, "category").values())
    assert 0.45 <= counts(MEMORIZE, "decision")["SAVE"] / len(MEMORIZE) <= 0.55
    languages = counts(MEMORIZE, "language")
    assert languages["en"] >= 70 and all(languages[language] >= 15 for language in LANGUAGES)
    for language in LANGUAGES:
        decisions = counts(MEMORIZE, "decision", language=language)
        assert min(decisions.values()) >= 0.4 * languages[language], language
        assert set(counts(MEMORIZE, "category", language=language)) == set(CATEGORIES)


def test_arbitrate_has_the_promised_numbers():
    assert len(ARBITRATE) >= 140
    assert all(counts(ARBITRATE, "kind")[kind] >= 15 for kind in KINDS)
    english = counts(ARBITRATE, "kind", language="en")
    assert english.total() >= 90
    assert all(english[kind] >= 8 for kind in KINDS if kind != "cross-language")
    for language in LANGUAGES:
        assert set(KINDS) - {"cross-language"} <= set(counts(ARBITRATE, "kind", language=language))


@pytest.mark.parametrize("rows", [MEMORIZE, ARBITRATE])
def test_ids_and_texts_are_unique_and_say_nothing_of_the_label(rows: list[dict[str, Any]]):
    ids = [row["id"] for row in rows]
    assert len(set(ids)) == len(ids)
    assert all(row["id"].split("-")[1] == row["language"] for row in rows)
    facts = [plain(texts_of(row)[0]) for row in rows]
    assert [fact for fact, number in Counter(facts).items() if number > 1] == []
    labels = [row["decision"] for row in rows]
    runs = 1 + sum(before != after for before, after in pairwise(labels))
    assert runs > len(rows) / 3  # sorted by label, there would be a handful


@pytest.mark.parametrize("rows", [MEMORIZE, ARBITRATE])
def test_texts_are_clean_and_of_their_language(rows: list[dict[str, Any]]):
    for row in rows:
        for text in texts_of(row):
            assert text == text.strip(), row["id"]
            assert row["language"] == "mixed" or has_han(text) == (row["language"] == "zh"), text
        assert 3 <= length(texts_of(row)[0]) <= 80, texts_of(row)[0]


def test_memorize_labels_are_possible():
    for row in MEMORIZE:
        wanted = "category" if row["decision"] == "SAVE" else "kind"
        assert set(row) == {"id", "text", "decision", wanted, "language"}, row["id"]
        assert row["decision"] in MEMORIZE_ACTIONS
        assert row["language"] in LANGUAGES
        assert row.get("category", "fact") in CATEGORIES
        assert f"`{row[wanted]}`" in GUIDE, row["id"]


def test_arbitrate_labels_are_possible():
    for row in ARBITRATE:
        offered = [candidate["id"] for candidate in row["candidates"]]
        assert set(row) - {"target"} == {"id", "fact", "candidates", "decision", "kind", "language"}
        assert row["decision"] in ARBITRATE_ACTIONS and row["decision"] in ACTIONS[row["kind"]], row["id"]
        assert row["language"] in LANGUAGES
        assert 2 <= len(offered) <= 5 and len(set(offered)) == len(offered), row["id"]
        assert all(set(candidate) == {"id", "text"} for candidate in row["candidates"])
        has_target = row["decision"] != "ADD" and (row["decision"], row["kind"]) != ("NONE", "mixed")
        assert ("target" in row) == has_target, row["id"]
        assert row.get("target", offered[0]) in offered, row["id"]


def test_no_candidate_is_the_fact_or_another_one():
    for row in ARBITRATE:
        told = [plain(text) for text in texts_of(row)]
        assert len(set(told)) == len(told), row["id"]


def test_a_cross_language_duplicate_is_in_another_language():
    for row in ARBITRATE:
        if row["kind"] != "cross-language":
            continue
        assert row["language"] == "mixed"
        target = next(c["text"] for c in row["candidates"] if c["id"] == row["target"])
        shared = set(row["fact"].casefold().split()) & set(target.casefold().split())
        assert len(shared) <= len(row["fact"].split()) / 2, row["id"]


def places() -> Iterator[tuple[int, int]]:
    for row in ARBITRATE:
        if "target" in row:
            offered = [candidate["id"] for candidate in row["candidates"]]
            yield len(offered), offered.index(row["target"])


def test_the_right_candidate_stands_in_every_place():
    found = Counter(places())
    for number in (2, 3, 4, 5):
        here = [found[number, place] for place in range(number)]
        assert min(here) > 0 and max(here) - min(here) <= 2, (number, here)


def always_first(row: dict[str, Any]) -> bool:
    return row.get("target") == row["candidates"][0]["id"]


def most_alike(row: dict[str, Any]) -> bool:
    words = set(row["fact"].casefold().split())
    alike = max(row["candidates"], key=lambda c: len(words & set(c["text"].casefold().split())))
    return row.get("target") == alike["id"]


@pytest.mark.parametrize("guess", [always_first, most_alike])
def test_a_cheap_guess_does_not_find_the_target(guess: Callable[[dict[str, Any]], bool]):
    asked = [row for row in ARBITRATE if "target" in row and row["language"] == "en"]
    assert sum(map(guess, asked)) / len(asked) < 0.75


def test_the_guide_names_every_label():
    for label in (*MEMORIZE_ACTIONS, *ARBITRATE_ACTIONS, *LANGUAGES, *KINDS, *CATEGORIES):
        assert label in GUIDE
    assert "CC0" in GUIDE


def test_packaged_rows_are_found_by_name():
    assert NAMES == ("smidgen:memorize-cases", "smidgen:arbitrate-cases")
    assert [fingerprint(name) for name in NAMES] == [sha256_file(row_path(name)) for name in NAMES]
    assert row_path("rows.jsonl") == Path("rows.jsonl")


def test_an_unknown_name_gets_the_nearest_one(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(DataError, match=r"no rows named 'smidgen:memorise-cases'.*Did you mean 'smidgen:mem"):
        read_rows(Path("smidgen:memorise-cases"))
    monkeypatch.setitem(packaged_rows._FILES, NAMES[0], "memory_cases/gone.jsonl")
    with pytest.raises(DataError, match="smidgen:memorize-cases is missing from this installation"):
        read_rows(Path(NAMES[0]))
