"""What a memory router decides: the types that tasks, router and store exchange."""

from dataclasses import dataclass

MEMORIZE_ACTIONS = ("SAVE", "SKIP")
"""Decisions on a text: worth remembering, or not."""
ARBITRATE_ACTIONS = ("ADD", "UPDATE", "DELETE", "NONE")
"""Decisions on a fact beside what is stored: new, replaces one, ends one, or is stored already."""
CATEGORIES = ("fact", "preference", "lesson", "correction", "plan")
"""What a saved text is."""
KINDS = (
    "paraphrase",
    "cross-language",
    "synonym",
    "abbreviation",
    "correction",
    "relational",
    "expiry",
    "mixed",
    "new",
)
"""How a fact is related to the candidate that a decision is about; `new` if to none."""
DUPLICATES = ("paraphrase", "cross-language", "synonym", "abbreviation")
"""The kinds of facts that are stored already, in other words."""
KINDS_OF = {
    "ADD": ("new", "relational", "mixed"),
    "UPDATE": ("correction", "relational", "expiry", "mixed"),
    "DELETE": ("correction", "relational", "expiry", "mixed"),
    "NONE": (*DUPLICATES, "relational", "mixed"),
}
"""The kinds that each action of an arbitration may have."""
OUT_OF_SCOPE = "oos"
"""The answer where none of the offered intents is meant."""


@dataclass(frozen=True)
class Candidate:
    """A stored memory that a new fact is compared with; `id` is the store's and opaque to everything else."""

    id: str
    text: str


@dataclass(frozen=True)
class IntentOffer:
    """An intent that a text may have; the description says what is meant, and may be empty."""

    name: str
    description: str = ""


@dataclass(frozen=True)
class Decision:
    """A decision of the memory router.

    Attributes:
        action: one of `MEMORIZE_ACTIONS`, of `ARBITRATE_ACTIONS`, or the name of an intent.
        category: one of `CATEGORIES`, of a text that is saved.
        target: the id of the candidate that is updated, deleted or already says the fact.
        kind: one of `KINDS`.
    """

    action: str
    category: str | None = None
    target: str | None = None
    kind: str | None = None
