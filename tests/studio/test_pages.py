"""The studio in a real browser: several pages at once, strangers, and texts that try to be more."""

import json
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.studio import life
from tests.studio.conftest import make_run, write_lines
from tests.studio.test_browser import go
from tests.tools.source import SOURCE

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(life.CHROMIUM is None, reason="there is no Chromium on this machine"),
]


def test_three_pages_follow_one_run_and_none_waits_for_ever(tmp_path: Path):
    """Each of them plans at once, follows the run, and sees how another one stopped it."""
    root = tmp_path / "space"
    root.mkdir()
    with life.started_studio(root) as address, life.opened_page(address) as page:
        pages = [page, page.context.new_page(), page.context.new_page()]
        for each in pages:
            each.set_default_timeout(90_000)
            each.goto(address.split("?")[0] + "#recipe/critic")
        page.get_by_label("Epochs").fill("9")
        assert page.get_by_role("button", name="Start the run").is_disabled()  # until the form was read
        for each in pages:
            each.get_by_role("term").filter(has_text="Memory").wait_for()
        page.get_by_role("button", name="Start the run").click()
        page.get_by_text("Reading the recipe and the rows").wait_for()
        page.get_by_text("What it says").click()
        for each in pages[1:]:
            each.goto(address.split("?")[0] + "#run/my-critic")
            each.get_by_role("button", name="Stop").wait_for()
        page.locator(".log pre").filter(has_text="$ smidgen run my-critic.toml --json").wait_for()
        pages[2].get_by_role("button", name="Stop").click()
        for each in pages:
            each.locator(".state.stopped").wait_for()
        assert "epochs = 9" in (root / "my-critic.toml").read_text()


def test_texts_of_models_and_reports_are_no_markup(tmp_path: Path):
    root, evil = tmp_path / "space", "<img src=x onerror=\"document.title='taken'\">"
    root.mkdir()
    folder = make_run(root, "od?d #1", {"before": [1], "after": [0]})
    for path in folder.glob("evaluations/*/records.jsonl"):
        row = json.loads(path.read_text())
        write_lines(path, [{**row, "text": evil, "answer": evil, "metadata": {"subset": evil}}])
    (folder / "report.json").write_text(json.dumps({"after": {"n": 1, "metrics": {evil: {"value": 0.5}}}}))
    with life.started_studio(root) as address, life.opened_page(address) as page:
        go(page, "Compare")
        page.locator(".card pre", has_text="<img src=x").first.wait_for()
        go(page, "Run")
        page.get_by_role("link", name="Report", exact=True).last.click()
        page.get_by_role("tab", name="Evidence").click()
        page.get_by_role("tabpanel").get_by_text("document.title").first.wait_for()
        assert page.title() == "Report – smidgen studio"


def test_strangers_are_refused_by_the_running_server(tmp_path: Path):
    with life.started_studio(tmp_path) as address:
        port, token = int(address.split(":")[2].split("/")[0]), address.partition("token=")[2]

        def status(target: str, host: str = f"127.0.0.1:{port}", bearer: str = token) -> int:
            with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
                head = [f"GET {target} HTTP/1.1", f"Host: {host}", f"Authorization: Bearer {bearer}"]
                connection.sendall("\r\n".join([*head, "Connection: close", "", ""]).encode())
                return int(connection.makefile().readline().split()[1])

        assert status("/api/workspace") == 200
        assert status("/api/workspace", bearer="wrong") == 401
        assert status("/api/workspace", host="evil.example") == 421
        assert status("/static/../../cli/app.py") == 404
        assert status("/api/recipe?file=../../etc/passwd") == 400
        assert status("/api/runs/..%2f..%2fetc/report.html") in (400, 404)


CONFIG = 'name = "whole"\ntask = "judge"\n[model]\nbase = "smidgen:nano"\n'


def make_whole_run(root: Path) -> None:
    """A run that has trained a whole model: the bundled one."""
    folder = make_run(root, "whole", {})
    (folder / "config.toml").write_text(CONFIG)
    shutil.rmtree(folder / "best")
    shutil.copytree(SOURCE / "nano", folder / "best", ignore=shutil.ignore_patterns("*.py", "__pycache__"))


def going_on(command: str) -> list[psutil.Process]:
    """The commands of this name that the studio has started and that have not ended."""
    found = []
    for each in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):  # it has ended meanwhile
            found += [each] if command in each.cmdline() else []
    return found


@contextmanager
def held(command: str) -> Iterator[None]:
    """Hold the commands of this name while they are looked at."""
    found = going_on(command)
    assert found
    for each in found:
        each.suspend()
    yield
    for each in found:
        each.resume()


def said_to_screen_readers(page: Any) -> str:
    return page.locator("#announcer").inner_text()


def test_a_conversation_goes_on_after_what_was_stopped(tmp_path: Path):
    root, posted = tmp_path / "space", []
    root.mkdir()
    make_whole_run(root)
    (make_run(root, "broken", {}) / "config.toml").write_text(CONFIG)  # its adapter is empty
    with life.started_studio(root) as address, life.opened_page(address) as page:
        eyes = life.Eyes(page, tmp_path / "shots")
        go(page, "Try it")
        page.get_by_role("tab", name="Chat").click()
        page.get_by_label("Model").select_option("whole")
        asked = page.get_by_role("button", name="Ask both")
        asked.click()
        page.get_by_text("loading the model").first.wait_for()
        with held("serve"):
            eyes.look("chat-loading", sizes=(1280,))
        page.get_by_role("button", name="Stop", exact=True).press("Enter")
        page.get_by_text("it goes on without this question").first.wait_for()
        life.wait_until(asked.is_enabled)
        assert page.locator(".state.stopped").count() == 2
        life.wait_until(lambda: not going_on("serve"))  # nobody waited for the models any more
        assert said_to_screen_readers(page) == "The base: stopped, The specialist whole: stopped"
        assert page.evaluate("document.activeElement.textContent") == "Ask both"
        eyes.look("chat-stopped")
        page.on(
            "request",
            lambda request: posted.append(request.post_data_json) if "questions" in request.url else None,
        )
        for question in ("What is 20 + 7?", "And one more?"):
            page.get_by_label("Message").fill(question)
            asked.click()
            life.wait_until(asked.is_enabled)
        assert said_to_screen_readers(page) == "Both have answered"
        assert len(going_on("serve")) == 2
        eyes.look("chat-conversation")
        texts = page.locator(".talk > li").nth(1).locator("pre").all_inner_texts()
        assert [
            (each["trained"], each["messages"])
            for each in sorted(posted[2:], key=lambda each: each["trained"])
        ] == [(trained, ["What is 20 + 7?", text, "And one more?"]) for trained, text in enumerate(texts)]
        page.get_by_label("Model").select_option("broken")
        assert not page.locator(".talk > li").count()
        page.get_by_label("Message").fill("Hello")
        asked.click()
        page.get_by_role("alert").nth(1).wait_for()
        assert "specialist" in page.get_by_role("alert").first.inner_text()
        assert page.get_by_label("Message").input_value() == "Hello"  # to be asked again
        eyes.look("chat-failed")
        page.reload()
        page.get_by_role("tab", name="Chat").click()
        page.get_by_label("Model").select_option("whole")
        assert page.locator(".talk > li").nth(1).locator("pre").all_inner_texts() == texts
        page.get_by_role("button", name="New conversation").click()
        assert not page.locator(".talk > li").count()
        page.get_by_label("Message").fill("What is 20 + 7?")
        with held("serve"):
            asked.click()
            page.get_by_role("button", name="New conversation").click()
            life.wait_until(asked.is_enabled)
        page.reload()
        page.get_by_role("tab", name="Chat").click()
        assert page.get_by_label("Model").input_value() == "whole"
        assert not page.locator(".talk > li").count()
        page.get_by_label("Message").fill(" ")
        asked.click()
        page.get_by_text("The message is empty; write one.").wait_for()
        assert not eyes.faults, "\n".join(eyes.faults)


def test_questions_and_exports_are_stopped(tmp_path: Path):
    root = tmp_path / "space"
    root.mkdir()
    make_whole_run(root)
    before = sorted(root.iterdir())
    with life.started_studio(root) as address, life.opened_page(address) as page:
        eyes = life.Eyes(page, tmp_path / "shots")
        go(page, "Export")
        page.get_by_role("button", name="Export GGUF, 8 bits").click()
        page.get_by_role("button", name="Stop GGUF, 8 bits").wait_for()
        with held("export"):
            page.reload()  # which loses sight of nothing
            page.get_by_text("Writing and verifying").wait_for()
            eyes.look("export-running", sizes=(1280,))
            page.get_by_role("button", name="Stop GGUF, 8 bits").click()
        page.get_by_text("Stopped; nothing was written.").wait_for()
        assert said_to_screen_readers(page) == "GGUF, 8 bits: stopped"
        assert sorted(root.iterdir()) == before
        eyes.look("export-stopped")
        go(page, "Try it")
        page.get_by_role("button", name="Judge in both orders").click()
        page.get_by_role("button", name="Stop", exact=True).click()
        page.get_by_text("Stopped before there was a verdict.").wait_for()
        eyes.look("judge-stopped")
        page.get_by_role("tab", name="Route").click()
        page.get_by_role("button", name="Route it").click()
        page.get_by_role("button", name="Stop", exact=True).click()
        page.get_by_text("Stopped. If the text is in the journal already").wait_for()
        life.wait_until(page.get_by_role("button", name="Route it").is_enabled)
        assert not page.get_by_role("alert").count()
        eyes.look("route-stopped")
        assert not eyes.faults, "\n".join(eyes.faults)
