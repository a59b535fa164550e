from hypothesis import given
from hypothesis import strategies as st

from smidgen.data.examine import examine, examine_overlap, examine_repeats
from smidgen.data.examine_labels import examine_labels
from smidgen.data.examine_pairs import examine_pairs
from smidgen.data.examples import Example, pair_example
from smidgen.data.findings import Finding
from smidgen.data.items import Pair

CLEAN = [Example("1", "one?", ("yes", "not"), "a"), Example("2", "two?", ("no", "ok"), "b")]


def kinds(findings: list[Finding]) -> dict[str, tuple[str, ...]]:
    return {finding.kind: finding.ids for finding in findings}


def test_clean_data_have_no_findings() -> None:
    assert examine(CLEAN[:1], CLEAN[1:]) == examine(CLEAN, []) == examine([], []) == []
    assert (
        examine([Example("1", "hi", ("greet",), "greet"), Example("2", "bye", ("leave",), "leave")], []) == []
    )


def test_answers_that_do_not_differ() -> None:
    found = examine_pairs([*CLEAN, Example("3", "x", ("Same answer", "Same answer "), "a")])
    assert kinds(found) == {"same answers": ("3",)}
    assert found[0].severity == "error"
    assert found[0].message == "1 row: the two answers are identical, so no label is right; remove"
    found = examine_pairs([*CLEAN, Example("3", "Capitals, please", ("SAME", "same"), "a")])
    assert (found[0].kind, found[0].severity) == ("alike answers", "warning")


def test_a_swapped_repeat_is_a_duplicate_and_a_flipped_label_is_not() -> None:
    swapped = Example("3", "One? ", ("not", "yes"), "b")
    flipped = Example("4", "one?", ("not", "yes"), "a")
    assert kinds(examine_repeats([*CLEAN, swapped, flipped])) == {"two labels": ("4",), "duplicate": ("3",)}
    tie = Example("5", "three?", ("x", "y"), "tie")
    assert kinds(examine_repeats([tie, Example("6", "three?", ("y", "x"), "tie")])) == {"duplicate": ("6",)}


def test_labels_that_follow_from_position_or_length() -> None:
    longer = "a long answer"
    chosen_first = [Example(str(n), f"{n}?", (longer * (n % 2 + 1), "short"), "a") for n in range(20)]
    found = examine_pairs(chosen_first)
    assert set(kinds(found)) == {"one side", "length"}
    assert "the longer answer is the better one in 100% of the pairs" in found[-1].message
    assert examine_pairs(chosen_first[1:]) == []  # too few to tell
    mirrored = [Example(e.id, e.prompt, e.answers[::-1], "a") for e in chosen_first]
    assert "the shorter answer" in examine_pairs(mirrored)[-1].message


def test_utterances() -> None:
    found = examine_repeats([Example(n, text, (), label) for n, text, label in
                             (("1", "Hi", "x"), ("2", "hi ", "y"), ("3", "HI", "x"))])  # fmt: skip
    assert kinds(found) == {"two labels": ("2",), "duplicate": ("3",)}


def test_a_class_may_be_called_none_and_single_letters_are_in_any_text() -> None:
    rows = [Example(str(n), f"a b c {n}", ("none",), "none") for n in range(3)]
    assert examine(rows, []) == []
    letters = [Example(str(n), f"this is a text {n} b", ("a",), "ab"[n % 2]) for n in range(30)]
    assert examine_labels(letters) == []


def test_severe_findings_come_first_and_say_where() -> None:
    rows = [Example("1", "hi", ("x",), "x"), Example("2", "hi", ("x",), "x"), Example("3", "hi", ("y",), "y")]
    found = examine(rows, rows[:1])
    assert [each.kind for each in found] == ["two labels", "leak", "duplicate", "other answer"]
    assert found[1].sentence.startswith("test rows: 1 row: the same question is in the training rows")


def test_pairs_of_one_row_know_it() -> None:
    pair = Pair("7/0-1", "q", "a", "b", "a", answer_ids=("7/0", "7/1"))
    assert pair_example(pair).row == "7" and CLEAN[0].row is None


@given(st.lists(st.text(min_size=1), unique_by=lambda text: " ".join(text.split()).casefold()))
def test_every_trained_question_is_a_leak(texts: list[str]) -> None:
    rows = [Example(str(number), text, ("x",)) for number, text in enumerate(texts)]
    found = examine_overlap(rows, rows)
    assert kinds(found) == (
        {"leak": asked} if (asked := tuple(r.id for r in rows if r.prompt.strip())) else {}
    )
