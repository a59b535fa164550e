import random
import re
from itertools import islice, pairwise

import pytest

from smidgen.data.corpus import FORMS, OPENING, curriculum, documents
from smidgen.data.preferences import JUDGE_KINDS, judge_rows
from smidgen.data.world import operand_key, split_of
from smidgen.data.world_items import KINDS, items, near_misses
from smidgen.errors import DataError

DOCUMENTS = 8_000
NUMBER_PAIR = re.compile(r"(\d+) ([+-]) (\d+)")


@pytest.fixture(scope="module")
def corpus():
    return [*islice(curriculum(seed=0), 3_000), *islice(documents(seed=0), DOCUMENTS)]


@pytest.fixture(scope="module")
def held_out():
    """Every key of a large draw of test items."""
    return {key for item in items("test", 4_000, seed=7) for key in item.keys}


def test_no_held_out_operands_stand_in_the_corpus(corpus):
    found = {operand_key(int(a), sign, int(b)) for text in corpus for a, sign, b in NUMBER_PAIR.findall(text)}
    assert len(found) > 3_000
    assert {key for key in found if split_of(key) == "test"} == set()


def test_no_held_out_person_or_thing_stands_in_the_corpus(corpus, held_out):
    neighbours = {
        f"{a} {b}" for text in corpus for a, b in pairwise(re.findall(r"[A-Za-z]+|[^A-Za-z ]", text))
    }
    compounds = {key for key in held_out if re.fullmatch(r"[A-Za-z]+ [A-Za-z]+", key)}
    assert len(compounds) > 2_000
    assert not {key for key in compounds if key in neighbours or key.upper() in neighbours}


def test_no_held_out_town_stands_in_the_corpus(corpus, held_out):
    seen = {word for text in corpus for word in re.findall(r"[A-Za-z]+", text)}
    towns = {key for key in held_out if re.fullmatch(r"[A-Z][a-z]+", key)}
    assert len(towns) > 100
    assert not towns & seen


def test_no_held_out_operands_stand_in_a_word_problem(corpus):
    asked = re.compile(r"has (\d+) (\w+)(?:\. \w+ \w+ gives \w+ \w+| and finds) (\d+) more")
    pairs = {(int(a), int(b)) for text in corpus for a, _, b in asked.findall(text)}
    assert len(pairs) > 100
    assert all(split_of(operand_key(a, "+", b)) == "train" for a, b in pairs)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("split", ["train", "test"])
def test_an_item_belongs_to_its_split_and_its_wrong_answers_are_wrong(kind, split):
    for item in items(split, 60, seed=3, kinds=[kind]):
        assert item.keys
        assert all(split_of(key) == split for key in item.keys)
        assert item.wrong
        assert item.answer not in item.wrong
        assert "{}" in item.sentence


def test_a_wrong_result_is_never_missing_nor_negative():
    rng = random.Random(0)
    for value in range(12):
        for _ in range(300):
            wrong = near_misses(rng, value)
            assert wrong and str(value) not in wrong and all(int(result) >= 0 for result in wrong)


@pytest.mark.parametrize("kind", ["sum", "difference", "problem"])
def test_calculations_are_right(kind):
    for item in items("train", 60, seed=5, kinds=[kind]):
        a, sign, b = NUMBER_PAIR.search(item.sentence).groups()
        assert int(item.answer) == (int(a) + int(b) if sign == "+" else int(a) - int(b))


def test_the_same_seed_draws_the_same_items():
    assert list(items("train", 40, seed=1)) == list(items("train", 40, seed=1))
    assert list(items("train", 40, seed=1)) != list(items("train", 40, seed=2))


def test_the_curriculum_opens_apart_and_can_be_entered_anywhere():
    whole = list(islice(curriculum(seed=4), OPENING + 20))
    assert whole[OPENING:] == list(islice(documents(seed=4), 20))
    for start in (0, 700, OPENING - 3, OPENING, OPENING + 5):
        assert list(islice(curriculum(4, start), 10)) == whole[start : start + 10]


def test_a_stream_of_documents_can_be_entered_anywhere():
    whole = list(islice(documents(seed=4), 1_400))
    for start in (0, 1, 511, 512, 513, 1_200):
        assert list(islice(documents(seed=4, start=start), 50)) == whole[start : start + 50]


def test_the_corpus_has_every_form_and_never_the_judge_s_own_task(corpus):
    assert all(
        "Response A" not in text or "Response B" not in text or "better" not in text for text in corpus
    )
    assert not any("Responses to be Scored" in text for text in corpus)
    for mark in (
        "\\boxed{",
        "</",
        '{"',
        "says",
        "same.",
        "The best is",
        " in capital letters is ",
        "weight 0.",
    ):
        assert any(mark in text for text in corpus), mark
    assert len(FORMS) == 17


def test_judge_rows_are_labelled_by_their_answers():
    rows = list(judge_rows("test", 300, seed=0))
    assert {row["subset"] for row in rows} == set(JUDGE_KINDS)
    assert len({row["prompt"] for row in rows}) == len({row["id"] for row in rows}) == 300
    for row in rows:
        first, second = row["scores"]
        assert (first > second) == (row["better"] == "a")
        assert row["a"] != row["b"]
        assert row["analysis"]["ab"].splitlines()[0] == row["analysis"]["ba"].splitlines()[0]
    assert 0.4 < sum(row["better"] == "a" for row in rows) / 300 < 0.6


def test_train_and_test_pairs_share_no_prompt():
    train = {row["prompt"] for row in judge_rows("train", 2_000, seed=0)}
    test = {row["prompt"] for row in judge_rows("test", 500, seed=0)}
    assert not train & test


@pytest.mark.slow
def test_asking_for_more_than_the_world_holds_is_refused():
    with pytest.raises(DataError, match="the test split of the world has fewer than 3000 distinct items of"):
        list(items("test", 3_000, seed=0, kinds=["larger"]))
