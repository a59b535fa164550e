"""Questions as lines of JSON: `{"text"}`, `{"text", "intents"}` or `{"fact", "candidates"}`."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from smidgen.data.memories import Candidate, IntentOffer
from smidgen.errors import DataError, did_you_mean
from smidgen.files import read_json
from smidgen.router.questions import (
    DECIDERS,
    ArbitrateQuestion,
    KnownIntents,
    MemorizeQuestion,
    Question,
    classify_question,
)

EXPECTED = '{"text": …}, {"text": …, "intents": […]} or {"fact": …, "candidates": […]}'


@dataclass(frozen=True)
class Line:
    """One line of input.

    Attributes:
        number: its number from 1 on; 0 for an input of an earlier run.
        id: its id, as given or made up.
        question: what is asked; None if the line is bad.
        fault: what is wrong with it.
    """

    number: int
    id: str
    question: Question | None = None
    fault: str = ""


def read_lines(
    lines: Iterable[bytes], *, name: str | None = None, intents: KnownIntents = ()
) -> Iterator[Line]:
    """Read lines as questions; a bad line has a fault, and the others go on.

    A line without an `id` gets one: of a file, one that is the same when the file is read again; of a
    stream, one that never was.

    Args:
        lines: UTF-8 with a JSON object each; empty lines are skipped.
        name: name of the file; None for a stream.
        intents: what a line whose task is `classify` and that offers no intents itself is asked about.
    """
    for number, data in enumerate(lines, start=1):
        if not data.strip():
            continue
        own = uuid4().hex if name is None else _digest(name, number, data)
        try:
            row = _row(data)
            own = _id(row, own)
            yield Line(number, own, question_of(row, intents))
        except DataError as error:
            yield Line(number, own, fault=f"line {number}: {error}")


def read_intents(path: Path) -> tuple[IntentOffer, ...]:
    """Read the intents in a JSON file: a list of names or of objects, or descriptions by name.

    Raises:
        DataError: it is missing, or is something else.
    """
    try:
        return _intents(read_json(path))
    except DataError as error:
        raise DataError(f"{path}: {error}") from None


def _row(data: bytes) -> Mapping[str, Any]:
    try:
        row = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DataError(f"it is not JSON ({error}); expected {EXPECTED}") from None
    if not isinstance(row, dict):
        raise DataError(f"it is {_shown(row)}; expected {EXPECTED}")
    return row


def _id(row: Mapping[str, Any], made_up: str) -> str:
    given = row.get("id", made_up)
    if not isinstance(given, str | int) or isinstance(given, bool) or given == "":
        raise DataError(f"its id is {_shown(given)}; expected a text or a number")
    return str(given)


def question_of(row: Mapping[str, Any], intents: KnownIntents) -> Question:
    """Return what a row asks; see the module.

    Raises:
        DataError: it asks nothing that a router decides, or lacks something.
    """
    task = row.get("task") or (
        "arbitrate" if "fact" in row else "classify" if "intents" in row else "memorize"
    )
    if not isinstance(task, str) or task not in DECIDERS:
        hint = did_you_mean(str(task), DECIDERS)
        raise DataError(f"there is no task {_shown(task)}; expected one of {', '.join(DECIDERS)}.{hint}")
    if task == "arbitrate":
        return ArbitrateQuestion(_text(row, "fact"), _candidates(row))
    if task == "memorize":
        return MemorizeQuestion(_text(row, "text"))
    text = _text(row, "text")
    offered = _intents(row["intents"]) if "intents" in row else intents
    if not offered:
        raise DataError(
            'it has no intents; give some, as "intents": ["weather", "restaurant"], or with --intents or '
            "--classifier"
        )
    return classify_question(text, offered)


def _text(row: Mapping[str, Any], key: str) -> str:
    if key not in row:
        raise DataError(f"it has no {key}; expected {EXPECTED}")
    text = row[key]
    if not isinstance(text, str) or not text.strip():
        raise DataError(f"its {key} is {_shown(text)}; expected a text that is not empty")
    return text


def _candidates(row: Mapping[str, Any]) -> tuple[Candidate, ...]:
    given = row.get("candidates")
    if not isinstance(given, list):
        raise DataError(
            f'its candidates are {_shown(given)}; expected a list such as [{{"id": "m17", "text": "…"}}]'
        )
    found = []
    for each in given:
        if not isinstance(each, dict) or not isinstance(each.get("text"), str):
            raise DataError(
                f'a candidate is {_shown(each)}; expected an object such as {{"id": "m17", "text": "…"}}'
            )
        name = each.get("id")
        if not isinstance(name, str | int) or isinstance(name, bool):
            raise DataError(f"the id of a candidate is {_shown(name)}; expected a text or a number")
        found.append(Candidate(str(name), each["text"]))
    return tuple(found)


def _intents(given: Any) -> tuple[IntentOffer, ...]:
    if isinstance(given, dict):
        given = [{"name": name, "description": said} for name, said in given.items()]
    if not isinstance(given, list):
        raise DataError(f'the intents are {_shown(given)}; expected a list such as ["weather", "restaurant"]')
    return tuple(map(_intent, given))


def _intent(each: Any) -> IntentOffer:
    name, said = (each.get("name"), each.get("description", "")) if isinstance(each, dict) else (each, "")
    if not isinstance(name, str) or not name.strip() or not isinstance(said, str):
        raise DataError(f'an intent is {_shown(each)}; expected a name, or {{"name": …, "description": …}}')
    return IntentOffer(name, said)


def _digest(name: str, number: int, data: bytes) -> str:
    return hashlib.sha256(b"%d\n%b\n%b" % (number, name.encode(), data.strip())).hexdigest()[:32]


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
