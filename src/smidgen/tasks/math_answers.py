r"""The final answer of a solution, and whether it is right.

The rule, in full: the final answer is the content of the last closed `\boxed{…}`, unless that is empty.
Otherwise it is the last number of the text, with its sign, thousands separators (1,234), decimals, exponent
(2e3) or fraction (3/4, 1 1/2, \frac{3}{4}). Currency, units, a percent sign and a full stop do not count.

Two plain numbers are equal if they agree when rounded to six decimals. Everything else, such as `5\sqrt{2}`
or `x = 5`, is compared by math-verify (`math_verifier`).
"""

import re
from fractions import Fraction

from smidgen.data.boxed import last_boxed
from smidgen.errors import ParseError
from smidgen.tasks.math_verifier import same_expression
from smidgen.tasks.thinking import without_thinking

DECIMALS = 6
"""Decimals to which numbers are compared, as in math-verify."""
LONGEST_NUMBER = 100
"""Characters of a number; longer ones are the repetitions of a broken model, and slow to compute with."""
_PLAIN = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+"
_NUMBER = re.compile(
    r"(?P<sign>(?<![\w)\]}.])-)?(?:[$€£¥](?P<inner>-)?)?"
    r"(?:"
    r"(?:(?P<mixed>\d+)\s+)?(?:\\[dt]?frac\{(?P<top>\d+)\}\{(?P<bottom>\d+)\}|(?P<up>\d+)/(?P<down>\d+))"
    rf"|(?P<value>{_PLAIN})(?P<exponent>[eE][+-]?\d{{1,2}}(?!\d))?"
    r")"
)
_REPLACED = {
    "−": "-", "{,}": ",", r"\,": "", r"\!": "", r"\;": " ", r"\ ": " ", r"\$": "$", r"\%": "%",
    "\u00a0": " ", "\u202f": " ", r"\left": "", r"\right": "",
}  # fmt: skip
_WORDS = re.compile(r"\\(?:text|textbf|textrm|mathrm|mbox)\s*\{([^{}]*)\}")
_UNIT = re.compile(r"(?:\s*(?:[%°$€£¥.]|\^?\\circ|[^\W\d_]{2,}))*\s*")


def final_answer(text: str) -> str:
    """Return the final answer of a completion as text, by the rule above.

    Raises:
        ParseError: there is neither a box nor a number, or the thinking does not end.
    """
    answer = without_thinking(text)
    if boxed := last_boxed(answer):
        return boxed
    found = list(_NUMBER.finditer(_plain(answer)))
    if not found:
        raise ParseError("there is neither a box nor a number")
    return found[-1][0].strip()


def number_of(text: str) -> Fraction | None:
    """Return the number that a text is, apart from currency, unit and percent sign; None if it is not one."""
    text = _WORDS.sub(r" \1", _plain(text)).strip().strip("$").strip()
    if (found := _NUMBER.match(text)) is None or not _UNIT.fullmatch(text, found.end()):
        return None
    return _value(found)


def written(number: Fraction) -> str:
    """Return a number as a decimal if it has few decimals, else as a fraction."""
    if number.denominator == 1:
        return str(number.numerator)
    rounded = round(number, DECIMALS)
    if rounded != number:
        return f"{number.numerator}/{number.denominator}"
    return f"{float(number):.{DECIMALS}f}".rstrip("0")


def is_equal(gold: str, said: str) -> bool:
    """Whether two answers are equal: as numbers, else as expressions."""
    right, given = number_of(gold), number_of(said)
    if right is not None and given is not None:
        return round(right, DECIMALS) == round(given, DECIMALS)
    return same_expression(gold, said)


def _value(found: re.Match[str]) -> Fraction | None:
    if len(found[0]) > LONGEST_NUMBER:
        return None
    if found["value"] is None:
        top, bottom = found["top"] or found["up"], found["bottom"] or found["down"]
        if int(bottom) == 0:
            return None
        number = int(found["mixed"] or 0) + Fraction(int(top), int(bottom))
    else:
        number = Fraction(found["value"].replace(",", "") + (found["exponent"] or ""))
    return -number if (found["sign"] is None) != (found["inner"] is None) else number


def _plain(text: str) -> str:
    """Return a text with the LaTeX spellings of signs, separators and spaces replaced."""
    for spelling, plain in _REPLACED.items():
        text = text.replace(spelling, plain)
    return text
