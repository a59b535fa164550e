"""Models that stay loaded: which process answers, what it is told, and when it ends."""

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient
from tests.studio.conftest import ADDRESS, TOKEN, make_run

from smidgen.studio import loaded as loaded_module
from smidgen.studio import make_app
from smidgen.studio.commands import question
from smidgen.studio.jobs import Jobs
from smidgen.studio.loaded import LoadedModels
from smidgen.studio.workspace import Workspace

SERVER = """
import json, os, sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        text = body["messages"][-1]["content"]
        if text == "die":
            print("error: no memory is left; close something", file=sys.stderr)
            os._exit(1)
        is_known = self.headers["authorization"] == "Bearer " + os.environ["SMIDGEN_API_KEYS"]
        is_refused = text == "refuse" or not is_known
        self.send_response(400 if is_refused else 200)
        self.end_headers()
        if is_refused:
            return self.wfile.write(json.dumps({"error": {"message": "it is refused; shorten it"}}).encode())
        self.say({"pid": os.getpid(), "path": self.path, "body": body})
        if text == "odd":
            return self.wfile.write(b"data: {no JSON\\n\\n")
        if text == "break":
            return self.say({"error": {"message": "it took too long; ask again"}})
        try:
            while text == "slow":
                self.say({"more": 1})
                time.sleep(0.02)
        except OSError:
            open("left", "w").close()
        self.wfile.write(b": still there\\n\\ndata: [DONE]\\n\\n")

    def say(self, event):
        self.wfile.write(b"data: " + json.dumps(event).encode() + b"\\n\\n")

    def log_message(self, *_): ...

if os.path.exists("bad"):
    print("error: the model is bad; mend it", file=sys.stderr)
    sys.exit(2)
while os.path.exists("hold"):
    time.sleep(0.02)
server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(json.dumps({"url": f"http://127.0.0.1:{server.server_port}/v1", "models": ["base"]}), flush=True)
server.serve_forever()
"""
PROGRAM = (sys.executable, "-c", SERVER)
LOADING, ANSWERING, DONE = ({"state": state} for state in ("loading", "answering", "done"))


class Asking:
    """A workspace whose models are small scripts."""

    def __init__(self, root: Path):
        self.root, self.workspace, self.jobs = root, Workspace(root), Jobs(root, PROGRAM)
        self.models = LoadedModels(self.jobs)

    def begin(self, *messages: str, **given: Any) -> AsyncGenerator[dict[str, Any], None]:
        asked = {"messages": list(messages or ("Hello",)), **given}
        return self.models.ask(question(self.workspace, "chat", asked))

    async def ask(self, *messages: str, **given: Any) -> dict[str, Any]:
        """What the process that answers was told."""
        events = [event async for event in self.begin(*messages, **given)]
        assert [events[0], events[1], events[-1]] == [LOADING, ANSWERING, DONE]
        (answer,) = events[2:-1]
        return answer["answer"]

    async def fault(self, *messages: str) -> str:
        events = [event async for event in self.begin(*messages)]
        assert events[-1]["state"] == "failed"
        return events[-1]["error"]

    def states(self) -> list[str]:
        """The states of the servers, the newest first."""
        return [job.state if not job.is_stopping else "stopped" for job in self.jobs.all()]


def asking(root: Path, work: Callable[[Asking], Awaitable[None]]) -> None:
    async def whole() -> None:
        given = Asking(root)
        try:
            await asyncio.wait_for(work(given), 60)
        finally:
            (root / "hold").unlink(missing_ok=True)
            await given.jobs.close()

    asyncio.run(whole())


async def until(what: Callable[[], Any]) -> None:
    end = time.monotonic() + 20
    while not what():
        assert time.monotonic() < end
        await asyncio.sleep(0.01)


def test_one_process_is_asked_again_and_told_the_whole_conversation(root: Path):
    async def work(given: Asking) -> None:
        first = await given.ask("Hello")
        second = await given.ask("Hello", "Hi.", "Who are you?")
        assert first["pid"] == second["pid"] and second["path"] == "/v1/chat/completions"
        assert second["body"]["messages"] == [
            {"role": "user", "content": "Hello"},
            {"role": "assistant", "content": "Hi."},
            {"role": "user", "content": "Who are you?"},
        ]
        assert second["body"]["stream"] is True and second["body"]["model"] == "base"

    asking(root, work)


def test_base_and_specialist_are_asked_through_one_process_at_once(root: Path):
    async def work(given: Asking) -> None:
        both = await asyncio.gather(*(given.ask(run="done", trained=trained) for trained in (False, True)))
        assert [found["body"]["model"] for found in both] == ["base", "specialist"]
        assert both[0]["pid"] == both[1]["pid"] and len(given.jobs.all()) == 1

    asking(root, work)


def test_weights_that_changed_are_loaded_anew(root: Path):
    async def work(given: Asking) -> None:
        first = await given.ask(run="done")
        os.utime(root / "runs/done/best/adapters.safetensors", ns=(1, 10**18))
        assert (await given.ask(run="done"))["pid"] != first["pid"]
        assert given.states() == ["running", "stopped"]

    asking(root, work)


def test_an_answer_of_weights_that_change_meanwhile_is_completed(root: Path):
    async def work(given: Asking) -> None:
        async with aclosing(given.begin("slow", run="done")) as events:
            async for event in events:
                if "answer" in event:
                    break
            os.utime(root / "runs/done/best/adapters.safetensors", ns=(1, 10**18))
            await given.ask(run="done")
            assert given.states() == ["running", "running"]
            assert "more" in (await anext(events))["answer"]
        assert given.states() == ["running", "stopped"]

    asking(root, work)


def test_the_model_that_was_not_asked_for_longest_makes_room(root: Path):
    for name in ("second", "third"):
        make_run(root, name, {})

    async def work(given: Asking) -> None:
        first = await given.ask(run="done")
        second = await given.ask(run="second")
        await given.ask(run="done")
        await given.ask(run="third")
        assert (await given.ask(run="done"))["pid"] == first["pid"]
        assert given.states() == ["running", "stopped", "running"]
        assert (await given.ask(run="second"))["pid"] != second["pid"]

    asking(root, work)


def test_several_that_are_asked_at_once_do_not_all_stay(root: Path):
    for name in ("second", "third"):
        make_run(root, name, {})

    async def work(given: Asking) -> None:
        asked = [given.ask(run=name) for name in ("done", "second", "third")]
        assert len({answer["pid"] for answer in await asyncio.gather(*asked)}) == 3
        assert given.states().count("running") == 2

    asking(root, work)


def test_one_that_has_failed_costs_no_other_its_place(root: Path):
    make_run(root, "second", {})

    async def work(given: Asking) -> None:
        first = await given.ask(run="done")
        assert "no memory is left" in await given.fault("die")
        await given.ask(run="second")
        assert (await given.ask(run="done"))["pid"] == first["pid"]

    asking(root, work)


def test_a_model_that_nobody_has_asked_for_long_is_loaded_anew(root: Path, monkeypatch: pytest.MonkeyPatch):
    async def work(given: Asking) -> None:
        first = await given.ask()
        monkeypatch.setattr(loaded_module, "IDLE_SECONDS", 0.0)
        assert (await given.ask())["pid"] != first["pid"]

    asking(root, work)


def test_what_fails_says_the_sentence_of_the_command_line(root: Path):
    async def work(given: Asking) -> None:
        (root / "bad").touch()
        assert await given.fault() == "the model is bad; mend it"
        (root / "bad").unlink()
        assert await given.fault("refuse") == "it is refused; shorten it"
        assert await given.fault("break") == "it took too long; ask again"
        assert await given.fault("die") == "no memory is left; close something"
        assert (await given.ask())["path"] == "/v1/chat/completions"
        assert given.states() == ["running", "failed", "failed"]
        assert await given.fault("odd") == "the model's server sent what cannot be read; ask again"

    asking(root, work)


def test_an_answer_that_is_stopped_ends_and_its_model_stays(root: Path):
    async def work(given: Asking) -> None:
        async with aclosing(given.begin("slow")) as events:
            async for event in events:
                if "more" in event.get("answer", ()):
                    break
        await until((root / "left").exists)
        await given.ask()
        assert given.states() == ["running"]

    asking(root, work)


def test_a_model_is_loaded_as_long_as_somebody_waits_for_it(root: Path):
    (root / "hold").touch()

    async def work(given: Asking) -> None:
        patient, impatient = asyncio.create_task(given.ask()), asyncio.create_task(given.ask())
        await until(lambda: [each.users for each in given.models._loaded.values()] == [2])
        impatient.cancel()
        await asyncio.gather(impatient, return_exceptions=True)
        assert given.states() == ["running"]
        patient.cancel()
        await asyncio.gather(patient, return_exceptions=True)
        await until(lambda: given.jobs.all()[0].state == "stopped")
        (root / "hold").unlink()
        await given.ask()
        assert given.states() == ["running", "stopped"]

    asking(root, work)


def test_what_needs_the_memory_gets_it_once_an_answer_is_complete(root: Path):
    async def work(given: Asking) -> None:
        async with aclosing(given.begin("slow")) as events:
            async for event in events:
                if "answer" in event:
                    break
            await given.models.unload()
            assert given.states() == ["running"]
        await given.models.unload()
        assert given.jobs.all()[0].state == "stopped"
        await given.ask()

    asking(root, work)


def test_a_model_that_is_stopped_from_outside_is_said_to_be(root: Path):
    (root / "hold").touch()

    async def work(given: Asking) -> None:
        waiting = asyncio.create_task(given.fault())
        await until(given.jobs.all)
        given.jobs.stop(given.jobs.all()[0])
        assert await waiting == "the model was unloaded before it could answer; ask again"
        (root / "hold").unlink()
        answering = asyncio.create_task(given.fault("slow"))
        await until(lambda: len(given.jobs.all()) == 2 and given.jobs.all()[0].output)
        await asyncio.sleep(0.3)
        given.jobs.stop(given.jobs.all()[0])
        assert await answering == "the model was unloaded before its answer was complete; ask again"

    asking(root, work)


def test_the_page_gets_the_events_and_a_run_or_an_export_the_memory(root: Path):
    jobs = Jobs(root, PROGRAM)
    headers = {"authorization": f"Bearer {TOKEN}", "origin": ADDRESS}
    with TestClient(make_app(Workspace(root), TOKEN, jobs), base_url=ADDRESS, headers=headers) as client:
        for start in ("/api/runs/done/resume", "/api/commands/export"):
            answer = client.post("/api/questions/chat", json={"messages": ["Hello"], "run": "done"})
            lines = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: ")]
            assert [line.get("state", "answer") for line in lines[:-1]] == [
                "loading",
                "answering",
                "answer",
                "done",
            ]
            model = jobs.all()[0]
            assert (model.kind, model.state) == ("serve", "running")
            assert client.post(start, json={"run": "done", "format": "mlx"}).status_code == 201
            assert model.state == "stopped"
        refused = client.post("/api/questions/chat", json={"messages": []})
        assert refused.status_code == 400 and "ends with a question" in refused.json()["error"]
    assert all(job.state == "stopped" for job in jobs.all())


@pytest.mark.slow
def test_a_real_model_answers_twice_and_judges(tmp_path: Path):
    async def work() -> None:
        workspace, jobs = Workspace(tmp_path), Jobs(tmp_path)
        models = LoadedModels(jobs)
        for kind, given in (
            ("chat", {"messages": ["What is 20 + 7?"]}),
            ("chat", {"messages": ["What is 20 + 7?", "27.", "And 1 more?"]}),
            ("judge", {"prompt": "What is 20 + 7?", "a": "27", "b": "30", "template": "verdict"}),
        ):
            events = [event async for event in models.ask(question(workspace, kind, given))]
            assert events[-1] == DONE, events
            answers = [event["answer"] for event in events if "answer" in event]
            if kind == "judge":
                assert answers[-1]["judgements"] == 2 and {"ab", "ba"} == {
                    each["order"] for each in answers[:-1]
                }
            else:
                assert any(each["choices"][0]["delta"].get("content") for each in answers if each["choices"])
                assert answers[-1]["usage"]["completion_tokens"] > 0
        assert len(jobs.all()) == 1
        await jobs.close()

    asyncio.run(work())
