"""Why rows cannot be used, as sentences for people that also know the kind of fault and the place."""

from smidgen.errors import DataError

UNREADABLE = "unreadable line"
"""The kind of fault of what is not a row at all."""


class BadRow(str):
    """Why a row cannot be used, in words that begin with its position.

    Attributes:
        place: its position, such as `line 7`.
        kind: the kind of fault, in a word or two.
    """

    place: str
    kind: str

    def __new__(cls, place: str, why: str, kind: str = "unreadable row") -> "BadRow":
        """Join position and reason."""
        bad = super().__new__(cls, f"{place}{why}")
        bad.place, bad.kind = place, kind
        return bad


class FieldError(DataError):
    """A field of a row is missing or wrong; `kind` says which, in a word or two."""

    def __init__(self, message: str, kind: str) -> None:
        super().__init__(message)
        self.kind = kind
