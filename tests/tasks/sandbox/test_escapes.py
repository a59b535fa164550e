"""Programs that try to escape the sandbox: every one fails, and costs only itself."""

import json
import os
import platform
import socket
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from tests.tasks.sandbox.escapes import ESCAPES, HARMLESS, TEST, Escape

from smidgen.tasks.sandbox.confine import Limits
from smidgen.tasks.sandbox.pool import Program, Sandbox, Verdict
from smidgen.tasks.sandbox.system_calls import allowed_calls

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="nothing enforces the sandbox here"),
    pytest.mark.slow,
]

NAIVE = """
import json, sys
def run(program, test):
    names = {"__name__": "answer"}
    exec(program, names)
    exec(test, names)
program, test = json.loads(sys.argv[1])
run(program, test)
"""
"""A program and its test in one process that ends well: how a verdict is often found."""


class Page(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(204)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        Thread(target=server.serve_forever, args=(0.01,)).start()
        yield server.server_port
        server.shutdown()


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "file").write_text("a secret")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        server.listen()
        yield tmp_path


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SMIDGEN_SECRET", "a secret")
        sandbox = Sandbox(Limits(seconds=1, wall_seconds=0.7, memory=256 << 20), slots=1)
        sandbox.open()
    yield sandbox
    sandbox.close()


def program_of(escape: Escape, folder: Path, port: int) -> str:
    """The program, for this machine."""
    if "call(" in escape.code and platform.machine() != "x86_64":
        pytest.skip("system calls of another processor")
    values = {
        "FOLDER": str(folder),
        "PORT": str(port),
        "ALLOWED_CALLS": str(allowed_calls(platform.machine())),
    }
    code = escape.code
    for name, value in values.items():
        code = code.replace(name, value)
    return code


def judged(sandbox: Sandbox, code: str, test: str = TEST) -> Verdict:
    return sandbox.judge(Program(code, (test,), ("f",)))


def state(folder: Path) -> object:
    """What a program must not change."""
    return [(path.name, path.lstat().st_mtime, path.lstat().st_mode) for path in sorted(folder.iterdir())]


def session(leader: int) -> list[int]:
    """Processes of a session, and of sessions that its members opened."""
    found = [leader]
    for entry in sorted(Path("/proc").glob("[0-9]*"), key=lambda path: int(path.name)):
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) in found or int(fields[3]) == leader:
            found.append(int(entry.name))
    return sorted(set(found))


@pytest.mark.parametrize("name", ESCAPES)
def test_an_escape_fails_and_costs_only_itself(name: str, sandbox: Sandbox, folder: Path, port: int):
    escape, before, (slot,) = ESCAPES[name], state(folder), sandbox._started
    verdict = judged(sandbox, program_of(escape, folder, port), escape.test)
    assert verdict.outcome in ("wrong", "error", "timeout", "syntax"), verdict
    assert state(folder) == before
    assert judged(sandbox, "def f(): return 4217") == Verdict("passed")
    assert judged(sandbox, "def f(): return 4218") == Verdict("wrong", TEST)
    assert sandbox._started == {slot}, "the slot had to be ended from outside"
    assert len(session(slot.process_id)) <= 3, "a process was left behind"  # the zygote, and two that wait


@pytest.mark.parametrize("name", HARMLESS)
def test_an_escape_wins_where_nothing_confines_it(name: str, folder: Path, port: int):
    assert wins(program_of(HARMLESS[name], folder, port), HARMLESS[name].test)


@pytest.mark.parametrize(("code", "is_right"), [("def f(): return 4217", True), ("def f(): return 1", False)])
def test_honest_programs(code: str, is_right: bool, sandbox: Sandbox):
    assert judged(sandbox, code).outcome == ("passed" if is_right else "wrong")
    assert wins(code, TEST) == is_right


def wins(code: str, test: str) -> bool:
    """Whether a program passes where it runs beside its test."""
    done = subprocess.run(  # noqa: PLW1510
        [sys.executable, "-S", "-c", NAIVE, json.dumps([code, test])],
        env={"SMIDGEN_SECRET": "a secret"}, stdin=subprocess.DEVNULL, capture_output=True, timeout=60,
    )  # fmt: skip
    return done.returncode == 0 or b"passed" in done.stdout


def test_there_is_no_library_file_that_a_program_wrote():
    for entry in filter(os.path.isdir, sys.path):
        assert not list(Path(entry).glob("*smidgen_mark")), entry


def test_a_program_leaves_nothing_to_the_next(sandbox: Sandbox):
    first = """
import builtins, gc, os, random, sys, time
builtins.left = sys.left = os.environ["LEFT"] = "left"
sys.modules["left"] = sys
random.seed(7)
sys.setrecursionlimit(50_000)
gc.disable()
def f(): return 4217
"""
    second = """
import builtins, gc, os, random, sys
left = [hasattr(builtins, "left"), hasattr(sys, "left"), "LEFT" in os.environ, "left" in sys.modules]
left += [sys.getrecursionlimit() > 1000, not gc.isenabled(), random.random() == random.Random(7).random()]
def f(): return 4217 if any(left) else 0
"""
    assert judged(sandbox, first) == Verdict("passed")
    assert judged(sandbox, second).outcome == "wrong"
    assert wins(first + second, TEST)


def test_programs_have_no_time_of_the_earlier_ones():
    sandbox = Sandbox(Limits(seconds=1, wall_seconds=60.0, memory=256 << 20), slots=1)
    busy = "import time\nwhile time.process_time() < 0.3: pass\ndef f(): return 4217"
    try:
        assert [judged(sandbox, busy).outcome for _ in range(4)] == ["passed"] * 4  # 1.2 s, of 1 s each
    finally:
        sandbox.close()
