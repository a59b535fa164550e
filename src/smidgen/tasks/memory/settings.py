"""Settings that the tasks of the memory router share."""

from typing import Self

from pydantic import Field, model_validator

from smidgen.config import Section
from smidgen.data.grammar import LANGUAGES, WRITTEN
from smidgen.errors import did_you_mean


class MemorySettings(Section):
    """Settings of a task of the memory router."""

    languages: tuple[str, ...] = Field(default=WRITTEN, min_length=1)
    """Languages of generated rows: `en`, `de`, `zh`, and `mixed` for two at once; rows of a file are kept."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if strange := [each for each in self.languages if each not in WRITTEN]:
            hint = did_you_mean(strange[0], WRITTEN)
            raise ValueError(f"languages has '{strange[0]}'.{hint} Known: {', '.join(WRITTEN)}")
        if not set(self.languages) & set(LANGUAGES):
            raise ValueError("languages has only 'mixed'; add one of en, de, zh")
        return self
