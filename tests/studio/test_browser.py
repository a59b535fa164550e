"""The studio in a real browser: the whole life of a judge by clicks, every state, the keyboard, refusals."""

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
from tests.studio import life
from tests.studio.conftest import make_run, write_lines

pytest.importorskip("playwright", reason="playwright drives the browser")
pytest.importorskip("axe_playwright_python", reason="axe looks for what hinders people")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(life.CHROMIUM is None, reason="there is no Chromium on this machine"),
]
MOST_SECONDS = 360
"""For everything but screenshots and the search for hindrances, which no user waits for."""


def go(page: Any, step: str) -> None:
    page.get_by_role("navigation", name="Steps").get_by_role("link", name=re.compile(f"^{step}")).click()
    page.get_by_role("heading", level=1, name=step).wait_for()


def test_the_whole_life_of_a_judge_by_clicks(tmp_path: Path):
    begun = time.monotonic()
    root = tmp_path / "my judge"
    root.mkdir()
    life.write_pairs(tmp_path / "sums.jsonl", train=48, test=12)
    with life.started_studio(root) as address, life.opened_page(address) as page:
        eyes = life.Eyes(page, tmp_path / "shots")
        assert "token" not in page.url
        _data(page, eyes, tmp_path / "sums.jsonl")
        _recipe(page, eyes)
        _run(page, eyes, root / "runs" / "sums")
        _report(page, eyes)
        _compare(page, eyes)
        _play(page, eyes)
        _export(page, eyes, root)
        assert not eyes.faults, "\n".join(eyes.faults)
    seconds = time.monotonic() - begun - eyes.seconds
    print(f"the whole life took {seconds:.0f} s, and looking at it {eyes.seconds:.0f} s")
    assert seconds < MOST_SECONDS


def _data(page: Any, eyes: life.Eyes, file: Path) -> None:
    page.get_by_label("Drop a file of rows here").set_input_files(file)
    page.get_by_text("48 training and 12 test rows checked").wait_for()
    page.get_by_label("Task that reads the rows").select_option("judge")
    page.locator(".mask .learned").nth(1).wait_for()
    assert "[[" in page.locator(".mask pre .learned").first.inner_text()
    eyes.look("data-done")


def _recipe(page: Any, eyes: life.Eyes) -> None:
    page.get_by_role("link", name="Go on to the recipe").click()
    page.get_by_label("Name", exact=True).fill("sums")
    page.get_by_label("Epochs").fill("3")
    text = page.get_by_label("As TOML")
    life.wait_until(lambda: "epochs = 3" in text.input_value() and 'name = "sums"' in text.input_value())
    assert 'train = "sums.jsonl"' in text.input_value() and 'template = "verdict"' in text.input_value()
    page.get_by_role("term").filter(has_text="Memory").wait_for()
    eyes.look("recipe-done")
    page.get_by_label("Epochs").fill("-1")
    page.get_by_role("alert").filter(has_text="'train.epochs' is -1").wait_for()
    assert page.get_by_role("button", name="Start the run").is_disabled()
    eyes.look("recipe-failed")
    page.get_by_label("Epochs").fill("3")
    life.wait_until(page.get_by_role("button", name="Start the run").is_enabled)


def _run(page: Any, eyes: life.Eyes, folder: Path) -> None:
    page.get_by_role("button", name="Start the run").click()
    page.get_by_role("heading", level=2, name="sums").wait_for()
    page.get_by_role("img", name=re.compile("^Loss: ")).wait_for()
    life.wait_until(lambda: (folder / "checkpoints").is_dir() and any((folder / "checkpoints").iterdir()))
    eyes.look("run-running")
    page.get_by_role("button", name="Stop").click()
    page.get_by_text("It goes on from its last checkpoint").wait_for()
    before = [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert not (folder / "report.json").exists()
    eyes.look("run-stopped")
    page.get_by_role("button", name="Resume").click()
    page.locator(".state.done").wait_for(timeout=180_000)
    steps = [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, len(steps) + 1)) and len(steps) > max(before)
    page.locator(".chart svg").first.hover()
    assert page.locator(".readout").first.inner_text().startswith("step ")
    eyes.look("run-done")


def _report(page: Any, eyes: life.Eyes) -> None:
    page.get_by_role("link", name="Report", exact=True).click()
    frame = page.frame_locator("iframe")
    frame.get_by_text("held-out pairs asked in both orders").first.wait_for()
    eyes.look("report-done")
    page.get_by_role("tab", name="Evidence").click()
    page.get_by_role("img", name=re.compile("^Position bias")).wait_for()
    eyes.look("evidence-done")


def _compare(page: Any, eyes: life.Eyes) -> None:
    go(page, "Compare")
    page.get_by_label("First", exact=True).select_option("sums/before")
    page.get_by_label("Second", exact=True).select_option("sums/after")
    page.get_by_role("cell", name="Accuracy", exact=True).or_(
        page.get_by_role("rowheader", name="Accuracy", exact=True)
    ).first.wait_for()
    tabs = page.get_by_role("tab").all_inner_texts()
    assert [tab.split(" (")[0] for tab in tabs] == [
        "Became wrong",
        "Became right",
        "Wrong in both",
        "Right in both",
    ]
    assert sum(int(tab.split("(")[1].rstrip(")")) for tab in tabs) == 24
    fullest = max(range(4), key=lambda i: int(tabs[i].split("(")[1].rstrip(")")))
    page.get_by_role("tab").nth(fullest).click()
    page.locator("article.card").first.wait_for()
    eyes.look("compare-done")


def _play(page: Any, eyes: life.Eyes) -> None:
    go(page, "Try it")
    page.get_by_label("Question").fill("What is 20 + 7?")
    page.get_by_label("Answer A").fill("20 + 7 = 27.")
    page.get_by_label("Answer B").fill("20 + 7 = 30.")
    page.get_by_role("button", name="Judge in both orders").click()
    page.locator(".verdict").wait_for()
    assert all("[[" in text for text in page.locator(".said pre").all_inner_texts())
    eyes.look("judge-done")
    page.get_by_role("tab", name="Route").click()
    page.get_by_role("button", name="Route it").click()
    page.get_by_role("heading", name="Journal").wait_for()
    page.get_by_role("cell", name="received").wait_for()
    eyes.look("route-done")
    page.get_by_role("tab", name="Chat").click()
    for number, question in enumerate(("What is 20 + 7?", "And one more?"), start=1):
        page.get_by_label("Message").fill(question)
        page.get_by_role("button", name="Ask both").click()
        life.wait_until(page.get_by_role("button", name="Ask both").is_enabled)
        assert page.locator(".talk > li").count() == number
    assert len([text for text in page.locator(".said pre").all_inner_texts() if text.strip()]) == 4
    eyes.look("chat-done")


def _export(page: Any, eyes: life.Eyes, root: Path) -> None:
    go(page, "Export")
    for title, folder in (("PEFT adapter", "sums-peft"), ("GGUF, 8 bits", "sums-gguf-q8")):
        page.get_by_role("button", name=f"Export {title}").click()
        page.locator(".option").filter(has_text=title).locator(".notice.good").wait_for()
        assert any((root / folder).iterdir())
    eyes.look("export-done")


def test_a_workspace_without_anything(tmp_path: Path):
    root = tmp_path / "empty"
    root.mkdir()
    with life.started_studio(root) as address, life.opened_page(address) as page:
        eyes = life.Eyes(page, tmp_path / "shots")
        said = {
            "Data": "No file of rows yet",
            "Run": "Nothing has run yet",
            "Report": "No report yet",
            "Compare": "Nothing to compare yet",
            "Export": "Nothing to export yet",
        }
        for step, sentence in said.items():
            go(page, step)
            page.get_by_role("heading", name=sentence).wait_for()
            eyes.look(f"{step.lower()}-empty")
        go(page, "Try it")
        eyes.look("play-empty")
        go(page, "Recipe")
        name = page.get_by_label("Name", exact=True)
        name.wait_for()
        eyes.look("recipe-empty")
        text = page.get_by_label("As TOML")
        text.fill(text.input_value().replace('"my-critic"', '"by-hand"'))
        life.wait_until(lambda: name.input_value() == "by-hand")
        page.get_by_label("How it is trained").select_option("grpo")
        page.get_by_role("spinbutton", name="Steps").wait_for()
        life.wait_until(lambda: 'method = "grpo"' in text.input_value())
        _switch_on(page, "quantize")
        life.wait_until(lambda: "[quantize]" in text.input_value())
        page.route("**/api/recipe", lambda route: (time.sleep(0.6), route.continue_()))
        page.get_by_label("Description", exact=True).fill("slow")
        _switch_on(page, "export")
        life.wait_until(lambda: "[export]" in text.input_value() and '"slow"' in text.input_value())
        page.get_by_label("Formats", exact=True).wait_for()
        assert not eyes.faults, "\n".join(eyes.faults)


def _switch_on(page: Any, table: str) -> None:
    # Not check(), which looks at the box again: by then the form may be another.
    page.locator("label.switch", has_text=f"[{table}]").get_by_role("checkbox").click()


def test_what_fails_says_the_sentence_of_the_command_line(tmp_path: Path):
    root = tmp_path / "space"
    root.mkdir()
    (root / "odd.jsonl").write_text('{"prompt": "1 + 1?", "a": "2"}\n')
    (root / "late.toml").write_text('name = "late"\ntask = "judge"\n[data]\ntrain = "odd.jsonl"\n')
    with life.started_studio(root) as address, life.opened_page(address) as page:
        eyes = life.Eyes(page, tmp_path / "shots")
        page.get_by_label("odd.jsonl").check()
        page.get_by_label("Task that reads the rows").select_option("judge")
        page.get_by_role("alert").filter(has_text="it lacks 'b' of a pair row").first.wait_for()
        life.wait_until(lambda: not page.locator(".waiting").count())
        eyes.look("data-failed")
        go(page, "Recipe")
        page.get_by_label("Start from").select_option("file:late.toml")
        page.locator(".notice.warning").filter(has_text="odd.jsonl has 1 training row").wait_for()
        eyes.look("recipe-unplanned")
        page.get_by_role("button", name="Start the run").click()
        page.locator(".state.failed").wait_for()
        assert "odd.jsonl has 1 training row; expected at least 2" in page.get_by_role("alert").inner_text()
        eyes.look("run-failed")
        assert not eyes.faults, "\n".join(eyes.faults)


def test_the_keyboard_alone_suffices(tmp_path: Path):
    root = tmp_path / "space"
    root.mkdir()
    life.write_pairs(root / "sums.jsonl", train=6, test=2)
    make_run(root, "done", {"before": [0, 1, 1], "after": [1, 0, 1]})
    with life.started_studio(root) as address, life.opened_page(address) as page:
        page.get_by_role("heading", level=1, name="Data").wait_for()
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.className") == "skip"
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.id") == "main"
        _tab_to(page, "input[type=radio]")
        page.keyboard.press("Space")
        page.get_by_text("6 training and 2 test rows checked").wait_for()
        page.keyboard.press("Control+Home")
        page.reload()
        page.get_by_role("heading", level=1, name="Data").wait_for()
        _tab_to(page, 'a[href="#compare"]')
        page.keyboard.press("Enter")
        page.get_by_role("tab", name="Became wrong (1)").wait_for()
        assert page.evaluate("document.activeElement.tagName") == "H1"
        _tab_to(page, '[role="tab"][aria-selected="true"]')
        page.keyboard.press("ArrowRight")
        assert page.evaluate("document.activeElement.textContent") == "Became right (1)"
        _tab_to(page, "summary")
        page.keyboard.press("Enter")
        assert page.locator("details[open] pre").inner_text() == "Question r0"
        page.reload()
        page.get_by_role("heading", level=1, name="Compare").wait_for()
        _tab_to(page, 'a[href="#recipe"]')
        page.keyboard.press("Enter")
        page.get_by_label("Name", exact=True).wait_for()
        _tab_to(page, "[data-path='name']")
        page.keyboard.press("Control+A")
        page.keyboard.type("typed")
        life.wait_until(lambda: 'name = "typed"' in page.get_by_label("As TOML").input_value())
        _tab_to(page, "button.primary")


def test_rewards_metrics_and_manipulations_are_drawn(tmp_path: Path):
    root = tmp_path / "space"
    root.mkdir()
    folder = make_run(root, "rewarded", {})
    steps = [
        {
            "step": n,
            "loss": 1 / n,
            "metric": n / 40 if n % 5 == 0 else None,
            "metrics": {
                "reward": n / 30,
                "reward_std": 0.1,
                "rewards/score/mean": n / 30,  # the only one that counts, and so the same as the total
                "rewards/parsed/mean": 0.5,
            },
        }
        for n in range(1, 31)
    ]
    write_lines(folder / "metrics.jsonl", steps)
    some = {"value": 0.4, "low": 0.3, "high": 0.5, "n": 24}
    facts = {name: some for name in ("flips", "benign_flips", "unparsed", "mended")}
    bins = [{"low": 0.4, "high": 0.5, "n": 9, "predicted": 0.45, "observed": 0.6}]
    after = {
        "n": 24,
        "metrics": {"accuracy": some, "prefer_first_rate": some},
        "calibration": {"n": 9, "ece": 0.15, "bins": bins},
        "attacks": {"groups": {"all": facts}, "families": {"flattery": facts, "padding": facts}},
    }
    (folder / "report.json").write_text(json.dumps({"task": "judge", "after": after}))
    with life.started_studio(root) as address, life.opened_page(address) as page:
        eyes = life.Eyes(page, tmp_path / "shots")
        go(page, "Run")
        for name in (
            "Loss: training loss 0.033",
            "Reward: reward 1.000, parsed 0.500$",
            "Metric of the task: .* 0.750",
        ):
            page.get_by_role("img", name=re.compile(name)).wait_for()
        page.get_by_role("img", name=re.compile("^Reward")).focus()
        for _ in range(3):
            page.keyboard.press("ArrowLeft")
        assert page.locator(".readout").nth(1).inner_text() == "step 28: reward 0.933, parsed 0.500"
        eyes.look("rewards-done")
        go(page, "Report")
        page.get_by_role("tab", name="Evidence").click()
        assert (
            page.get_by_role("row").filter(has_text="Flattery").inner_text().count("40.0 % (30.0 to 50.0)")
            == 4
        )
        page.get_by_role(
            "img", name=re.compile("^Calibration: after: Expected calibration error 0.150")
        ).wait_for()
        page.get_by_role("img", name=re.compile("^Position bias.*After 40 %")).wait_for()
        eyes.look("attacks-done")
        assert not eyes.faults, "\n".join(eyes.faults)


def test_dropped_rows_without_a_test_split_are_split_by_a_click(tmp_path: Path):
    root, file = tmp_path / "space", tmp_path / "sums.jsonl"
    root.mkdir()
    life.write_pairs(file, train=20, test=0)
    text = file.read_text().replace(', "split": "train"', "")
    with life.started_studio(root) as address, life.opened_page(address) as page:
        dropped = page.evaluate_handle(
            """text => {
                const transfer = new DataTransfer();
                transfer.items.add(new File([text], "sums.jsonl"));
                return transfer;
            }""",
            text,
        )
        page.locator(".drop").dispatch_event("drop", {"dataTransfer": dropped})
        page.get_by_role("button", name="Hold out a fifth of the rows").click()
        page.get_by_text("16 training and 4 test rows checked").wait_for()
        assert page.get_by_label("sums-split.jsonl").is_checked()
        assert (root / "sums.jsonl").read_text() == text


def _tab_to(page: Any, selector: str) -> None:
    """Press Tab until an element has the focus, which is to be seen."""
    for _ in range(120):
        page.keyboard.press("Tab")
        if page.evaluate("s => document.activeElement.matches(s)", selector):
            style = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
            assert style != "none", f"the focus on {selector} is not to be seen"
            return
    raise AssertionError(f"{selector} is not reached with Tab")
