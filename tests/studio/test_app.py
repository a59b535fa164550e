"""The routes: files, recipes, commands, runs and comparisons."""

import asyncio
import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request
from starlette.testclient import TestClient
from starlette.types import Message
from tests.studio.conftest import PROGRAM, RECIPE, make_run

from smidgen.errors import ConfigError
from smidgen.studio import app as app_module
from smidgen.studio import workspace as workspace_module
from smidgen.studio.app import Studio
from smidgen.studio.jobs import Jobs
from smidgen.studio.workspace import Workspace


def error_of(answer: Any) -> str:
    assert answer.status_code == 400, answer.text
    return answer.json()["error"]


def events_of(answer: Any) -> list[dict[str, Any]]:
    assert answer.status_code == 200
    found = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]
    assert found.pop() == {}  # the end
    return found


def test_the_page(client: TestClient):
    assert "<title>smidgen studio</title>" in client.get("/").text
    assert client.get("/static/main.js").headers["content-type"].startswith("text/javascript")


def test_the_workspace(client: TestClient):
    found = client.get("/api/workspace").json()
    assert [file["path"] for file in found["rows"]] == ["rows.jsonl"]
    assert [file["path"] for file in found["recipes"]] == ["made.toml"]
    run = found["runs"][0]
    assert (run["name"], run["state"], run["evaluations"]) == ("done", "done", ["after", "before"])
    assert (run["base"], run["adapter"], run["report"]) == ("base/model", True, True)


def test_a_dropped_file_is_kept(client: TestClient, root: Path):
    answer = client.put("/api/files/my%20rows.csv", content=b"a,b\n1,2\n")
    assert (answer.status_code, answer.json()) == (201, {"path": "my rows.csv", "bytes": 8})
    assert client.put("/api/files/my%20rows.csv", content=b"c\n").json()["path"] == "my rows-2.csv"
    assert (root / "my rows.csv").read_bytes() == b"a,b\n1,2\n"


def test_what_is_no_file_of_rows_is_refused_and_leaves_nothing(
    client: TestClient, root: Path, monkeypatch: pytest.MonkeyPatch
):
    before = sorted(root.iterdir())
    assert "is not a file of rows" in error_of(client.put("/api/files/x.py", content=b"1"))
    assert "new.csv is empty; expected rows" in error_of(client.put("/api/files/new.csv", content=b""))
    monkeypatch.setattr(app_module, "MOST_UPLOADED", 3)
    assert "is larger than 3 bytes" in error_of(client.put("/api/files/new.csv", content=b"1234"))
    assert sorted(root.iterdir()) == before


def test_a_recipe_is_values_and_text(client: TestClient):
    read = client.get("/api/recipe", params={"file": "made.toml"}).json()
    assert (read["name"], read["error"], read["values"]["task"]) == ("made", None, "judge")
    assert read["toml"] == RECIPE
    commented = "# why\n" + RECIPE
    assert client.post("/api/recipe", json={"toml": commented}).json()["toml"] == commented
    again = client.post("/api/recipe", json={"values": read["values"] | {"description": ""}}).json()
    assert again["values"] == read["values"]
    bad = client.post("/api/recipe", json={"toml": RECIPE + "[train]\nepoch = 2.0\n"}).json()
    assert "unknown key 'train.epoch'. Did you mean 'epochs'?" in bad["error"]
    assert "the recipe is not TOML" in error_of(client.post("/api/recipe", json={"toml": "name = "}))


def test_the_schema_has_every_method_and_its_starters_are_right(client: TestClient):
    found = client.get("/api/schema").json()
    assert {"sft", "grpo", "dpo", "jacobi", "distill", "pretrain"} <= found["methods"].keys()
    sft = found["methods"]["sft"]
    table = sft["$defs"][sft["properties"]["train"]["$ref"].rpartition("/")[2]]
    assert table["properties"]["epochs"]["description"] == "Number of passes over the training rows."
    for starter in found["starters"].values():
        starter["recipe"]["data"] |= {"train": "world", "test": "world"}
        assert client.post("/api/recipe", json={"values": starter["recipe"]}).json()["error"] is None


def test_questions_about_a_recipe_start_commands(client: TestClient, root: Path):
    found = client.post("/api/recipe/plan", json={"toml": RECIPE}).json()
    assert re.fullmatch(r"plan \.studio/recipe-\w{16}\.toml --json", " ".join(found["result"]["words"]))
    assert not any((root / ".studio").iterdir())
    assert "expected plan, check or show" in error_of(client.post("/api/recipe/rm", json={}))


def test_a_run_is_started_followed_and_made_again(client: TestClient, root: Path):
    answer = client.post("/api/recipe/run", json={"toml": RECIPE})
    assert answer.status_code == 201
    started = answer.json()
    assert (started["name"], started["file"]) == ("made", "made.toml")
    events = events_of(client.get(f"/api/jobs/{started['job']['id']}/events"))
    assert events[-1]["state"] == "done" and events[-1]["command"] == "smidgen run made.toml --json"
    assert client.get("/api/runs/made").json()["state"] == "done"
    assert "has no run" not in client.get("/api/runs").text
    assert "there is no run 'made'" in error_of(client.post("/api/runs/made/resume", json={}))
    again = client.post("/api/runs/done/resume", json={}).json()
    assert again["job"]["command"] == "smidgen run runs/done/config.toml --json"


def test_a_running_run_is_stopped_and_not_started_twice(client: TestClient, root: Path):
    recipe = RECIPE.replace("made", "slow")
    started = client.post("/api/recipe/run", json={"toml": recipe}).json()
    assert client.get("/api/runs/slow").json()["state"] == "running"
    assert "the run 'slow' is going on; stop it first" in error_of(
        client.post("/api/recipe/run", json={"toml": recipe})
    )
    id = started["job"]["id"]
    while not client.app._app.routes[0].endpoint.__self__.jobs.find(id).lines:
        pass
    assert client.post("/api/runs/slow/stop", json={}).status_code == 202
    assert events_of(client.get(f"/api/jobs/{id}/events"))[-1]["state"] == "stopped"


def test_a_command_is_stopped(client: TestClient, root: Path):
    make_run(root, "slow", {})
    job = client.post("/api/commands/export", json={"run": "slow", "format": "mlx"}).json()
    assert job["state"] == "running"
    assert client.post(f"/api/jobs/{job['id']}/stop", json={}).json()["stopping"]
    last = events_of(client.get(f"/api/jobs/{job['id']}/events"))[-1]
    assert (last["state"], last["error"]) == ("stopped", None)
    assert client.post(f"/api/jobs/{job['id']}/stop", json={}).json()["state"] == "stopped"  # as it was
    assert "there is no job '99'" in error_of(client.post("/api/jobs/99/stop", json={}))


def test_a_recipe_with_faults_is_not_started(client: TestClient, root: Path):
    assert "'train.epochs' is -1" in error_of(
        client.post("/api/recipe/run", json={"toml": RECIPE + "[train]\nepochs = -1\n"})
    )
    other = RECIPE + "[train]\nepochs = 3.0\n"
    assert "made.toml exists and has other settings" in error_of(
        client.post("/api/recipe/run", json={"toml": other})
    )
    assert (root / "made.toml").read_text() == RECIPE
    assert "expected one that ends in .toml" in error_of(
        client.post("/api/recipe/run", json={"toml": RECIPE, "file": "rows.jsonl"})
    )
    assert client.post("/api/recipe/run", json={"toml": other, "replace": True}).status_code == 201
    assert (root / "made.toml").read_text() == other


def test_a_failed_run_says_why(client: TestClient):
    started = client.post("/api/recipe/run", json={"toml": RECIPE.replace("made", "bad")}).json()
    last = events_of(client.get(f"/api/jobs/{started['job']['id']}/events"))[-1]
    assert (last["state"], last["error"]) == ("failed", "the rows are bad; mend them")
    assert client.get("/api/runs/bad").json()["job"]["error"] == "the rows are bad; mend them"


def test_the_growing_files_of_a_run(client: TestClient):
    events = events_of(client.get("/api/runs/done/events"))
    assert {event["file"] for event in events} == {"events", "metrics"}
    steps = [row for event in events if event["file"] == "metrics" for row in event["rows"]]
    assert [step["step"] for step in steps] == [1, 2, 3]


def test_two_evaluations_row_by_row(client: TestClient):
    query = {"first": "done/before", "second": "done/after"}
    found = client.get("/api/compare", params=query).json()
    assert found["counts"] == {"worse": 1, "better": 1, "wrong": 1, "right": 1}
    row = found["rows"][0]
    assert (row["id"], row["gold"], [answer["score"] for answer in row["answers"]]) == ("r2", "first", [1, 0])
    assert row["prompt"] == [{"role": "user", "content": "Question r2"}]
    assert "'skip' is 'x'; expected a number" in error_of(
        client.get("/api/compare", params=query | {"skip": "x"})
    )
    assert "no finished evaluation 'done/none'" in error_of(
        client.get("/api/compare", params=query | {"second": "done/none"})
    )


def test_a_report_that_is_not_there_yet(client: TestClient, root: Path):
    (root / "runs/done/report.json").unlink()
    assert "the run 'done' has no report yet" in error_of(client.get("/api/runs/done/report.json"))


@pytest.mark.parametrize("body", [b"[1]", b"{", b"\xff", b'"x"'])
def test_a_body_that_is_no_object_is_refused(client: TestClient, body: bytes):
    assert "not a JSON object" in error_of(client.post("/api/recipe", content=body))


def test_a_body_that_is_too_large_is_refused(client: TestClient):
    assert "larger than 1,048,576 bytes" in error_of(client.post("/api/recipe", content=b" " * (2**20 + 1)))


def test_a_full_disk_is_said(client: TestClient, monkeypatch: pytest.MonkeyPatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", "/somewhere/private/recipe.toml")

    monkeypatch.setattr(workspace_module, "write_text", full)
    answer = client.post("/api/recipe/plan", json={"toml": RECIPE})
    assert (answer.status_code, answer.json()) == (500, {"error": "recipe.toml: no space left on device"})


def test_a_run_that_was_started_elsewhere_is_interrupted(client: TestClient, root: Path):
    assert "the run 'done' is not going on" in error_of(client.post("/api/runs/done/stop", json={}))
    script = (
        "import sys, time\nfrom pathlib import Path\nfrom smidgen.runs import Run\n"
        "with Run(Path(sys.argv[1])).lock():\n print('up', flush=True)\n time.sleep(60)"
    )
    words = [sys.executable, "-c", script, str(root / "runs/done")]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None and process.stdout.readline() == b"up\n"
        assert client.get("/api/runs/done").json()["state"] == "running"
        assert client.post("/api/runs/done/stop", json={}).status_code == 202
        assert process.wait(20) == -signal.SIGINT
    assert client.get("/api/runs/done").json()["state"] == "done"


def test_two_pages_start_a_run_once(root: Path):
    """Both requests are there before the first of them has a process."""

    async def work() -> list[int]:
        studio = Studio(Workspace(root), Jobs(root, PROGRAM))
        text = RECIPE.replace("made", "slow")

        async def start() -> int:
            async def receive() -> Message:
                return {"type": "http.request", "body": json.dumps({"toml": text}).encode()}

            try:
                return (await studio.run_recipe(Request({"type": "http"}, receive))).status_code
            except ConfigError as error:
                assert "the run 'slow' is going on" in str(error)
                return 400

        found = await asyncio.gather(start(), start())
        await studio.jobs.close()
        return sorted(found)

    assert asyncio.run(work()) == [201, 400]


def test_a_question_ends_with_its_request(root: Path):
    async def work() -> list[str]:
        jobs = Jobs(root, PROGRAM)
        studio = Studio(Workspace(root), jobs)
        messages = [{"type": "http.request", "body": b'{"toml": ""}'}]

        async def receive() -> Message:
            if messages:
                return messages.pop()
            while not jobs.all():
                await asyncio.sleep(0.01)
            return {"type": "http.disconnect"}

        scope = {"type": "http", "path_params": {"kind": "plan"}}
        jobs._program = (sys.executable, "-c", "import time; time.sleep(60)")
        await studio.about_recipe(Request(scope, receive))
        return [job.state for job in jobs.all()]

    assert asyncio.run(work()) == ["stopped"]


@pytest.mark.parametrize("damage", ["{", "[]", "\xff"])
def test_a_damaged_run_hides_no_other(client: TestClient, root: Path, damage: str):
    folder = make_run(root, "damaged", {})
    (folder / "config.toml").write_text('name = 3\ntrain = "odd"\nmodel = 1\nsettings = []\n')
    (folder / "provenance.json").write_bytes(damage.encode("latin-1"))
    runs = {run["name"]: run["state"] for run in client.get("/api/workspace").json()["runs"]}
    assert runs == {"done": "done", "damaged": "stopped"}


def test_links_out_of_a_run_are_not_read(client: TestClient, root: Path):
    (root / "runs/done/report.json").unlink()
    (root / "runs/done/report.json").symlink_to(root.parent / "secret.jsonl")
    (root / "runs/done/metrics.jsonl").unlink()
    (root / "runs/done/metrics.jsonl").symlink_to(root.parent / "secret.jsonl")
    assert "report.json of the run 'done' is a link out" in error_of(client.get("/api/runs/done/report.json"))
    assert "metrics.jsonl of the run 'done' is a link out" in error_of(client.get("/api/runs/done/events"))
