"""Jobs: the commands that the studio has started, each a child process in a process group of its own.

A child is started from a list of arguments, never through a shell. Whatever it prints is kept, up to a limit,
and told to everyone who follows the job. It is stopped as a terminal would stop it: an interrupt to its
group, then, if it does not end, harder signals.
"""

import asyncio
import codecs
import contextlib
import json
import os
import shlex
import signal
import sys
import time
from collections import deque
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from smidgen.errors import DataError, WorkError
from smidgen.files import sweep_partials

State = Literal["running", "done", "failed", "stopped"]
MOST_TEXT = 16_000_000
"""Characters of a child's output that are kept; only a faulty command prints more."""
MOST_LINES = 400
MOST_JOBS = 200
MOST_ASKED = 4
"""Short commands that run at a time; further ones wait."""
GRACE = 20.0
"""Seconds from one signal to the next harder one; a training writes its checkpoint in the meantime."""
VARIABLES = {"NO_COLOR": "1", "PYTHONUNBUFFERED": "1", "COLUMNS": "100"}
PROGRAM = (sys.executable, "-P", "-m", "smidgen")
"""With -P, since no module of the workspace is to be imported in place of a library's."""


@dataclass(eq=False)
class Job:
    """A command, its state and what it has printed.

    Attributes:
        id: number of the job, as text.
        kind: the name of the command, such as `run`.
        subject: what it works on, such as the name of a run.
        state: whether it runs, and how it ended.
        code: its exit code, once it has ended.
        output: the text of its standard output.
        lines: the last lines of its standard error: progress, messages and errors.
    """

    id: str
    kind: str
    subject: str
    arguments: tuple[str, ...]
    state: State = "running"
    code: int | None = None
    output: str = ""
    lines: deque[str] = field(default_factory=lambda: deque(maxlen=MOST_LINES))
    started: float = field(default_factory=time.time)
    ended: float | None = None
    process: asyncio.subprocess.Process | None = field(default=None, repr=False)
    is_stopping: bool = False
    news: asyncio.Condition = field(default_factory=asyncio.Condition, repr=False)
    number_of_lines: int = 0

    @property
    def error(self) -> str | None:
        """The sentence with which the command said what was wrong, if it failed."""
        if self.state != "failed":
            return None
        said = next((line for line in reversed(self.lines) if line.startswith("error: ")), None)
        if said is not None:
            return said.removeprefix("error: ")
        last = self.lines[-1] if self.lines else "it printed nothing"
        if self.code is not None and self.code < 0:
            name = signal.Signals(-self.code).name
            return f"smidgen {self.kind} was ended by the signal {name}, as when memory runs out: {last}"
        return f"smidgen {self.kind} ended with the exit code {self.code}: {last}"

    @property
    def result(self) -> Any:
        """What the command printed as JSON, or None if it printed something else."""
        try:
            return json.loads(self.output)
        except ValueError:
            return None

    @property
    def _printed(self) -> tuple[int, int]:
        """How many characters and lines it has printed."""
        return len(self.output), self.number_of_lines

    def summary(self) -> dict[str, Any]:
        """Return what the page shows of a job."""
        return {
            "id": self.id,
            "kind": self.kind,
            "subject": self.subject,
            "command": shlex.join(("smidgen", *self.arguments)),
            "state": self.state,
            "stopping": self.is_stopping,
            "code": self.code,
            "error": self.error,
            "started": self.started,
            "ended": self.ended,
        }

    async def finished(self) -> "Job":
        """Wait until the command has ended."""
        async with self.news:
            await self.news.wait_for(lambda: self.state != "running")
        return self

    async def follow(self) -> AsyncGenerator[dict[str, Any], None]:
        """Yield everything that the command prints, from its start, and how it ends."""
        seen_text = seen_lines = 0
        while True:
            async with self.news:
                while self.state == "running" and (seen_text, seen_lines) == self._printed:
                    await self.news.wait()
                piece, state = self.output[seen_text:], self.state
                new = min(self.number_of_lines - seen_lines, len(self.lines))
                lines = list(self.lines)[len(self.lines) - new :]
                seen_text, seen_lines = self._printed
            if piece or lines:
                yield {"output": piece, "lines": lines}
            if state != "running":
                yield self.summary()
                return


class Jobs:
    """The jobs of a workspace, in which their commands run."""

    def __init__(self, folder: Path, program: Sequence[str] = PROGRAM) -> None:
        """Keep the jobs of a folder.

        Args:
            folder: the working directory of the commands.
            program: the words before the arguments of a command.
        """
        self._folder, self._program = folder, tuple(program)
        self._jobs: dict[str, Job] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._asking = asyncio.Semaphore(MOST_ASKED)
        self._started = 0

    def all(self) -> list[Job]:
        """Return the jobs, the newest first."""
        return list(reversed(self._jobs.values()))

    def find(self, id: str) -> Job:
        """Return a job.

        Raises:
            DataError: there is none with this number.
        """
        if id not in self._jobs:
            raise DataError(f"there is no job '{id[:20]}'; the studio may have been started again since")
        return self._jobs[id]

    def running(self, kind: str, subject: str | None = None) -> Job | None:
        """Return the running job of a kind, on a subject if one is given."""
        return next(
            (
                job
                for job in self.all()
                if job.kind == kind and job.state == "running" and subject in (None, job.subject)
            ),
            None,
        )

    async def start(
        self,
        kind: str,
        subject: str,
        arguments: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
    ) -> Job:
        """Start a command, with further variables in its environment.

        Raises:
            WorkError: the system starts no further process.
        """
        self._started += 1
        job = Job(str(self._started), kind, subject, tuple(arguments))
        try:
            job.process = await asyncio.create_subprocess_exec(
                *self._program,
                *arguments,
                cwd=self._folder,
                env={**os.environ, **VARIABLES, **(environment or {})},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            raise WorkError(f"smidgen {kind} could not be started: {error}; try again") from None
        self._jobs[job.id] = job
        self._forget_old()
        task = asyncio.create_task(self._watch(job, job.process))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return job

    async def ask(self, kind: str, subject: str, arguments: Sequence[str]) -> Job:
        """Run a short command to its end; it is ended at once if this call is cancelled."""
        async with self._asking:
            job = await self.start(kind, subject, arguments)
            try:
                return await job.finished()
            except asyncio.CancelledError:
                await self._end(job, (signal.SIGKILL,))
                raise

    def stop(self, job: Job) -> None:
        """Begin to stop a job; it is stopped when its state says so."""
        if job.state == "running" and not job.is_stopping:
            job.is_stopping = True
            task = asyncio.create_task(self._end(job, (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Stop all jobs and wait until they have ended."""
        for job in self.all():
            self.stop(job)
        await asyncio.gather(*(job.finished() for job in self.all()))

    async def _end(self, job: Job, signals: Sequence[signal.Signals]) -> None:
        """Send signals to the process group of a job, one after the other, until the job has ended."""
        assert job.process is not None
        job.is_stopping = True
        for number in signals:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(job.process.pid, number)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(job.finished(), GRACE)
                return

    async def _watch(self, job: Job, process: asyncio.subprocess.Process) -> None:
        """Read what a command prints until it ends."""
        assert process.stdout is not None and process.stderr is not None
        await asyncio.gather(self._read_output(job, process.stdout), self._read_lines(job, process.stderr))
        code = await process.wait()
        if code < 0:  # it was killed, and could not clean up by itself
            with contextlib.suppress(OSError):
                await asyncio.to_thread(sweep_partials, self._folder, process.pid)
        async with job.news:
            job.code, job.ended = code, time.time()
            if job.is_stopping and code:
                job.state = "stopped"
            else:
                job.state = "done" if code == 0 else "failed"
            job.news.notify_all()

    async def _read_output(self, job: Job, stream: asyncio.StreamReader) -> None:
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        while chunk := await stream.read(1 << 16):
            async with job.news:
                if len(job.output) < MOST_TEXT:
                    job.output += decoder.decode(chunk)
                job.news.notify_all()

    async def _read_lines(self, job: Job, stream: asyncio.StreamReader) -> None:
        decoder, rest = codecs.getincrementaldecoder("utf-8")("replace"), ""
        while chunk := await stream.read(1 << 16):
            *lines, rest = (rest + decoder.decode(chunk)).split("\n")
            await self._add_lines(job, lines)
        await self._add_lines(job, [rest] if rest else [])

    async def _add_lines(self, job: Job, lines: Sequence[str]) -> None:
        async with job.news:
            for line in lines:
                job.lines.append(line.rpartition("\r")[2][:2000])
            job.number_of_lines += len(lines)
            job.news.notify_all()

    def _forget_old(self) -> None:
        """Forget the oldest ended jobs beyond a number."""
        ended = [job.id for job in self._jobs.values() if job.state != "running"]
        for id in ended[: max(0, len(self._jobs) - MOST_JOBS)]:
            del self._jobs[id]
