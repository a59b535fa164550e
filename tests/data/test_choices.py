"""Questions with options, of the published formats."""

from pathlib import Path

import pytest

from smidgen.data.choices import Choice, choices
from smidgen.data.rows import read_rows
from smidgen.errors import DataError

REAL = Path(__file__).parents[3] / "shared" / "data" / "mcq" / "winogrande_a.jsonl"
OPTIONS = ("red", "blue", "green")
LISTED = {"question": "Which?", "choices": list(OPTIONS), "answer": 1}
WINOGRANDE = {
    "sentence": "The cat saw the dog; the _ ran.",
    "option1": "cat",
    "option2": "dog",
    "answer": "2",
}
ADAPTERS = {
    "instruction": "Fill in the sentence: The _ was too big.\n\nOption1: pan Option2: oven Answer format: x",
    "answer": "option1",
}


@pytest.mark.filterwarnings("ignore:.*numbers or booleans where text is expected")
def test_numbers_keep_their_spelling(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(
        '{"question": "?", "choices": [1.10, 1.1], "answer": 1.1}\n'
        '{"question": "?", "choices": [1e3, 10], "answer": 1e3}\n'
    )
    first, second = choices(read_rows(file))
    assert (first.options, first.right) == (("1.10", "1.1"), 1)
    assert (second.options, second.right) == (("1e3", "10"), 0)


@pytest.mark.parametrize("answer", [1, "1", "B", "b", "(B)", "B.", "blue"])
def test_the_right_option_by_position_letter_or_text(answer: int | str) -> None:
    assert choices([LISTED | {"answer": answer}]) == [Choice("1", "Which?", OPTIONS, 1)]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (
            {
                "id": "arc",
                "question": "Which?",
                "choices": {"text": list(OPTIONS), "label": ["1", "2", "3"]},
                "answerKey": "3",
            },
            Choice("arc", "Which?", OPTIONS, 2),
        ),
        (
            {
                "question": "Which?",
                "A": "red",
                "B": "blue",
                "C": "green",
                "D": "",
                "answer": "A",
                "subset": "s",
            },
            Choice("1", "Which?", OPTIONS, 0, subset="s"),
        ),
        (WINOGRANDE, Choice("1", WINOGRANDE["sentence"], ("cat", "dog"), 1, is_gap=True)),
        (ADAPTERS, Choice("1", "The _ was too big.", ("pan", "oven"), 0, is_gap=True)),
    ],
)
def test_every_format_becomes_a_choice(row: dict, expected: Choice) -> None:
    assert choices([row]) == [expected]


@pytest.mark.filterwarnings("ignore:.*numbers or booleans where text is expected")
@pytest.mark.parametrize(
    ("row", "fault"),
    [
        (
            LISTED | {"answer": 3},
            "'answer' is 3, expected one of A, B, C, the text of an option, or a position",
        ),
        (LISTED | {"answer": True}, "'answer' is true, expected one of A, B, C"),
        (LISTED | {"choices": [1, 2, 3]}, "'answer' is 1, which names two options; give the letter"),
        (LISTED | {"choices": [None, "red"]}, r"'choices' is \[null, \"red\"\], expected a list of options"),
        (LISTED | {"answer": None}, "'answer' is null, expected one of A, B, C"),
        (LISTED | {"answer": ["B"]}, r"'answer' is \[\"B\"\], expected one of A, B, C"),
        (LISTED | {"choices": ["red"]}, r"'choices' is \[\"red\"\], expected 2 to 26 different options"),
        (LISTED | {"choices": ["red", "red"]}, "expected 2 to 26 different options"),
        (LISTED | {"choices": "red"}, "'choices' is \"red\", expected a list of options"),
        (LISTED | {"choices": {"text": ["a", "b"], "label": ["A"]}}, "has 2 texts and 1 labels"),
        ({"question": "?", "A": "x", "B": "y", "D": "z", "answer": "A"}, "the options are A, B, D; expected"),
        (WINOGRANDE | {"sentence": "no gap"}, r"the sentence has 0 gaps \('_'\), expected one"),
        (WINOGRANDE | {"sentence": "a _"}, r"the sentence ends with its gap \('_'\), so there is no rest"),
        (WINOGRANDE | {"answer": 3}, "'answer' is 3, expected option 1 or 2"),
        (ADAPTERS | {"instruction": "Option1: x"}, "'instruction' has no sentence with 'Option1:'"),
    ],
)
def test_what_is_no_choice_is_named(row: dict, fault: str) -> None:
    with pytest.raises(DataError, match=fault):
        choices([row])


@pytest.mark.skipif(not REAL.exists(), reason="the real data sets are not here")
def test_real_rows_are_read() -> None:
    found = choices(read_rows(REAL))
    assert len(found) == 634 and all(choice.is_gap and len(choice.options) == 2 for choice in found)
    assert sum(choice.right == 0 for choice in found) == 321
    assert found[0].options == ("eggplant", "toaster")
