"""Rows of a memory router's decisions: our own, and pairs and fact updates of published sets.

- memorize: `text` and `decision`, with the `category` of a text that is saved.
- arbitrate: `fact`, `candidates` and `decision`, with its `target` and `kind`. A row of PAWS-X
  (https://arxiv.org/abs/1908.11828) is two of them, in one language and across two: a paraphrase is stored
  already, another sentence of the same words is new. A row of Letta's core-memory updates
  (https://github.com/letta-ai/letta-evals) replaces one of ten facts.
- classify: `text` and `intent`, with the `intents` that are offered.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from smidgen.data.bad_rows import FieldError
from smidgen.data.fields import fault_of, is_texts, row_id, shown, structured, subset_of, text_of, texts_of
from smidgen.data.memories import (
    CATEGORIES,
    KINDS_OF,
    MEMORIZE_ACTIONS,
    Candidate,
    Decision,
    IntentOffer,
)
from smidgen.data.rows import Format, Row, read_items


@dataclass(frozen=True)
class Memory:
    """A text, and whether it is worth remembering.

    Attributes:
        id: unique in its file.
        text: the text.
        decision: SAVE with a category, or SKIP.
        kind: the sort of text, such as `log` or `question`, if the row says.
        language: its language, if the row says.
        subset: the subset of the benchmark.
    """

    id: str
    text: str
    decision: Decision
    kind: str | None = None
    language: str | None = None
    subset: str | None = None


@dataclass(frozen=True)
class Arbitration:
    """A new fact beside stored ones, and what is to happen.

    Attributes:
        id: unique in its file.
        fact: the new fact.
        candidates: the stored facts.
        decision: the action, with the target and the kind.
        group: what rows with the same source share; they are not independent, and belong to one split.
        language: its language, if the row says.
        subset: the subset of the benchmark.
    """

    id: str
    fact: str
    candidates: tuple[Candidate, ...]
    decision: Decision
    group: str
    language: str | None = None
    subset: str | None = None


@dataclass(frozen=True)
class Classification:
    """A text with the intents that are offered; none if the row does not say. `intent` is the right one."""

    id: str
    text: str
    intents: tuple[IntentOffer, ...]
    intent: str
    subset: str | None = None


def memories(rows: Sequence[Row], *, source: str = "rows", rejected: list[str] | None = None) -> list[Memory]:
    """Read texts with decisions, one per row; raises and rejects as `read_items`."""
    return read_items(rows, MEMORIZE_FORMATS, source, rejected=rejected)


def arbitrations(
    rows: Sequence[Row], *, source: str = "rows", rejected: list[str] | None = None
) -> list[Arbitration]:
    """Read facts beside stored ones, one or two per row; raises and rejects as `read_items`."""
    return read_items(rows, ARBITRATE_FORMATS, source, rejected=rejected)


def classifications(
    rows: Sequence[Row], *, source: str = "rows", rejected: list[str] | None = None
) -> list[Classification]:
    """Read texts with intents, one per row; raises and rejects as `read_items`."""
    return read_items(rows, CLASSIFY_FORMATS, source, rejected=rejected)


def arbitration_row(item: Arbitration) -> dict[str, Any]:
    """Return an arbitration as a row of our own format."""
    decision = item.decision
    row = {
        "id": item.id,
        "fact": item.fact,
        "candidates": [{"id": each.id, "text": each.text} for each in item.candidates],
        "decision": decision.action,
        "target": decision.target,
        "kind": decision.kind,
        "language": item.language,
        "group": item.group,
        "subset": item.subset,
    }
    return {name: value for name, value in row.items() if value is not None}


def _memory(row: Row, number: int) -> list[Memory]:
    action = _one_of(row, "decision", MEMORIZE_ACTIONS)
    category = None if row.get("category") is None else _one_of(row, "category", CATEGORIES)
    if (action == "SAVE") != (category is not None):
        expected = "a category" if action == "SAVE" else "none, since nothing is saved"
        raise FieldError(f"'category' is {shown(row, 'category')}, expected {expected}", "wrong label")
    return [
        Memory(
            row_id(row, number),
            text_of(row, "text"),
            Decision(action, category=category),
            _optional(row, "kind"),
            _optional(row, "language"),
            subset_of(row),
        )
    ]


def _arbitration(row: Row, number: int) -> list[Arbitration]:
    name = row_id(row, number)
    candidates = _candidates(row)
    action = _one_of(row, "decision", tuple(KINDS_OF))
    kind = _one_of(row, "kind", KINDS_OF[action])
    target = _optional(row, "target")
    needs = action in ("UPDATE", "DELETE")
    if (target is None and needs) or (target is not None and action == "ADD"):
        expected = "the id of a candidate" if needs else "none, since no candidate is concerned"
        raise FieldError(f"'target' is {shown(row, 'target')}, expected {expected}", fault_of(row, "target"))
    if target is not None and target not in (ids := [each.id for each in candidates]):
        raise FieldError(
            f"'target' is {shown(row, 'target')}, expected one of {', '.join(ids)}", "unknown label"
        )
    return [
        Arbitration(
            name,
            text_of(row, "fact"),
            candidates,
            Decision(action, target=target, kind=kind),
            _optional(row, "group") or name,
            _optional(row, "language"),
            subset_of(row),
        )
    ]


def _candidates(row: Row) -> tuple[Candidate, ...]:
    listed = _objects(row, "candidates", "a list of stored facts with 'id' and 'text' each")
    found = tuple(Candidate(text_of(each, "id"), text_of(each, "text")) for each in listed)
    if len({each.id for each in found}) < len(found):
        raise FieldError(f"'candidates' is {shown(row, 'candidates')}, expected different ids", "repeated id")
    return found


def _paraphrases(row: Row, number: int) -> list[Arbitration]:
    """PAWS-X: the second sentence in English, and in Chinese if it is there, beside the first in English."""
    name = row_id(row, number)
    found = [_paraphrase(row, name, "en", "paraphrase")]
    if row.get("sentence2_zh") is not None:
        found.append(_paraphrase(row, name, "zh", "cross-language"))
    return found


def _paraphrase(row: Row, name: str, language: str, kind: str) -> Arbitration:
    label = f"label_{language}"
    if (value := str(row.get(label))) not in ("0", "1"):
        raise FieldError(f"'{label}' is {shown(row, label)}, expected 0 or 1", fault_of(row, label))
    same = value == "1"
    decision = Decision("NONE", target="1", kind=kind) if same else Decision("ADD", kind="new")
    return Arbitration(
        f"{name}/en-{language}",
        text_of(row, f"sentence2_{language}"),
        (Candidate("1", text_of(row, "sentence1_en")),),
        decision,
        group=name,
        language="en" if language == "en" else "mixed",
        subset=f"en-{language}",
    )


def _fact_update(row: Row, number: int) -> list[Arbitration]:
    """Letta: the fact that contradicts one of ten; a row whose fact contradicts several is left out."""
    extra = _inner(_inner(row, "agent_args"), "extra")
    facts, replaced = texts_of(extra, "facts"), structured(extra, "supporting_fact_indices")
    if not isinstance(replaced, list) or any(each not in range(len(facts)) for each in replaced):
        expected = f"positions of the {len(facts)} facts from 0"
        raise FieldError(
            f"'supporting_fact_indices' is {shown(extra, 'supporting_fact_indices')}, expected {expected}",
            "unknown label",
        )
    if len(replaced) != 1:
        return []
    name = str(row["index"]) if "index" in row else row_id(row, number)
    return [
        Arbitration(
            name,
            text_of(extra, "contradicting_fact").strip().strip('"'),
            tuple(Candidate(str(place), text) for place, text in enumerate(facts, start=1)),
            Decision("UPDATE", target=str(replaced[0] + 1), kind="correction"),
            group=hashlib.sha256("\n".join(facts).encode()).hexdigest()[:12],
            language="en",
        )
    ]


def _inner(row: Row, field: str) -> Row:
    value = structured(row, field)
    if not isinstance(value, Mapping):
        raise FieldError(f"'{field}' is {shown(row, field)}, expected an object", fault_of(row, field))
    return value


def _classification(row: Row, number: int) -> list[Classification]:
    if is_texts(structured(row, "intents")):
        offers = tuple(IntentOffer(name) for name in texts_of(row, "intents"))
    else:
        listed = _objects(row, "intents", "a list of intents with 'name' and 'description' each")
        offers = tuple(IntentOffer(text_of(o, "name"), _optional(o, "description") or "") for o in listed)
    return [Classification(row_id(row, number), text_of(row, "text"), offers, text_of(row, "intent"))]


def _objects(row: Row, field: str, expected: str) -> list[Row]:
    """Read a list of one or more objects."""
    given = structured(row, field)
    listed = [each for each in given if isinstance(each, Mapping)] if isinstance(given, list) else []
    if not listed or len(listed) < len(given):
        raise FieldError(f"'{field}' is {shown(row, field)}, expected {expected}", fault_of(row, field))
    return listed


def _query(row: Row, number: int) -> list[Classification]:
    return [Classification(row_id(row, number), text_of(row, "text"), (), text_of(row, "intent"))]


def _optional(row: Row, field: str) -> str | None:
    return None if row.get(field) is None else text_of(row, field)


def _one_of(row: Row, field: str, known: Sequence[str]) -> str:
    value = text_of(row, field)
    if value not in known:
        raise FieldError(
            f"'{field}' is {shown(row, field)}, expected one of {', '.join(known)}", "unknown label"
        )
    return value


MEMORIZE_FORMATS = (Format("memorize row", ("text", "decision"), _memory, label="decision"),)
ARBITRATE_FORMATS = (
    Format("arbitrate row", ("fact", "candidates", "decision"), _arbitration, label="decision"),
    Format("PAWS-X row", ("sentence1_en", "sentence2_en", "label_en"), _paraphrases, label="label_en"),
    Format(
        "Letta fact update",
        ("agent_args",),
        _fact_update,
        lambda row: "supporting_fact_indices" in str(row["agent_args"]),
    ),
)
CLASSIFY_FORMATS = (
    Format("classify row", ("text", "intents", "intent"), _classification, label="intent"),
    Format("query row", ("text", "intent"), _query, label="intent"),
)
