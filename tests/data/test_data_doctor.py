from hypothesis import given
from hypothesis import strategies as st

from smidgen.data.examine import Finding, examine_overlap, examine_pairs, examine_queries
from smidgen.data.formats import Pair, Query

CLEAN = [Pair("1", "one?", "yes", "not", "a"), Pair("2", "two?", "no", "ok", "b")]


def kinds(findings: list[Finding]) -> dict[str, tuple[str, ...]]:
    return {finding.kind: finding.ids for finding in findings}


def test_clean_data_have_no_findings() -> None:
    assert examine_pairs(CLEAN) == []
    assert examine_queries([Query("1", "hi", "greet"), Query("2", "bye", "leave")]) == []
    assert examine_overlap(CLEAN[:1], CLEAN[1:]) == []


def test_answers_that_do_not_differ() -> None:
    found = examine_pairs([*CLEAN, Pair("3", "x", "Same  Answer", "same answer", "a")])
    assert kinds(found) == {"same answers": ("3",)}
    assert found[0].severity == "error"
    assert found[0].message == "1 row: the two answers are identical, so no label is right; remove"


def test_a_swapped_repeat_is_a_duplicate_and_a_flipped_label_is_not() -> None:
    swapped = Pair("3", "One? ", "not", "yes", "b")
    flipped = Pair("4", "one?", "not", "yes", "a")
    assert kinds(examine_pairs([*CLEAN, swapped, flipped])) == {"two labels": ("4",), "duplicate": ("3",)}


def test_labels_that_follow_from_position_or_length() -> None:
    chosen_first = [Pair(str(n), f"{n}?", "a long answer" * (n % 2 + 1), "short", "a") for n in range(20)]
    found = examine_pairs(chosen_first)
    assert set(kinds(found)) == {"one side", "length"}
    assert "the longer answer is the better one in 100% of the pairs" in found[-1].message
    assert examine_pairs(chosen_first[1:]) == []  # too few to tell
    mirrored = [Pair(p.id, p.prompt, p.b, p.a, "a") for p in chosen_first]
    assert "the shorter answer" in examine_pairs(mirrored)[-1].message


def test_utterances() -> None:
    found = examine_queries([Query("1", "Hi", "x"), Query("2", "hi ", "y"), Query("3", "HI", "x")])
    assert kinds(found) == {"two labels": ("2",), "duplicate": ("3",)}


@given(st.lists(st.text(min_size=1), unique=True))
def test_every_trained_question_is_a_leak(texts: list[str]) -> None:
    rows = [Query(str(number), text, "x") for number, text in enumerate(texts)]
    found = examine_overlap(rows, rows)
    assert kinds(found) == ({"leak": tuple(row.id for row in rows)} if rows else {})
