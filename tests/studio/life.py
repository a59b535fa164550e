"""A studio process and a page of a headless Chromium, for the tests that click."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SIZES = (1280, 390)
SCHEMES = ("light", "dark")
GRAVE = ("serious", "critical")
SHOTS = "SMIDGEN_STUDIO_SCREENSHOTS"
"""Environment variable with a folder for the screenshots, to look at them."""


@contextmanager
def started_studio(root: Path) -> Iterator[str]:
    """Start `smidgen studio` on a folder and yield the address that it prints."""
    words = [sys.executable, "-m", "smidgen", "studio", str(root), "--port", "0", "--no-open"]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        line = process.stderr.readline()
        assert "http://127.0.0.1:" in line, line + process.stderr.read()
        yield line[line.index("http") :].strip()
    finally:
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    assert not said, said


def write_pairs(path: Path, *, train: int, test: int) -> None:
    """Pairs of answers to sums, of which one is right."""
    rng, rows = random.Random(0), []
    sums = rng.sample([(a, b) for a in range(2, 60) for b in range(2, 30)], train + test)
    for number, (a, b) in enumerate(sums):
        right, wrong = f"{a} + {b} = {a + b}.", f"{a} + {b} = {a + b + rng.choice((-3, -2, -1, 1, 2, 10))}."
        better = rng.choice("ab")
        answers = {"a": right, "b": wrong} if better == "a" else {"a": wrong, "b": right}
        split = "train" if number < train else "test"
        row = {
            "id": f"sum-{number}",
            "prompt": f"What is {a} + {b}?",
            **answers,
            "better": better,
            "split": split,
        }
        rows.append(row)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


class Eyes:
    """Screenshots of a page in both sizes and schemes, and what axe finds in each."""

    def __init__(self, page: Any, folder: Path) -> None:
        from axe_playwright_python.sync_playwright import Axe

        self.page, self.folder = page, Path(os.environ.get(SHOTS, folder))
        self.folder.mkdir(parents=True, exist_ok=True)
        self._axe = Axe()
        self.faults: list[str] = []
        self.seconds = 0.0

    def look(self, name: str, *, sizes: tuple[int, ...] = SIZES) -> None:
        """Take the screenshots of a state, and note overflow, grave findings and the time taken."""
        begun = time.monotonic()
        for scheme in SCHEMES:
            self.page.emulate_media(color_scheme=scheme)
            for width in sizes:
                self.page.set_viewport_size({"width": width, "height": 900})
                self.page.screenshot(path=self.folder / f"{name}-{width}-{scheme}.png", full_page=True)
                over = self.page.evaluate("document.documentElement.scrollWidth - innerWidth")
                self.faults += [f"{name} at {width} px is {over} px too wide"] if over > 0 else []
            found = self._axe.run(self.page, options={"iframes": False}).response["violations"]
            self.faults += [
                f"{name} {scheme}: {fault['impact']} {fault['id']}: {fault['nodes'][0]['html'][:200]}"
                for fault in found
                if fault["impact"] in GRAVE
            ]
        self.page.emulate_media(color_scheme="light")
        self.page.set_viewport_size({"width": 1280, "height": 900})
        self.seconds += time.monotonic() - begun


@contextmanager
def opened_page(address: str) -> Iterator[Any]:
    """Open a page of the studio; anything that its console complains about fails the test."""
    from playwright.sync_api import sync_playwright

    complaints: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        context = browser.new_context(viewport={"width": 1280, "height": 900}, reduced_motion="reduce")
        page = context.new_page()
        page.set_default_timeout(90_000)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on(
            "console",
            lambda message: (
                complaints.append(message.text)
                if message.type in ("error", "warning") and "status of 400" not in message.text
                else None
            ),
        )
        page.goto(address)
        yield page
        browser.close()
    assert not complaints, complaints


def wait_until(what: Any, seconds: float = 120.0) -> Any:
    """Ask until the answer is true."""
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.2)
    return found
