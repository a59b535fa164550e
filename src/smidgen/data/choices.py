"""Questions with several options, one of them right, from rows of the published formats.

The right option is given by its letter or label, by its text, or by its position from 0. Where these differ,
as for the answer 1 among the options 1, 2 and 3, the row is refused.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from string import ascii_uppercase

from smidgen.data.fields import as_text, row_id, shown, structured, subset_of, text_of
from smidgen.data.rows import Format, Row, read_items
from smidgen.errors import DataError

BLANK = "_"
"""The gap of a sentence, which an option fills."""
_ADAPTERS = re.compile(
    r".*?sentence:\s*(.*?)\s*Option1:\s*(.*?)\s*Option2:\s*(.*?)\s*Answer format:", re.DOTALL
)


@dataclass(frozen=True)
class Choice:
    """A question with options.

    Attributes:
        id: unique in its file.
        question: the question, or a sentence with a gap (`BLANK`) that an option fills.
        options: two or more.
        right: index of the right option.
        is_gap: whether the question is a sentence with a gap.
        subset: the subset of the benchmark.
    """

    id: str
    question: str
    options: tuple[str, ...]
    right: int
    is_gap: bool = False
    subset: str | None = None


def choices(rows: Sequence[Row], *, source: str = "rows", rejected: list[str] | None = None) -> list[Choice]:
    """Read questions with options, one per row; raises and rejects as `read_items`."""
    return read_items(rows, CHOICE_FORMATS, source, rejected=rejected)


def _listed(row: Row, number: int, field: str = "answer") -> list[Choice]:
    """Options in `choices`: a list of texts, or an object of texts and labels as in ARC."""
    given = structured(row, "choices")
    texts, labels = (given.get("text"), given.get("label")) if isinstance(given, Mapping) else (given, None)
    options = _options(row, "choices", texts)
    names = list(ascii_uppercase[: len(options)]) if labels is None else [str(label) for label in labels]
    if len(names) != len(options):
        raise DataError(f"'choices' has {len(options)} texts and {len(names)} labels; expected equally many")
    return [
        Choice(
            row_id(row, number),
            text_of(row, "question"),
            options,
            _right(row, field, options, names),
            subset=subset_of(row),
        )
    ]


def _keyed(row: Row, number: int) -> list[Choice]:
    """ARC: as `_listed`, with the label of the right option in `answerKey`."""
    return _listed(row, number, "answerKey")


def _lettered(row: Row, number: int) -> list[Choice]:
    """Options in the fields `A`, `B` and so on."""
    letters = [letter for letter in ascii_uppercase if row.get(letter) not in (None, "")]
    if "".join(letters) != ascii_uppercase[: len(letters)]:
        raise DataError(f"the options are {', '.join(letters)}; expected the letters from A on without a gap")
    options = tuple(text_of(row, letter) for letter in letters)
    right = _right(row, "answer", options, letters)
    return [Choice(row_id(row, number), text_of(row, "question"), options, right, subset=subset_of(row))]


def _winogrande(row: Row, number: int) -> list[Choice]:
    """WinoGrande: `sentence` with a gap, `option1`, `option2`, and `answer` 1 or 2."""
    options = text_of(row, "option1"), text_of(row, "option2")
    return [_gap(row, number, text_of(row, "sentence"), options)]


def _adapters(row: Row, number: int) -> list[Choice]:
    """WinoGrande as LLM-Adapters writes it: sentence and options in `instruction`, `answer` option1 or 2."""
    if (found := _ADAPTERS.match(text_of(row, "instruction"))) is None:
        raise DataError("'instruction' has no sentence with 'Option1:' and 'Option2:'")
    return [_gap(row, number, found[1], (found[2], found[3]))]


def _gap(row: Row, number: int, sentence: str, options: tuple[str, str]) -> Choice:
    if sentence.count(BLANK) != 1:
        raise DataError(f"the sentence has {sentence.count(BLANK)} gaps ('{BLANK}'), expected one")
    if sentence.rstrip().endswith(BLANK):
        raise DataError(f"the sentence ends with its gap ('{BLANK}'), so there is no rest to score")
    answer = str(row["answer"]).removeprefix("option")
    if answer not in ("1", "2"):
        raise DataError(f"'answer' is {shown(row, 'answer')}, expected option 1 or 2")
    return Choice(row_id(row, number), sentence, options, int(answer) - 1, is_gap=True, subset=subset_of(row))


def _options(row: Row, field: str, texts: object) -> tuple[str, ...]:
    """Read two or more different options."""
    written = [as_text(text, row) for text in texts] if isinstance(texts, list) else [None]
    if None in written:
        raise DataError(f"'{field}' is {shown(row, field)}, expected a list of options")
    options = tuple(text.strip() for text in written if text is not None)
    if not 2 <= len(set(options)) == len(options) <= len(ascii_uppercase) or "" in options:
        raise DataError(f"'{field}' is {shown(row, field)}, expected 2 to 26 different options")
    return options


def _right(row: Row, field: str, options: Sequence[str], labels: Sequence[str]) -> int:
    """Return the index of the option that a field names by label, text or position."""
    value = row[field]
    # A whole number is a position or a label as often as a text, so it is nothing to warn of.
    written = (str(value) if isinstance(value, int) else as_text(value, row) or "").strip()
    label = written.strip("().").upper()
    readings = {
        *(i for i, name in enumerate(labels) if name.upper() == label),
        *(i for i, option in enumerate(options) if option == written),
    }
    if written.isdecimal() and labels[0] == "A" and int(written) < len(options):
        readings.add(int(written))
    if isinstance(value, bool) or not readings:
        expected = f"one of {', '.join(labels)}, the text of an option, or a position from 0"
        raise DataError(f"'{field}' is {shown(row, field)}, expected {expected}")
    if len(readings) > 1:
        raise DataError(f"'{field}' is {shown(row, field)}, which names two options; give the letter")
    return readings.pop()


CHOICE_FORMATS = (
    Format("choice row", ("question", "choices", "answer"), _listed),
    Format("ARC row", ("question", "choices", "answerKey"), _keyed),
    Format("row with lettered options", ("question", "A", "B", "answer"), _lettered),
    Format("WinoGrande row", ("sentence", "option1", "option2", "answer"), _winogrande),
    Format(
        "WinoGrande row of LLM-Adapters",
        ("instruction", "answer"),
        _adapters,
        fits=lambda row: "Option1:" in str(row["instruction"]),
    ),
)
