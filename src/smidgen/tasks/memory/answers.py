"""What a memory router writes: JSON on one line without spaces, and nothing else.

Keys come in a fixed order, and the first value is the decision, so that most tokens are forced by the
constraint and a refusal costs two.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from smidgen.data.memories import (
    CATEGORIES,
    KINDS_OF,
    MEMORIZE_ACTIONS,
    OUT_OF_SCOPE,
    Decision,
    IntentOffer,
)
from smidgen.data.types import Constraint
from smidgen.errors import ParseError

_SHOWN_CHARACTERS = 60


def written(answer: Mapping[str, Any]) -> str:
    """Return an answer as the model writes it."""
    return json.dumps(answer, ensure_ascii=False, separators=(",", ":"))


def one_of(answers: Iterable[Mapping[str, Any]]) -> Constraint:
    """Return the constraint to one of these answers."""
    return Constraint("choices", json.dumps([written(answer) for answer in answers], ensure_ascii=False))


def spellings(answers: Iterable[Mapping[str, Any]]) -> frozenset[str]:
    """Return answers as `read_answer` compares them: as text, since in Python True equals 1."""
    return frozenset(json.dumps(answer, sort_keys=True) for answer in answers)


def read_answer(text: str, allowed: frozenset[str]) -> dict[str, Any]:
    """Read an answer that must be one of the `spellings` allowed, whatever its spaces and order of keys.

    Raises:
        ParseError: the text is not JSON, has a key twice, or is another answer.
    """
    shown = text.strip()[:_SHOWN_CHARACTERS]
    try:
        found = json.loads(text, object_pairs_hook=_without_repeats)
    except (ValueError, RecursionError):
        raise ParseError(f"'{shown}' is not JSON") from None
    if json.dumps(found, sort_keys=True) not in allowed:
        raise ParseError(f"'{shown}' is none of the {len(allowed)} answers")
    return found


def memorize_answers() -> list[dict[str, Any]]:
    """Return every answer to a text."""
    return [memorize_answer(Decision("SKIP")), *(memorize_answer(Decision("SAVE", c)) for c in CATEGORIES)]


def memorize_answer(decision: Decision) -> dict[str, Any]:
    """Return the answer of a decision on a text."""
    assert decision.action in MEMORIZE_ACTIONS, decision
    category = {} if decision.category is None else {"category": decision.category}
    return {"decision": decision.action, **category}


def arbitrate_answers() -> list[dict[str, Any]]:
    """Return every answer to a fact beside a stored one."""
    return [arbitrate_answer(action, kind) for action, kinds in KINDS_OF.items() for kind in kinds]


def arbitrate_answer(action: str, kind: str) -> dict[str, Any]:
    """Return the answer that a fact does this to a stored one; ADD if nothing."""
    return {"decision": action, "kind": kind}


def classify_answers(intents: Sequence[IntentOffer]) -> list[dict[str, Any]]:
    """Return every answer to a text with these intents on offer."""
    return [{"intent": name} for name in dict.fromkeys((*(each.name for each in intents), OUT_OF_SCOPE))]


def schema_of(answers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return a JSON schema that exactly these answers satisfy, for servers that know no lists of texts."""
    return {
        "anyOf": [
            {
                "type": "object",
                "properties": {key: {"const": value} for key, value in answer.items()},
                "required": list(answer),
                "additionalProperties": False,
            }
            for answer in answers
        ]
    }


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key occurs twice")
    return found
