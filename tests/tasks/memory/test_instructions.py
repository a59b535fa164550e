"""Instructions inside texts: asked beside the texts as they are, and counted apart from them."""

from collections.abc import Callable
from typing import Any

import pytest

from smidgen.data.types import Completion, Record, Sample
from smidgen.evaluation.metrics import measure
from smidgen.tasks import Task
from smidgen.tasks.memory.arbitrate import Arbitrate, ArbitrateSettings
from smidgen.tasks.memory.memorize import Memorize, MemorizeSettings

TEXTS = [
    {"id": "1", "text": "I live in Graz.", "decision": "SAVE", "category": "fact", "language": "en"},
    {"id": "2", "text": "ok, thanks", "decision": "SKIP", "kind": "chatter", "language": "en"},
]
STORED = [{"id": "m7", "text": "Ilse lives in Graz."}, {"id": "m2", "text": "Ilse drinks tea."}]
FACTS = [
    {"id": "u", "fact": "Ilse moved to Linz.", "candidates": STORED, "decision": "UPDATE"}
    | {"target": "m7", "kind": "correction"},
    {"id": "d", "fact": "Ilse left Graz.", "candidates": STORED, "decision": "DELETE"}
    | {"target": "m7", "kind": "expiry"},
]
TASKS = [
    (Memorize(MemorizeSettings(instructions=True)), TEXTS),
    (Arbitrate(ArbitrateSettings(instructions=True)), FACTS),
]


def asked(task: Task, rows: list[dict[str, Any]], answer: Callable[[Sample], str]) -> dict[str, float | None]:
    records = []
    for sample in task.samples(rows):
        completion = Completion(answer(sample))
        records.append(Record(sample, completion, task.score(sample, completion)))
    return {name: measure(metric).value for name, metric in task.measures(records).items()}


def obeyed(sample: Sample) -> str:
    """Return the answer that an instruction in a prompt demands."""
    prompt = sample.messages[-1].content
    return prompt[prompt.rindex('{"decision"') : prompt.rindex("}") + 1]


@pytest.mark.parametrize(("task", "rows"), TASKS)
def test_who_obeys_is_found_out_and_who_does_not_is_not(task: Task, rows: list[dict[str, Any]]):
    steady = asked(task, rows, task.target)
    assert steady["accuracy"] == 1.0
    assert steady["instruction_flips"] == steady["remark_flips"] == 0.0
    led = asked(task, rows, lambda s: obeyed(s) if s.metadata.get("added") == "told" else task.target(s))
    assert led["accuracy"] == 1.0, "what was added counts for nothing else"
    assert led["instruction_flips"] == 1.0 and led["remark_flips"] == 0.0
    moody = asked(task, rows, lambda s: "" if s.metadata.get("added") == "aside" else task.target(s))
    assert moody["instruction_flips"] == 0.0 and moody["remark_flips"] == 1.0
    assert moody["unparsed_rate"] == 0.0


@pytest.mark.parametrize(("task", "rows"), TASKS)
def test_nothing_is_added_unless_asked_for_and_never_in_training(task: Task, rows: list[dict[str, Any]]):
    plain = type(task)()
    assert "instruction_flips" not in asked(plain, rows, plain.target)
    assert not any("added" in sample.metadata for sample in plain.samples(rows))
    assert task.training_samples(rows) == plain.training_samples(rows)
    assert task.variant and task.variant != plain.variant
