"""`/v1/judge`, `/v1/route` and `/v1/memory`: what Python's doors give, from the server's one engine."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from tests.router.scripted import Scripted
from tests.serving.specialised import Whole, whole_server

from smidgen import Judge, JudgeOptions, Router
from smidgen.data.memories import Candidate
from smidgen.data.types import Request
from smidgen.errors import ConfigError, ModelError, WorkError
from smidgen.files import jsonable
from smidgen.inference import LocalEngine
from smidgen.inference.mlx import MlxEngine
from smidgen.memory import Store, verify
from smidgen.models.load import load
from smidgen.options import SamplingOptions
from smidgen.serving.guard import Guards
from smidgen.serving.judge_endpoint import MOST_JUDGEMENTS
from smidgen.serving.keys import Keys
from smidgen.serving.route_endpoint import MOST_UNSETTLED
from smidgen.serving.server import DrainingServer, bind
from smidgen.serving.specialists import OPERATIONS, Specialists, SpecialistSettings

PROMPT, A, B = "What is 23 + 48?", "71", "72"
SISTER = "My sister moved to Graz in May."


@pytest.fixture(scope="module")
def nano() -> Iterator[LocalEngine]:
    engine = MlxEngine(load("smidgen:nano"), batch_size=4)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def server(nano: LocalEngine) -> Iterator[Whole]:
    """The bundled model without a store."""
    with whole_server(nano) as running:
        yield running


def save(request: Request) -> str:
    """Save every text as a fact of its own; choose first of anything else."""
    assert request.constraint is not None
    choices = json.loads(request.constraint.value)
    return next((each for each in choices if "SAVE" in each or "ADD" in each), choices[0])


@pytest.fixture
def script() -> Scripted:
    return Scripted(save)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "memory.db"


@pytest.fixture
def stored(script: Scripted, store: Path) -> Iterator[Whole]:
    """A model that saves and adds everything, with a store."""
    with whole_server(script, SpecialistSettings(budget=20, store=store)) as running:
        yield running


def without_seconds(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_seconds(part) for key, part in value.items() if key != "seconds"}
    return [without_seconds(part) for part in value] if isinstance(value, list) else value


class Lent:
    """An engine that a test lends to Python's door."""

    def __init__(self, engine: LocalEngine):
        self.complete = engine.complete
        self.session = engine.session

    def close(self) -> None: ...


@pytest.mark.parametrize(
    ("path", "ask", "body"),
    [
        ("/v1/judge", lambda judge: judge.compare(PROMPT, A, B), {"a": A, "b": B}),
        ("/v1/judge/rank", lambda judge: judge.rank(PROMPT, [A, B, "3"]), {"answers": [A, B, "3"]}),
    ],
)
def test_judgements_are_those_of_the_python_door(
    server: Whole, nano: LocalEngine, monkeypatch: pytest.MonkeyPatch, path: str, ask: Callable, body: dict
):
    monkeypatch.setattr("smidgen.judge.judging.open_engine", lambda options: Lent(nano))
    with Judge(judging=JudgeOptions("verdict"), sampling=SamplingOptions(max_tokens=6)) as judge:
        expected = jsonable(asdict(ask(judge)))
    found = server.post(path, prompt=PROMPT, template="verdict", max_tokens=6, **body)
    assert found.status_code == 200, found.text
    assert without_seconds(found.json()) == without_seconds(expected) and found.json()["seconds"] > 0
    row = server.log.row_of(found)
    assert row["route"] == path and row["model"] == "base"
    assert row["prompt_tokens"] + row["completion_tokens"] == found.json()["tokens"]


def test_a_comparison_comes_as_it_is_generated(server: Whole):
    body = {"prompt": PROMPT, "a": A, "b": B, "template": "verdict", "max_tokens": 6}
    whole = server.post("/v1/judge", **body).json()
    streamed = server.post("/v1/judge", **body, stream=True)
    assert streamed.status_code == 200 and streamed.headers["content-type"].startswith("text/event-stream")
    *lines, end = [line[6:] for line in streamed.text.splitlines() if line.startswith("data: ")]
    *pieces, found = [json.loads(line) for line in lines]
    assert end == "[DONE]" and without_seconds(found) == without_seconds(whole)
    for said in whole["said"]:
        mine = [piece["text"] for piece in pieces if piece["order"] == said["order"]]
        assert "".join(mine) == said["text"] and len(mine) > 1
    row = server.log.row_of(streamed)
    assert row["prompt_tokens"] + row["completion_tokens"] == whole["tokens"] and "fault" not in row


def test_a_stream_of_judgements_that_fails_says_so(script: Scripted):
    script.say = lambda request: RuntimeError("no memory")
    with whole_server(script) as server:
        said = server.fault("/v1/judge", 500, prompt=PROMPT, a=A, b=B, stream=True)
        assert "the engine failed on this request" in said


def test_a_grade(server: Whole, nano: LocalEngine, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("smidgen.judge.judging.open_engine", lambda options: Lent(nano))
    with Judge(judging=JudgeOptions("grade", rubric="Right?"), sampling=SamplingOptions(6)) as judge:
        expected = jsonable(asdict(judge.grade(PROMPT, A, reference="71")))
    body = {"prompt": PROMPT, "answer": A, "reference": "71", "rubric": "Right?"}
    found = server.post("/v1/judge/grade", **body, max_tokens=6).json()
    assert without_seconds(found) == without_seconds(expected)


@pytest.mark.parametrize(
    ("path", "status", "body", "said"),
    [
        ("/v1/judge", 400, {"prompt": PROMPT, "a": A}, "b is missing"),
        ("/v1/judge", 400, {"promt": PROMPT, "a": A, "b": B}, "Did you mean 'prompt'?"),
        ("/v1/judge", 400, {"prompt": PROMPT, "a": A, "b": B, "template": "/etc/passwd"}, "template is"),
        ("/v1/judge", 400, {"prompt": PROMPT, "a": A, "b": B, "template": "grade"}, "template is 'grade'"),
        ("/v1/judge", 400, {"prompt": PROMPT, "a": A, "b": B, "template": "single"}, "template is 'single'"),
        ("/v1/judge", 404, {"prompt": PROMPT, "a": A, "b": B, "model": "../x"}, "there is no model '../x'"),
        ("/v1/judge", 400, {"prompt": " ", "a": A, "b": B}, "the prompt is empty"),
        ("/v1/judge", 400, {"prompt": PROMPT, "a": A, "b": B, "samples": 3}, "would all be equal"),
        (
            "/v1/judge",
            400,
            {"prompt": PROMPT, "a": A, "b": B, "samples": 3, "temperature": 1, "stream": True},
            "stream shows one judgement of each order, but samples is 3; leave one of them out",
        ),
        ("/v1/judge", 400, {"prompt": PROMPT, "a": A, "b": B, "max_tokens": 4097}, "more than the 4096 of"),
        ("/v1/judge", 400, {"prompt": "x " * 40_000, "a": A, "b": B}, "context"),
        ("/v1/judge/grade", 400, {"prompt": PROMPT, "answer": A, "rubric": " "}, "the rubric is empty"),
        ("/v1/judge/rank", 400, {"prompt": PROMPT, "answers": [A]}, "at least 2 items"),
        (
            "/v1/judge/rank",
            400,
            {"prompt": PROMPT, "answers": [A] * 10, "samples": 2, "temperature": 1},
            f"expected {MOST_JUDGEMENTS} at most",
        ),
        ("/v1/route", 400, {}, "needs a text or a fact"),
        ("/v1/route", 400, {"text": "a", "fact": "b"}, "needs a text or a fact, and only one"),
        ("/v1/route", 400, {"text": "a", "candidates": []}, "candidates go with a fact"),
        ("/v1/route", 400, {"fact": "a", "candidates": [], "intents": ["x"]}, "intents go with a text"),
        ("/v1/route", 400, {"text": "a", "task": "arbitrate"}, "the task arbitrate goes with a fact"),
        ("/v1/route", 400, {"fact": "a", "candidates": [], "task": "memorize"}, "goes with a fact"),
        ("/v1/route", 400, {"text": "a", "task": "classify"}, "has no intents"),
        ("/v1/route", 400, {"text": " "}, "expected a text that is not empty"),
        ("/v1/route", 400, {"fact": "a"}, "its candidates are null"),
        ("/v1/route", 400, {"text": "a", "store": "/etc/passwd"}, "there is no field 'store'"),
        ("/v1/route", 400, {"text": "a", "id": "x" * 201}, "id is"),
        ("/v1/memory/search", 404, {"query": "a"}, "has no memory store"),
        ("/v1/memory/undo", 404, {"entry": 1}, "has no memory store"),
    ],
)  # fmt: skip
def test_what_is_refused(server: Whole, path: str, status: int, body: dict, said: str):
    assert said in server.fault(path, status, **body)
    assert not [row for row in server.log.rows if "fault" in row]


def test_decisions_are_those_of_the_python_door(
    server: Whole, nano: LocalEngine, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("smidgen.router.router.open_engine", lambda options: Lent(nano))
    candidate = Candidate("m1", "Mia lives in Linz.")
    with Router("smidgen:nano", budget=None) as router:
        expected = [
            router.memorize(SISTER),
            router.classify("Book a table.", ["weather", "restaurant"]),
            router.arbitrate("Mia lives in Graz.", [candidate]),
        ]
    bodies: list[dict[str, Any]] = [
        {"text": SISTER, "id": "x"},
        {"text": "Book a table.", "intents": ["weather", {"name": "restaurant"}]},
        {"fact": "Mia lives in Graz.", "candidates": [asdict(candidate)]},
    ]
    for body, outcome in zip(bodies, expected, strict=True):
        found = server.post("/v1/route", **body).json()
        assert found["status"] == "decided" and found["task"] == outcome.task
        assert found["decisions"] == [outcome.to_json()["decision"]]
        assert found["id"] == body.get("id", found["id"]) and "line" not in found


def test_one_engine_serves_conversations_and_decisions_together(server: Whole):
    statuses: list[int] = []

    def ask(path: str, body: dict) -> None:
        statuses.append(server.post(path, **body).status_code)

    bodies = [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4}),
        ("/v1/route", {"text": SISTER}),
        ("/v1/judge", {"prompt": PROMPT, "a": A, "b": B, "max_tokens": 2}),
    ]
    threads = [threading.Thread(target=ask, args=each) for each in bodies * 3]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [200] * 9


def test_a_text_is_decided_once_under_its_id(stored: Whole, store: Path):
    first = stored.post("/v1/route", text=SISTER, id="a")
    assert (first.status_code, first.json()["status"]) == (200, "decided")
    assert [each["action"] for each in first.json()["decisions"]] == ["SAVE", "ADD"]
    again = stored.post("/v1/route", text=SISTER, id="a").json()
    assert (again["status"], again["decisions"]) == ("known", first.json()["decisions"])
    assert again["stored"] == {"state": "already", "entry": first.json()["stored"]["entry"]}
    said = stored.fault("/v1/route", 409, text="Something else.", id="a")
    assert said == "input 'a' was received before with another text; give every input an id of its own"
    assert verify(store).faults == () and verify(store).decided == 1


def test_what_is_stored_is_listed_found_and_undone(stored: Whole):
    for number, place in enumerate(("Graz", "Linz", "Wien")):
        stored.post("/v1/route", text=f"My sister moved to {place}.", id=str(number))
    listed = stored.client.get("/v1/memory", params={"limit": 2, "offset": 1}).json()
    assert (listed["what"], listed["total"], len(listed["found"])) == ("memories", 3, 2)
    (best, *_) = stored.post("/v1/memory/search", query="Linz").json()["memories"]
    assert best["text"] == "My sister moved to Linz."
    journal = stored.client.get("/v1/memory", params={"what": "journal"}).json()["found"]
    entry = next(each["number"] for each in journal if each["kind"] == "decided" and each["input"] == "1")
    undone = stored.post("/v1/memory/undo", entry=entry).json()
    assert (undone["undone"], undone["memory"]) == (entry, best["id"])
    assert stored.client.get("/v1/memory").json()["total"] == 2
    assert "cannot be undone" in stored.fault("/v1/memory/undo", 409, entry=entry)
    said = stored.fault("/v1/memory/undo", 409, entry=10**6)
    assert "does not exist; `smidgen memory list memory.db --journal`" in said  # and no folder of the server


@pytest.fixture(scope="module")
def listing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Whole]:
    """A server with an empty store, which no test fills."""
    store = tmp_path_factory.mktemp("store") / "memory.db"
    with whole_server(Scripted(save), SpecialistSettings(budget=20, store=store)) as running:
        yield running


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("what=x", "what is 'x'"),
        ("limit=0", "limit is '0'"),
        ("limit=x", "limit is"),
        ("path=x", "no field"),
        ("limit=1&limit=2", "twice"),
    ],
)
def test_a_query_that_is_wrong(listing: Whole, query: str, said: str):
    found = listing.client.get(f"/v1/memory?{query}")
    assert found.status_code == 400 and said in found.json()["error"]["message"]


def test_a_decision_that_is_late_is_pending_and_comes_later(script: Scripted, store: Path):
    with whole_server(script, SpecialistSettings(budget=0.2, store=store)) as server:
        script.say = lambda request: None
        late = server.post("/v1/route", text=SISTER, id="a")
        assert (late.status_code, late.json()["status"]) == (202, "deferred")
        listed = server.client.get("/v1/memory", params={"what": "pending"}).json()
        assert [each["id"] for each in listed["found"]] == ["a"]
        said = server.fault("/v1/route", 504, text="Book a table.", intents=["weather"])
        assert said == "no decision within the budget of 0.2 s; ask again later"
        script.say = save
        script.wake()
        end = time.monotonic() + 20
        while server.client.get("/v1/memory").json()["total"] == 0:
            assert time.monotonic() < end
            time.sleep(0.02)
        assert server.post("/v1/route", text=SISTER, id="a").json()["status"] == "known"


def test_what_an_earlier_server_left_pending_is_decided_at_the_start(script: Scripted, store: Path):
    with Store.open(store) as opened:
        opened.received("left", SISTER)
    with whole_server(script, SpecialistSettings(budget=20, store=store)) as server:
        end = time.monotonic() + 20
        while server.client.get("/v1/memory").json()["total"] == 0:
            assert time.monotonic() < end
            time.sleep(0.02)
    assert verify(store).pending == 0


def test_an_engine_that_fails_leaves_the_text_pending(stored: Whole, script: Scripted, store: Path):
    script.say = lambda request: RuntimeError("no memory")
    failed = stored.post("/v1/route", text=SISTER, id="a").json()
    assert failed["status"] == "failed" and "no memory" in failed["reason"]
    script.say = save
    assert stored.post("/v1/route", text=SISTER, id="a").json()["status"] == "decided"
    assert verify(store).faults == () and verify(store).decided == 1


def test_a_store_that_cannot_be_written_is_503_and_then_works_again(
    stored: Whole, store: Path, monkeypatch: pytest.MonkeyPatch
):
    received = Store.received

    def full(*_: object) -> bool:
        raise WorkError(f"{store} could not be written")

    monkeypatch.setattr(Store, "received", full)
    for _ in range(2):
        said = stored.fault("/v1/route", 503, text=SISTER, id="a")
        assert said == "memory.db could not be written"  # and not in which folder
    monkeypatch.setattr(Store, "received", received)
    assert stored.post("/v1/route", text=SISTER, id="a").json()["status"] == "decided"


def test_a_server_that_stops_journals_nothing_that_it_could_not_decide(stored: Whole, store: Path):
    stored.post("/v1/route", text=SISTER, id="a")
    stored.service.scheduler.drain()
    found = stored.post("/v1/route", text=SISTER, id="b")
    assert found.status_code == 503 and found.headers["retry-after"] == "1"
    assert "the server is stopping" in found.text
    assert verify(store).inputs == 1


def test_the_router_takes_so_many_open_questions(script: Scripted):
    with whole_server(script, SpecialistSettings(budget=0.05)) as server:
        server.post("/v1/route", text="Warm.")
        script.say = lambda request: None
        router = server.specialists._routes._router
        assert router is not None
        for _ in range(MOST_UNSETTLED):
            router.submit(_memorize())
        assert "too many open questions" in server.fault("/v1/route", 429, text=SISTER)


def _memorize() -> Any:
    from smidgen.router.questions import MemorizeQuestion

    return MemorizeQuestion(SISTER)


def test_adapters_judge_and_decide_by_name(script: Scripted, tmp_path: Path):
    asked: list[Request] = []

    def say(request: Request) -> str:
        asked.append(request)
        return "[[A]]" if request.constraint is None else save(request)

    script.say = say
    adapters = {"judge": tmp_path / "judge", "memory": tmp_path / "memory"}
    with whole_server(
        script, SpecialistSettings("judge", "verdict", "memory", 20), adapters=adapters
    ) as server:
        assert server.post("/v1/judge", prompt=PROMPT, a=A, b=B).json()["judgements"] == 2
        assert {request.adapter for request in asked} == {adapters["judge"]}
        asked.clear()
        server.post("/v1/judge", prompt=PROMPT, a=A, b=B, model="base")
        assert {request.adapter for request in asked} == {None}
        asked.clear()
        server.post("/v1/route", text=SISTER)
        assert {request.adapter for request in asked} == {adapters["memory"]}


def test_a_model_that_does_not_decide(script: Scripted, store: Path):
    script.say = lambda request: RuntimeError("no memory")
    with whole_server(script) as server:
        assert "base does not decide" in server.fault("/v1/route", 500, text=SISTER)
        before = Specialists(server.service, SpecialistSettings(store=store))
        stopping = DrainingServer(server.app, server.service.scheduler, grace_s=1, before=before.open)
        with before, bind("127.0.0.1", 0) as bound, pytest.raises(ModelError, match="base does not decide"):
            stopping.run(sockets=[bound])


def test_a_failure_of_the_engine_is_in_the_log_and_its_message_is_nowhere(script: Scripted):
    script.say = lambda request: RuntimeError("what another client asked")
    with whole_server(script) as server:
        failed = server.post("/v1/judge", prompt=PROMPT, a=A, b=B)
        assert failed.status_code == 500 and "the engine failed on this request" in failed.text
        row = server.log.row_of(failed)
    assert row["fault"].startswith("RuntimeError") and "another client" not in failed.text + str(row)


def test_specialists_that_the_server_does_not_have(server: Whole):
    with pytest.raises(ConfigError, match=r"there is no served model 'bas'\. Did you mean 'base'"):
        Specialists(server.service, SpecialistSettings("bas"))
    with pytest.raises(ConfigError, match="there is no template 'verdic'"):
        Specialists(server.service, SpecialistSettings(judge_template="verdic"))
    with pytest.raises(ConfigError, match="--judge-template is grade, which grades single answers"):
        Specialists(server.service, SpecialistSettings(judge_template="grade"))


def test_every_endpoint_is_described_and_its_example_is_right(server: Whole):
    document = server.client.get("/openapi.json").json()
    described = {(path, method.upper()) for path, methods in document["paths"].items() for method in methods}
    for path in (
        "/v1/judge",
        "/v1/judge/grade",
        "/v1/judge/rank",
        "/v1/route",
        "/v1/memory/search",
        "/v1/memory/undo",
    ):
        assert (path, "POST") in described
        content = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]
        schema = document["components"]["schemas"][content["schema"]["$ref"].rpartition("/")[2]]
        assert schema["additionalProperties"] is False
        assert all("description" in field for field in schema["properties"].values())
    assert ("/v1/memory", "GET") in described
    parameters = document["paths"]["/v1/memory"]["get"]["parameters"]
    assert [each["name"] for each in parameters] == ["what", "limit", "offset"]
    assert parameters[1]["in"] == "query" and parameters[1]["schema"]["maximum"] == 1000
    for reference in set(_references(document)):
        assert reference.rpartition("/")[2] in document["components"]["schemas"]
    page = server.client.get("/docs").text
    assert "/v1/judge/rank" in page and "Ranks several answers" in page
    for operation in OPERATIONS:
        if operation.body is not None:
            operation.body.model_validate(json.loads(operation.example))


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        yield from (item for key, item in value.items() if key == "$ref")
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _references(item)


def test_metrics_count_the_model_and_need_a_key(script: Scripted):
    key = "0123456789abcdef"
    with whole_server(script, guards=Guards(keys=Keys([key]))) as server:
        assert server.client.get("/metrics").status_code == 401
        assert server.post("/v1/route", text=SISTER).status_code == 401
        server.client.headers["authorization"] = f"Bearer {key}"
        server.post("/v1/route", text=SISTER)
        text = server.client.get("/metrics").text
        assert 'smidgen_requests_total{route="/v1/route",status="200"} 1.0' in text
        assert 'smidgen_requests_total{route="/v1/route",status="401"} 1.0' in text
        assert "smidgen_running 0.0" in text and "smidgen_waiting 0.0" in text


def test_metrics_count_what_a_judge_and_a_router_ask(nano: LocalEngine):
    with whole_server(nano) as server:

        def figure(name: str) -> float:
            text = server.client.get("/metrics").text
            return float(text.partition(f"\n{name} ")[2].partition("\n")[0])

        def comes(is_true: Callable[[], bool]) -> bool:
            """Whether something becomes true: figures come after the answers."""
            end = time.monotonic() + 10
            while not is_true() and time.monotonic() < end:
                time.sleep(0.01)
            return is_true()

        found = server.post("/v1/judge", prompt=PROMPT, a=A, b=B, max_tokens=2).json()
        tokens = ('smidgen_tokens_total{kind="prompt"}', 'smidgen_tokens_total{kind="completion"}')
        assert comes(lambda: sum(map(figure, tokens)) == found["tokens"])
        assert figure("smidgen_queue_seconds_count") == figure("smidgen_completion_seconds_count") == 2
        assert figure("smidgen_time_to_first_token_seconds_count") == 2
        server.post("/v1/route", text=SISTER)
        assert comes(lambda: figure(tokens[0]) > found["tokens"])
