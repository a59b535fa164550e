"""Commands as child processes: what they print, how they end, and how they are stopped."""

import asyncio
import os
import sys
import time
from pathlib import Path

import pytest
from tests.studio.conftest import PROGRAM

from smidgen import __version__
from smidgen.errors import DataError, WorkError
from smidgen.studio import jobs as jobs_module
from smidgen.studio.jobs import Job, Jobs

STUBBORN = """
import signal, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
print("up", flush=True)
time.sleep(60)
"""
FAMILY = (
    "import subprocess, sys, time; print(subprocess.Popen(['sleep', '60']).pid, flush=True); time.sleep(60)"
)


async def stopped(jobs: Jobs, kind: str) -> Job:
    """Start the command, and stop it once it has said something."""
    job = await jobs.start(kind, "x", [])
    async for _ in job.follow():
        break
    jobs.stop(job)
    return await job.finished()


def test_a_command_ends_with_its_result(tmp_path: Path):
    async def work() -> Job:
        return await Jobs(tmp_path, PROGRAM).ask("plan", "x", ["plan", "$(x); `y` --z"])

    job = asyncio.run(work())
    assert (job.state, job.code, job.error) == ("done", 0, None)
    assert job.result == {"words": ["plan", "$(x); `y` --z"], "folder": str(tmp_path)}


def test_a_failed_command_says_its_own_sentence(tmp_path: Path):
    async def work(words: list[str]) -> Job:
        return await Jobs(tmp_path, PROGRAM).ask("plan", "x", words)

    job = asyncio.run(work(["bad"]))
    assert (job.state, job.code, job.result) == ("failed", 2, None)
    assert job.error == "the rows are bad; mend them"


def test_a_command_that_dies_without_a_sentence_is_said_to(tmp_path: Path):
    async def work() -> Job:
        return await Jobs(tmp_path, (sys.executable, "-c", "import os; os._exit(9)")).ask("plan", "x", [])

    assert asyncio.run(work()).error == "smidgen plan ended with the exit code 9: it printed nothing"


def test_followers_see_everything_once(tmp_path: Path):
    script = (
        "import sys\nfor i in range(50): print(i, flush=True); print('e', i, file=sys.stderr, flush=True)"
    )

    async def work() -> tuple[Job, list[list[dict]]]:
        job = await Jobs(tmp_path, (sys.executable, "-c", script)).start("run", "x", [])

        async def follow() -> list[dict]:
            return [event async for event in job.follow()]

        early = asyncio.create_task(follow())
        await job.finished()
        return job, [await early, await follow()]

    job, seen = asyncio.run(work())
    for events in seen:
        assert "".join(event.get("output", "") for event in events) == job.output
        assert [line for event in events for line in event.get("lines", ())] == [f"e {i}" for i in range(50)]
        assert [event["state"] for event in events if "state" in event] == ["done"]


def test_an_interrupted_command_is_stopped_not_failed(tmp_path: Path):
    async def work() -> Job:
        jobs = Jobs(tmp_path, PROGRAM)
        job = await jobs.start("run", "x", ["run", "slow"])
        async for _ in job.follow():
            break
        jobs.stop(job)
        jobs.stop(job)  # a second click changes nothing
        return await job.finished()

    job = asyncio.run(work())
    assert (job.state, job.code, job.error) == ("stopped", 130, None)


def test_what_ignores_the_interrupt_is_ended_harder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(jobs_module, "GRACE", 0.2)

    async def work() -> Job:
        jobs = Jobs(tmp_path, (sys.executable, "-c", STUBBORN))
        job = await jobs.start("run", "x", [])
        async for _ in job.follow():
            break
        await jobs.close()
        return job

    assert asyncio.run(work()).state == "stopped"


@pytest.mark.parametrize("stubborn", [False, True])
def test_a_stopped_command_leaves_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stubborn: bool
):
    """One that is interrupted cleans up by itself; after one that had to be killed, the studio does."""
    monkeypatch.setattr(jobs_module, "GRACE", 0.2 if stubborn else 20.0)
    ignore = "signal.signal(signal.SIGINT, signal.SIG_IGN)" if stubborn else "pass"
    script = (
        f"import signal, time\nfrom pathlib import Path\nfrom smidgen.files import atomic_folder\n{ignore}\n"
    )
    script += "with atomic_folder(Path('out')) as folder:\n (folder / 'w').write_text('half')\n"
    script += " print(*Path().iterdir(), flush=True)\n time.sleep(60)"

    async def work() -> Job:
        jobs = Jobs(tmp_path, (sys.executable, "-c", script))
        return await stopped(jobs, "export")

    job = asyncio.run(work())
    assert job.state == "stopped" and ".partial" in job.output
    assert not any(tmp_path.iterdir())


def test_the_children_of_a_command_end_with_it(tmp_path: Path):
    async def work() -> int:
        jobs = Jobs(tmp_path, (sys.executable, "-c", FAMILY))
        return int((await stopped(jobs, "run")).output)

    grandchild = asyncio.run(work())
    with pytest.raises(ProcessLookupError):
        for _ in range(200):
            os.kill(grandchild, 0)
            time.sleep(0.01)


def test_a_question_that_nobody_waits_for_is_ended_and_leaves_its_place(tmp_path: Path):
    async def work() -> list[str]:
        jobs = Jobs(tmp_path, PROGRAM)
        asked = [asyncio.create_task(jobs.ask("plan", "x", ["run", "slow"])) for _ in range(6)]
        while len(jobs.all()) < jobs_module.MOST_ASKED:
            await asyncio.sleep(0.02)
        for each in asked:
            each.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
        await jobs.ask("plan", "x", ["fast"])
        return [job.state for job in jobs.all()]

    assert asyncio.run(work()) == ["done", *["stopped"] * jobs_module.MOST_ASKED]


def test_a_killed_command_is_said_to_be(tmp_path: Path):
    script = "import os, sys; print('step 3', file=sys.stderr, flush=True); os.kill(os.getpid(), 9)"

    async def work() -> Job:
        return await Jobs(tmp_path, (sys.executable, "-c", script)).ask("run", "x", [])

    job = asyncio.run(work())
    assert job.state == "failed"
    assert job.error == "smidgen run was ended by the signal SIGKILL, as when memory runs out: step 3"


def test_no_module_of_the_workspace_is_imported(tmp_path: Path):
    (tmp_path / "cyclopts.py").write_text("raise SystemExit('the wrong module')")

    job = asyncio.run(Jobs(tmp_path).ask("version", "x", ["--version"]))
    assert (job.state, job.output.strip()) == ("done", __version__)


def test_old_jobs_are_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(jobs_module, "MOST_JOBS", 2)

    async def work() -> Jobs:
        jobs = Jobs(tmp_path, ("true",))
        for _ in range(4):
            await jobs.ask("plan", "x", [])
        return jobs

    jobs = asyncio.run(work())
    assert [job.id for job in jobs.all()] == ["4", "3"]
    with pytest.raises(DataError, match="there is no job '1'; the studio may have been started again"):
        jobs.find("1")


def test_a_program_that_is_missing_is_said_to_be(tmp_path: Path):
    with pytest.raises(WorkError, match="smidgen run could not be started"):
        asyncio.run(Jobs(tmp_path, ("/nowhere/smidgen",)).start("run", "x", []))
