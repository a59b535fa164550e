import random

from hypothesis import given
from hypothesis import strategies as st

from smidgen.data.examples import words_of
from smidgen.data.near import LONG_RUN, NEAR, SHORT_RUN, near_copies, near_duplicates, shared_runs

ONE, OTHER = (" ".join(f"{letter}{n}" for n in range(40)) for letter in "pq")


def jaccard(one: str, other: str) -> float:
    """The definition, for texts of eight words or more."""
    a, b = (set(zip(w, w[1:], w[2:], strict=False)) for w in (words_of(one), words_of(other)))
    return len(a & b) / len(a | b)


@given(st.integers(0, 12), st.integers(0, 3))
def test_a_pair_is_found_if_and_only_if_it_is_near(changes: int, seed: int):
    words = ONE.split()
    for place in random.Random(seed).sample(range(40), changes):
        words[place] = f"changed{place}"
    text = " ".join(words)
    assert bool(list(near_duplicates([(ONE,), (text,)]))) == (jaccard(ONE, text) >= NEAR)
    assert bool(near_copies([text], [ONE])) == (jaccard(ONE, text) >= NEAR)


def test_every_text_of_a_row_must_be_near():
    assert list(near_duplicates([(ONE, OTHER), (ONE, OTHER + " more")])) == [(1, 0)]
    assert list(near_duplicates([(ONE, OTHER), (ONE, ONE)])) == []


def test_punctuation_does_not_count_and_signs_do():
    assert list(near_duplicates([("Is it so?",), ("is it, so",)])) == [(1, 0)]
    assert list(near_duplicates([("What is 2 + 2?",), ("What is 2 - 2?",)])) == []
    assert words_of("Wo-ist 我们 da?") == ["wo", "-", "ist", "我", "们", "da"]


def test_what_all_texts_share_is_a_template_and_does_not_count():
    texts = [f"{ONE} {n} a{n} b{n} c{n}" for n in range(30)]
    assert list(near_duplicates([(text,) for text in texts])) == []
    assert near_copies(texts[15:], texts[:15]) == []
    assert shared_runs(texts[5:], texts[:5]) == []
    assert len(list(near_duplicates([(text,) for text in texts[:5]]))) == 4  # too few to tell


def test_a_run_of_words_is_enough_of_a_long_text():
    long, short = ONE.split(), OTHER.split()[: LONG_RUN - 1]
    texts = [
        f"{OTHER[::-1]} {' '.join(long[:LONG_RUN])}",
        f"x {' '.join(long[: LONG_RUN - 1])} y",
        " ".join(short),
    ]
    assert shared_runs(texts, [ONE]) == [0]
    assert shared_runs(texts, [" ".join(short[:SHORT_RUN])]) == [2]
    assert shared_runs([" ".join(short[: SHORT_RUN - 1])], [OTHER]) == []
    assert shared_runs(texts, []) == near_copies([], [ONE]) == []
