"""The studio in a real browser: several pages at once, strangers, and texts that try to be more."""

import json
import socket
from pathlib import Path

import pytest
from tests.studio import life
from tests.studio.conftest import make_run, write_lines
from tests.studio.test_browser import go

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
