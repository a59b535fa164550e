import pytest

from smidgen.data.types import Completion
from smidgen.data.world_items import question_rows
from smidgen.errors import DataError
from smidgen.tasks.answers import Answers

ROW = {"id": "1", "prompt": "What is 3 + 4?", "answer": "7", "sentence": "3 + 4 = 7.", "subset": "sum"}
(SAMPLE,) = Answers().samples([ROW])


@pytest.mark.parametrize(
    "text", ["7", "7.", " 7.\n", "3 + 4 = 7.", "3 + 4 = 7", "3 + 4 = 7. Easy!", "7. I am sure."]
)
def test_right_bare_or_in_a_sentence(text: str) -> None:
    assert Answers().score(SAMPLE, Completion(text)).value == 1.0


@pytest.mark.parametrize("text", ["71", "8. 7.", "3 + 4 = 71.", "not 7", "7, 8"])
def test_wrong(text: str) -> None:
    score = Answers().score(SAMPLE, Completion(text))
    assert score.value == 0.0 and score.parsed


def test_an_empty_answer_does_not_parse() -> None:
    assert not Answers().score(SAMPLE, Completion("  ")).parsed


def test_the_target_is_the_bare_answer() -> None:
    (sample,) = Answers().training_samples([ROW])
    assert sample.target == "7"


def test_every_kind_of_the_world_is_measured() -> None:
    rows = list(question_rows("test", 200, seed=0))
    samples = Answers().samples(rows)
    assert len({sample.id for sample in samples}) == 200
    assert all(
        Answers().score(sample, Completion(text)).value == 1.0
        for row, sample in zip(rows, samples, strict=True)
        for text in (row["answer"], row["sentence"])
    )


def test_a_row_without_an_answer_is_named() -> None:
    with pytest.raises(DataError, match=r"row 2: 'answer' is missing"):
        Answers().samples([ROW, {"id": "2", "prompt": "What?"}])
