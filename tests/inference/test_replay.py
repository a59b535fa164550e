import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from smidgen.data.types import Completion, Constraint, Message, Request, Sample
from smidgen.errors import ConfigError, DataError, WorkError
from smidgen.inference.replay import ReplayEngine


def write(path: Path, *rows: object) -> Path:
    file = path / "recording.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def ask(*names: str) -> list[Request]:
    return [Request(Sample(name, (Message("user", "?"),))) for name in names]


def test_answers_by_id_and_order(tmp_path):
    rows = [
        {"id": "p1", "order": "ab", "text": "first\u2028line"},
        {"id": "p1", "order": "ba", "text": "second"},
        {"id": 7, "text": "third", "more": 1},
    ]
    engine = ReplayEngine(write(tmp_path, *rows))
    requests = ask("p1#ba", "7", "p1#ab")
    expected = [Completion("second"), Completion("third"), Completion("first\u2028line")]
    assert list(engine.complete(iter(requests))) == list(zip(requests, expected, strict=True))
    assert engine.peak_memory_bytes() is None
    stream = engine.stream(requests[1])
    assert (list(stream), stream.completion) == (["third"], expected[1])
    engine.close()


def test_a_confidence_is_handed_on(tmp_path):
    rows = [{"id": "a", "text": "x", "confidence": 0.25}, {"id": "b", "text": "x", "confidence": 0}]
    found = [completion for _, completion in ReplayEngine(write(tmp_path, *rows)).complete(ask("a", "b"))]
    assert [completion.logprobs for completion in found] == [(math.log(0.25),), (-math.inf,)]
    for wrong in (1.5, "high", True):
        with pytest.raises(DataError, match=r"has confidence .*, expected a number between 0 and 1"):
            ReplayEngine(write(tmp_path, {"id": "a", "text": "x", "confidence": wrong}))


def test_missing_answers_are_named_together(tmp_path):
    engine = ReplayEngine(write(tmp_path, {"id": "a", "text": ""}))
    with pytest.raises(
        DataError,
        match=r"recording\.jsonl has no completion for s0, s1, s2, s3, s4, and 3 more; "
        r"expected one row for each of the 9 samples",
    ):
        next(engine.complete(ask("a", *[f"s{i}" for i in range(8)])))


def test_faults_are_named_together(tmp_path):
    rows = [
        {"id": "a", "text": "x"},
        {"id": "a", "text": "y"},
        {"id": "b"},
        {"text": "z"},
        {"id": "c", "text": [5]},
        {"id": True, "text": "x"},
    ]
    with pytest.raises(
        DataError,
        match=r"recording\.jsonl: row 2 answers a again, after row 1; row 3 has no text; row 4 has no id; "
        r"row 5 has text \[5\], expected text; row 6 has id true, expected text or an integer\. "
        r"Expected one row per sample with id, text and, for pairs, order",
    ):
        ReplayEngine(write(tmp_path, *rows))


def test_order_makes_another_sample(tmp_path):
    rows = [
        {"id": "a", "order": "ab", "text": ""},
        {"id": "a#ab", "text": ""},
        {"id": "b", "order": 1, "text": ""},
    ]
    with pytest.raises(
        DataError, match="row 2 answers a#ab again, after row 1; row 3 has order 1, expected text"
    ):
        ReplayEngine(write(tmp_path, *rows))


@pytest.mark.parametrize("order", ["AB", "ab#2", ""])
def test_orders_that_nobody_asks_are_refused(tmp_path, order):
    with pytest.raises(DataError, match=f'row 1 has order "{order}", expected one of ab, ba, a, b'):
        ReplayEngine(write(tmp_path, {"id": "a", "order": order, "text": ""}))


def test_what_is_not_asked_is_known(tmp_path):
    engine = ReplayEngine(write(tmp_path, *[{"id": name, "text": ""} for name in "xyz"]))
    assert engine.unused([request.sample for request in ask("y")]) == ["x", "z"]


def test_missing_file(tmp_path):
    with pytest.raises(DataError, match="there is no data file at"):
        ReplayEngine(tmp_path / "none.jsonl")


def test_recordings_are_held_to_no_constraint(tmp_path):
    engine = ReplayEngine(write(tmp_path, {"id": "a", "text": "b"}))
    request = Request(Sample("a", (Message("user", "?"),)), constraint=Constraint("regex", "b"))
    with pytest.raises(
        ConfigError, match="a recording does not support constraints; leave the constraint out or"
    ):
        list(engine.complete([request]))


def test_recordings_hold_no_probabilities(tmp_path):
    engine = ReplayEngine(write(tmp_path, {"id": "a", "text": ""}))
    with pytest.raises(
        ConfigError, match="a recording does not support log-probability scoring; use a model"
    ):
        engine.score([Sample("a", (Message("user", "?"),))], ["yes"])


def test_sessions_answer_what_has_arrived(tmp_path):
    session = ReplayEngine(write(tmp_path, {"id": "a", "text": "first"}, {"id": "b", "text": ""})).session()
    asked = dict(zip("abc", ask("a", "b", "c"), strict=True))
    assert session.is_idle and session.room and session.step() == []
    tickets = [session.submit(request, stream=True) for request in asked.values()]
    tickets.append(session.submit(replace(asked["a"], adapter="x")))
    session.cancel(tickets[1])
    assert session.pending == 3
    first, missing, adapted = session.step()
    assert (first.ticket, first.piece, first.completion) == (tickets[0], "first", Completion("first"))
    with pytest.raises(DataError, match="has no completion for c"):
        raise missing.error
    with pytest.raises(
        ConfigError, match="a recording has no weights, so the adapter x does not apply to it"
    ):
        raise adapted.error
    assert session.is_idle
    session.close()
    with pytest.raises(WorkError, match="the session is closed"):
        session.submit(asked["a"])


def test_a_folder_is_all_of_its_recordings(tmp_path):
    (tmp_path / "records.jsonl").write_text('{"id": "p1#ab", "text": "one"}\n')
    (tmp_path / "attacked.jsonl").write_text('{"id": "p1~x#ab", "text": "two"}\n')
    (tmp_path / "evaluation.json").write_text("{}")
    engine = ReplayEngine(tmp_path)
    assert [answer.text for _, answer in engine.complete(ask("p1~x#ab", "p1#ab"))] == ["two", "one"]
    (tmp_path / "more.jsonl").write_text('{"id": "p1", "order": "ab", "text": "three"}\n{"id": "q"}\n')
    with pytest.raises(
        DataError, match=r"records\.jsonl: row 1 answers p1#ab again, after more\.jsonl: row 1"
    ):
        ReplayEngine(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty has no recording; expected a \.jsonl file"):
        ReplayEngine(tmp_path / "empty")
