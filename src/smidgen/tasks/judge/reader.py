"""Reading a judge's texts once each: metrics, analyses and benchmark scores all ask for the same readings."""

from collections.abc import Callable
from typing import Any

from smidgen.tasks.judge.forms import Fault, JudgeParseError, JudgeTemplate, Verdict


class Reader:
    """The two parsers of a template, each of which sees a text once.

    Attributes:
        singly: as in `JudgeTemplate`.
    """

    def __init__(self, form: JudgeTemplate) -> None:
        self.singly = form.singly
        self._strict: dict[str, Verdict | float | Fault] = {}
        self._lenient: dict[str, Verdict | float | Fault] = {}
        self._form = form

    def parse(self, text: str) -> Any:
        """As `JudgeTemplate.parse`."""
        return _read(text, self._form.parse, self._strict)

    def parse_leniently(self, text: str) -> Any:
        """As `JudgeTemplate.parse_leniently`."""
        return _read(text, self._form.parse_leniently, self._lenient)


def _read(
    text: str, parse: Callable[[str], Verdict | float], known: dict[str, Verdict | float | Fault]
) -> Verdict | float:
    if text not in known:
        try:
            known[text] = parse(text)
        except JudgeParseError as error:
            known[text] = error.fault
    reading = known[text]
    if isinstance(reading, Fault):
        raise JudgeParseError(reading)
    return reading
