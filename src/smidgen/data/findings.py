"""Findings: problems of a dataset that do not keep its rows from being read."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from smidgen.errors import counted

Severity = Literal["error", "warning", "info"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "info")


@dataclass(frozen=True)
class Finding:
    """One kind of problem.

    Attributes:
        kind: its name, in a word or two.
        severity: `error` if the rows cannot be trusted as they are, `warning` if they need a look, `info` if
            they need none.
        message: what was found and what to do.
        ids: the affected rows; empty if it concerns all of them.
        where: the set of rows that it concerns, such as `training rows`.
    """

    kind: str
    severity: Severity
    message: str
    ids: tuple[str, ...] = ()
    where: str = ""

    @property
    def sentence(self) -> str:
        """The message after the rows that it concerns."""
        return f"{self.where}: {self.message}" if self.where else self.message


def finding(kind: str, severity: Severity, ids: Iterable[str], advice: str) -> list[Finding]:
    """Return a finding about these rows, or nothing if there are none; `advice` follows their number."""
    found = tuple(dict.fromkeys(ids))
    rows = counted(len(found), "row")
    return [Finding(kind, severity, f"{rows}: {advice}", found)] if found else []


def by_severity(findings: Iterable[Finding]) -> list[Finding]:
    """Return findings with the errors first, otherwise in their order."""
    return sorted(findings, key=lambda found: SEVERITIES.index(found.severity))
