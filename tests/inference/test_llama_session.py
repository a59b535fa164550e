"""Requests that arrive while others are decoded, and their adapters, in the engine `llama`."""

import time
from dataclasses import replace
from pathlib import Path

import pytest
from tests.models.test_lora import CONFIG, adapted

from smidgen.data.types import Completion, Constraint, Message, Request, Sample, Sampling
from smidgen.errors import ConfigError, ModelError, WorkError
from smidgen.export.gguf import write_gguf, write_gguf_adapter
from smidgen.inference import inbox as inbox_module
from smidgen.inference import llama as llama_module
from smidgen.inference import llama_files, llama_lane
from smidgen.inference.engine import Event, Session
from smidgen.inference.llama import LlamaEngine
from smidgen.inference.llama_files import llama_model
from smidgen.inference.llama_row import LlamaRow
from smidgen.inference.llama_server import LlamaServer, Refused
from smidgen.inference.mlx import MlxEngine
from smidgen.models.load import load
from smidgen.models.lora import save_adapter

TEXTS = ["judge: the better", "judge: the better answer is", "why", "judge: the second", "which " * 9]


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setattr(llama_files, "cache_dir", lambda: folder)
        patch.setenv("SMIDGEN_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="module")
def engine():
    engine = LlamaEngine(llama_model("smidgen:nano", dtype="F32"), batch_size=4)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def folders(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    made = [tmp_path_factory.mktemp("adapters") / str(i) for i in range(2)]
    for i, folder in enumerate(made):
        save_adapter(
            folder,
            adapted(load(str(tiny_model_dir)).model, CONFIG.model_copy(update={"alpha": 8 + 8 * i})),
            CONFIG.model_copy(update={"alpha": 8 + 8 * i}),
        )
    return made


def ask(name: str, text: str, **sampling) -> Request:
    return Request(Sample(name, (Message("user", text),)), Sampling(**({"max_tokens": 6} | sampling)))


def many(count: int) -> list[Request]:
    return [ask(str(i), TEXTS[i % len(TEXTS)] + str(i), max_tokens=2 + i % 6) for i in range(count)]


def answers(engine, requests: list[Request]) -> dict[str, Completion]:
    return {request.sample.id: completion for request, completion in engine.complete(requests)}


def finish(session: Session) -> list[Event]:
    """Step until nothing is pending."""
    events = []
    while not session.is_idle:
        events += session.step()
    return events


def said(events: list[Event]) -> dict[str, str]:
    return {
        event.request.sample.id: event.completion.text for event in events if event.completion is not None
    }


def texts(found: dict[str, Completion]) -> dict[str, str]:
    return {name: completion.text for name, completion in found.items()}


def test_arrivals_are_answered_as_all_at_once(engine):
    requests = many(14)
    expected = texts(answers(engine, requests))
    session, events = engine.session(), []
    for i, request in enumerate(requests):
        session.submit(request, stream=i % 2 == 0)
        if i % 3 == 0:
            events += session.step(timeout=0)
    events += finish(session)
    assert said(events) == expected
    for i in range(0, 14, 2):
        pieces = [event.piece for event in events if event.request.sample.id == str(i)]
        assert "".join(pieces) == expected[str(i)]
    assert session.step() == []
    session.close()
    with pytest.raises(WorkError, match="the session is closed"):
        session.submit(requests[0])


@pytest.mark.slow
def test_a_request_joins_those_that_run(engine):
    """A busy machine may end the long one before the short one is submitted, so there are several tries."""
    long = replace(ask("long", "why", max_tokens=600), constraint=Constraint("regex", "([a-z][0-9]){250}"))
    ended = []
    while ["short", "long"] not in ended and len(ended) < 5:
        session = engine.session()
        session.submit(long, stream=True)
        while not session.step():
            pass
        session.submit(ask("short", "which", max_tokens=2))
        ended.append([event.request.sample.id for event in finish(session) if event.is_last])
        session.close()
    assert ended[-1] == ["short", "long"]


def test_cancelled_requests_leave_the_others_as_they_are(engine):
    requests = many(12)
    expected = texts(answers(engine, requests))
    session = engine.session()
    tickets = [session.submit(request, stream=i == 0) for i, request in enumerate(requests)]
    events = session.step()
    for ticket in (tickets[0], tickets[-1], 999):
        session.cancel(ticket)
    events = [event for event in events if event.ticket != tickets[0]] + finish(session)
    session.close()
    del expected["0"], expected["11"]
    assert said(events) == expected


def test_faults_end_their_own_request(engine, monkeypatch):
    good = many(3)
    expected = texts(answers(engine, good))
    complete = LlamaServer.complete

    def refusing(server, question, *rest):
        if question["max_tokens"] == 31:
            raise Refused("too long")
        return complete(server, question, *rest)

    monkeypatch.setattr(LlamaServer, "complete", refusing)
    session = engine.session()
    bad = [
        ask("penalty", "why", frequency_penalty=0.5),
        ask("refused", "why", max_tokens=31),
        replace(ask("adapter", "why"), adapter="/nowhere"),
    ]
    for pair in zip(good, bad, strict=True):
        for request in pair:
            session.submit(request)
    session.submit(ask("whole", "word " * 3000))
    events = finish(session)
    session.close()
    found = {event.request.sample.id: event for event in events}
    assert found.pop("whole").completion.finish_reason == "context"
    assert {name: found.pop(name).completion.text for name in expected} == expected
    for name, kind, fault in (
        ("penalty", ConfigError, "does not support frequency_penalty"),
        ("refused", ModelError, r"llama\.cpp refuses a prompt of .*: too long"),
        ("adapter", ModelError, "nowhere"),
    ):
        with pytest.raises(kind, match=fault):
            raise found[name].error


def test_sessions_share_a_model_that_one_of_them_has_to_load_anew(engine):
    """A longer row waits until nobody runs in the slots that are too short."""
    long = [ask(f"long {i}", "word " * 60, max_tokens=40) for i in range(2)]
    short = many(6)
    expected = texts(answers(engine, [*short, *long]))
    fresh = LlamaEngine(engine._model, batch_size=2)
    left, right = fresh._session(arriving=False), fresh._session(arriving=False)
    idle = fresh.session()
    assert said([*(idle.submit(short[0]) or []), *finish(idle)]) == {"0": expected["0"]}
    for request in short:
        left.submit(request)
    events = left.step(timeout=0)
    for request in long:
        right.submit(request)
    while not (left.is_idle and right.is_idle):
        events += left.step(timeout=0) + right.step(timeout=0)
    for session in (left, right, idle):
        session.close()
    fresh.close()
    assert said(events) == expected


@pytest.mark.parametrize("most", [4, 0])
def test_each_request_is_answered_as_by_an_engine_of_its_adapter(tiny_model_dir, folders, monkeypatch, most):
    for module in (inbox_module, llama_module):
        monkeypatch.setattr(module, "MOST_ADAPTERS", most)
    engine = LlamaEngine(llama_model(str(tiny_model_dir), dtype="F32"), batch_size=2)
    chosen = [None, folders[0], str(folders[1])]
    requests = [replace(request, adapter=chosen[i % 3]) for i, request in enumerate(many(9))]
    session = engine.session()
    for request in requests:
        session.submit(request)
    found = said(finish(session))
    session.close()
    assert len(engine._hosts) == min(3, most + 1)
    assert found == texts(answers(engine, requests))
    engine.close()
    for adapter in chosen:
        alone = MlxEngine(load(str(tiny_model_dir), adapter=adapter and Path(adapter)))
        mine = [replace(request, adapter=None) for request in requests if request.adapter == adapter]
        assert {request.sample.id: found[request.sample.id] for request in mine} == texts(
            answers(alone, mine)
        )


def test_a_file_takes_adapters_of_its_kind_and_folders(tiny_model_dir, folders, tmp_path):
    file, adapter = tmp_path / "model.gguf", tmp_path / "adapter.gguf"
    write_gguf(str(tiny_model_dir), file, dtype="F32")
    write_gguf_adapter(str(tiny_model_dir), folders[0], adapter)
    engine = LlamaEngine(llama_model(str(file)))
    request = ask("a", "the better answer", max_tokens=8)
    found = answers(engine, [replace(request, adapter=adapter)])["a"].text
    assert answers(engine, [replace(request, adapter=folders[0])])["a"].text == found
    assert answers(engine, [request])["a"].text != found
    engine.close()
    expected = answers(MlxEngine(load(str(tiny_model_dir), adapter=folders[0])), [request])["a"].text
    assert found == expected


def test_a_row_that_is_cancelled_stops_at_its_next_token(engine, monkeypatch):
    """Whether it is streamed or not, as long as nothing is wanted that a stream lacks."""
    take_part, taken = LlamaRow.take_part, []

    def slow(self: LlamaRow, *given) -> None:
        taken.append(self.submitted.ticket)
        time.sleep(0.005)
        take_part(self, *given)

    monkeypatch.setattr(LlamaRow, "take_part", slow)
    session = engine.session()
    for stream in (True, False):
        taken.clear()
        asked = replace(ask("long", "why", max_tokens=300, temperature=2.0), logprobs=False)
        ticket = session.submit(asked, stream=stream)
        while len(taken) < 3:
            session.step(timeout=0.01)
        session.cancel(ticket)
        session.submit(ask("next", "why"))
        assert [event.request.sample.id for event in finish(session)] == ["next"]
        assert 3 <= len(taken) < 60
    session.close()


def test_a_stream_that_ends_inside_a_character_is_whole(engine, monkeypatch):
    """The first three of the four tokens of a face."""
    face = engine.tokenizer.encode("😀")
    asked = llama_lane.question_of

    def forced(row: LlamaRow, **given) -> dict:
        question = asked(row, **given)
        return question | {"logit_bias": [[face[0], 1000.0]]}

    monkeypatch.setattr(llama_lane, "question_of", forced)
    session = engine.session()
    for stream in (True, False):
        session.submit(replace(ask("torn", "why", max_tokens=3), logprobs=False), stream=stream)
        (event,) = finish(session)
        assert event.completion is not None and event.completion.text.startswith("\ufffd")
        assert event.piece == (event.completion.text if stream else "")
        assert event.completion.timing is not None and event.completion.timing.completion_tokens == 3
    session.close()
