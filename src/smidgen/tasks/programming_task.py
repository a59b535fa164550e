"""Programming problems: a problem goes in, a program comes out that is run against tests in a sandbox.

pass@k is the probability that one of k answers to a problem passes all its tests, estimated without bias from
n ≥ k answers of which c pass: 1 − C(n − c, k) / C(n, k) (Chen et al. 2021, https://arxiv.org/abs/2107.03374,
§2.1).
Intervals treat a problem as the unit, since the answers to one problem are not independent.

The answers to one problem are samples of their own, named `id#1`, `id#2`, …, so that each has its own seed.
Programs are run while others are decoded.
"""

import re
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import lru_cache
from math import comb
from typing import Any, NamedTuple, Self

from pydantic import Field

from smidgen.config import Section
from smidgen.data.examples import Example
from smidgen.data.programs import PROGRAM_FORMATS, ProgrammingProblem, programming_problems
from smidgen.data.types import Completion, Message, Record, Request, Sample, Score
from smidgen.errors import ConfigError, ParseError
from smidgen.figures.formatting import count, dig
from smidgen.tasks.measures import Measure, Metric
from smidgen.tasks.sandbox.confine import Limits
from smidgen.tasks.sandbox.pool import Program, Verdict, shared_sandbox
from smidgen.tasks.task import Answerer, Completer, Row, Task
from smidgen.tasks.thinking import without_thinking
from smidgen.tasks.words import ClaimWords, MetricWords, TaskWords

INSTRUCTION = "Answer with the complete program in one Python code block."
_FENCE = re.compile(  # possessive where a long line would be tried from every letter
    r"^[ \t]*+(`{3,}+|~{3,}+)[ \t]*+([^\s`]*+)[^\n]*+\n(.*?)(?:^[ \t]*+\1[ \t]*+$|\Z)", re.M | re.S
)
_DEFINES = re.compile(r"^[ \t]*+(?:async[ \t]+)?(?:def|class)\b", re.M)
_PYTHON = ("", "python", "python3", "py")
_PATIENCE = 4
"""Seconds by the clock per second of processor time."""
OUTCOMES = ("passed", "wrong", "error", "timeout", "unparsed")
"""What became of an answer: `wrong` failed a test, `error` raised something or ended itself."""


class CodeSettings(Section):
    """How programming problems are asked, and the limits of the programs."""

    samples: int = Field(default=1, ge=1, le=1000)
    """Number of answers per problem; more than one needs a temperature above 0, or all are equal."""
    pass_at: tuple[int, ...] = ()
    """Each k of pass@k, at most `samples`; by default 1 and `samples`."""
    instruction: str = INSTRUCTION
    """What follows each problem in its message; may be empty."""
    seconds: int = Field(default=5, ge=1, le=3600)
    """Processor time of a program with its tests, in seconds; by the clock it may take four times as long."""
    memory: int = Field(default=512, ge=128, le=1 << 20)
    """Address space of a program, in MiB."""
    unsafe: bool = False
    """Run programs even where the platform does not keep them from files, the network or other processes."""


class CodeTask(Task):
    """Programming problem → program."""

    name = "code"
    settings_table = CodeSettings
    formats = PROGRAM_FORMATS
    why_unconstrained = "its answers are programs"
    words = TaskWords(
        claim=ClaimWords("model", "solves", "problems", "problems"),
        metrics={
            "pass_at_1": MetricWords("pass@1", "an answer passes all tests", "↑"),
            **{
                f"pass_at_{k}": MetricWords(f"pass@{k}", f"one of {k} answers passes all tests", "↑")
                for k in range(2, 101)
            },
            "unparsed_rate": MetricWords("Unparsed", "no program; counted as wrong", "↓"),
        },
        limits="The results hold for problems like those of the evaluation; tests may pass wrong programs.",
    )

    def __init__(self, settings: CodeSettings | None = None) -> None:
        self.settings = self._own = settings or CodeSettings()
        seconds, memory = self._own.seconds, self._own.memory
        self._limits = Limits(seconds, _PATIENCE * seconds, memory << 20)
        if (seconds, memory) != (CodeSettings().seconds, CodeSettings().memory):
            self.variant = f"{seconds} s {memory} MiB"

    @classmethod
    def from_settings(cls, settings: CodeSettings) -> Self:
        """Create the task from its settings.

        Raises:
            ConfigError: pass@k is asked for with fewer than k answers, or with k < 1.
        """
        if (least := min(settings.pass_at, default=1)) < 1:
            raise ConfigError(f"'pass_at' contains {least}; expected numbers of answers, at least 1")
        if (most := max(settings.pass_at, default=1)) > settings.samples:
            raise ConfigError(
                f"'pass_at' contains {most}, but 'samples' is {settings.samples}; set samples to at least "
                f"{most}, or leave that number out"
            )
        return cls(settings)

    def answer_with(self, engine: Answerer, method: str) -> Completer:
        """Completions, with their programs run while others are decoded.

        Raises:
            ConfigError: the platform does not enforce the sandbox, and `unsafe` is not set.
        """
        shared_sandbox(self._limits, unsafe=self._own.unsafe).open()
        return JudgedAhead(engine, self)

    def samples(
        self, rows: Sequence[Row], *, source: str = "rows", rejected: list[str] | None = None
    ) -> list[Sample]:
        """One sample per problem and answer."""
        found = [
            self._bare(problem) for problem in programming_problems(rows, source=source, rejected=rejected)
        ]
        if self._own.samples == 1:
            return found
        numbers = range(1, self._own.samples + 1)
        return [replace(sample, id=f"{sample.id}#{number}") for sample in found for number in numbers]

    def training_samples(self, rows: Sequence[Row], *, source: str = "rows", seed: int = 0) -> list[Sample]:
        """One sample per problem, with its solution."""
        found = [self._bare(problem) for problem in programming_problems(rows, source=source)]
        return [replace(sample, target=self.target(sample)) for sample in found]

    def plain_rows(self, rows: Sequence[Row], *, source: str = "rows") -> list[tuple[str, dict[str, Any]]]:
        """The rows with the ids of their problems."""
        found = programming_problems(rows, source=source)
        return [(problem.text, {**row, "id": problem.id}) for problem, row in zip(found, rows, strict=True)]

    def target(self, sample: Sample) -> str:
        """The solution as a code block.

        Raises:
            ConfigError: there is none.
        """
        solution = sample.metadata["solution"]
        if solution is None:
            raise ConfigError(
                f"the problem '{sample.id}' has no solution to train on; add the field 'code' or "
                "'canonical_solution' to its row, or leave it out"
            )
        return f"```python\n{solution}\n```"

    def examples(
        self, rows: Sequence[Row], *, source: str = "rows", rejected: list[str] | None = None
    ) -> list[Example]:
        """The problems with their solutions, without the instruction."""
        return [
            Example(problem.id, problem.text, (problem.solution,) if problem.solution else ())
            for problem in programming_problems(rows, source=source, rejected=rejected)
        ]

    def parse(self, text: str) -> str:
        """The program in a completion: the last code block that defines something, or else the last one.

        Without a code block it is all of the completion.

        Raises:
            ParseError: there is no program.
        """
        return _found(text).code

    def score(self, sample: Sample, completion: Completion) -> Score:
        """1 if the program passes all tests of its problem.

        Raises:
            ConfigError: the platform does not enforce the sandbox, and `unsafe` is not set.
        """
        try:
            found = _found(completion.text)
        except ParseError as error:
            return Score(0.0, None, parsed=False, explanation=str(error))
        verdict = _judged(_program(sample, found.code), self._limits, self._own.unsafe)
        if verdict.outcome == "syntax" and not found.is_block:
            why = "there is no code block, and the text is not Python"
            return Score(0.0, None, parsed=False, explanation=why)
        outcome = "error" if verdict.outcome == "syntax" else verdict.outcome
        explanation = f"{outcome}: {verdict.why}" if verdict.why else outcome
        return Score(float(outcome == "passed"), found.code, parsed=True, explanation=explanation)

    def measures(self, records: Sequence[Record]) -> dict[str, Metric]:
        """pass@k for each k, and the share of completions without a program."""
        passed: dict[str, list[bool]] = {}
        for record in records:
            passed.setdefault(_problem_of(record), []).append(record.score.value == 1.0)
        found: dict[str, Metric] = {}
        for k in sorted(set(self._own.pass_at or (1, self._own.samples))):
            values = [pass_at(k, len(answers), sum(answers)) for answers in passed.values()]
            found[f"pass_at_{k}"] = Measure(values, list(passed))
        unparsed = [float(not record.score.parsed) for record in records]
        return {**found, "unparsed_rate": Measure(unparsed, [_problem_of(record) for record in records])}

    def details(self, records: Sequence[Record]) -> dict[str, Any]:
        """Numbers of answers by outcome, and of different texts."""
        outcomes = Counter(outcome_of(record.score) for record in records)
        texts = {(_problem_of(record), record.completion.text) for record in records}
        return {
            **super().details(records),
            "outcomes": {name: outcomes[name] for name in OUTCOMES},
            "different_answers": len(texts),
        }

    @classmethod
    def asked(cls, report: Mapping[str, Any]) -> str | None:
        """The number of problems, and of answers to each."""
        (first, *_) = (dig(report, "after", "metrics") or {}).values()
        answers = dig(report, "after", "settings", "samples") or 1
        held_out = "held-out " if "training" in report else ""
        each = f" with {count(answers)} answers each" if answers > 1 else ""
        return f"{count(first['n'])} {held_out}problems{each}"

    @classmethod
    def remarks(cls, report: Mapping[str, Any]) -> list[str]:
        """The outcomes of the programs, and whether sampling gave different answers."""
        outcomes, n = dig(report, "after", "details", "outcomes") or {}, dig(report, "after", "n") or 0
        parts = [f"{count(outcomes[name])} {name}" for name in OUTCOMES if outcomes.get(name)]
        found = [f"Of {count(n)} answers: {', '.join(parts)}."] if parts else []
        answers = dig(report, "after", "settings", "samples") or 1
        if answers > 1 and dig(report, "after", "details", "different_answers") == n // answers:
            found.append("All answers to a problem are equal; sample them with a temperature above 0.")
        return found

    def _bare(self, problem: ProgrammingProblem) -> Sample:
        text = f"```python\n{problem.text.strip()}\n```" if problem.entry_point else problem.text
        if problem.entry_point:
            text = f"Complete this function.\n\n{text}"
        else:
            tests = "\n".join(problem.tests)
            text = f"{text}\n\nThe program must pass these tests:\n\n```python\n{tests}\n```"
        text = f"{text}\n\n{self._own.instruction}" if self._own.instruction else text
        metadata = {
            "problem": problem.id,
            "context": problem.text if problem.entry_point else "",
            "entry_point": problem.entry_point,
            "setup": problem.setup,
            "tests": list(problem.tests),
            "names": list(problem.names),
            "solution": problem.solution,
            "subset": problem.subset,
        }
        return Sample(problem.id, (Message("user", text),), metadata=metadata)


class JudgedAhead:
    """Completes requests, and yields each once its program has been run, while others are decoded."""

    def __init__(self, engine: Completer, task: CodeTask) -> None:
        self._engine, self._task = engine, task

    def complete(self, requests: Iterable[Request]) -> Iterator[tuple[Request, Completion]]:
        """Complete requests, in the engine's order."""
        running: deque[tuple[Future[Score], Request, Completion]] = deque()
        pool = ThreadPoolExecutor()  # as many programs run at once as the sandbox has slots
        try:
            for request, completion in self._engine.complete(requests):
                running.append(
                    (pool.submit(self._task.score, request.sample, completion), request, completion)
                )
                while running and running[0][0].done():
                    yield _ended(running)
            while running:
                yield _ended(running)
        finally:
            pool.shutdown(cancel_futures=True)


def _ended(running: deque[tuple[Future[Score], Request, Completion]]) -> tuple[Request, Completion]:
    future, request, completion = running.popleft()
    future.result()  # the verdict is remembered by `_judged`
    return request, completion


def pass_at(k: int, n: int, c: int) -> float:
    """Return the unbiased estimate of pass@k from n answers of which c pass: 1 − C(n − c, k) / C(n, k)."""
    assert 1 <= k <= n and 0 <= c <= n, (k, n, c)
    return 1.0 - comb(n - c, k) / comb(n, k)


def outcome_of(score: Score) -> str:
    """Return what became of an answer: one of `OUTCOMES`."""
    return score.explanation.partition(":")[0] if score.parsed else "unparsed"


class _Found(NamedTuple):
    """A program in a text."""

    code: str
    is_block: bool


def _found(text: str) -> _Found:
    """Find the program in a completion."""
    text = without_thinking(text)
    blocks = list(_FENCE.finditer(text))
    if not blocks:
        if not text.strip():
            raise ParseError("the answer is empty")
        return _Found(text.strip("\r\n").rstrip(), is_block=False)
    programs = [block[3].rstrip().removesuffix(block[1]) for block in blocks if block[2].lower() in _PYTHON]
    if not programs:
        raise ParseError(f"its code blocks are {blocks[-1][2][:20]}, not Python")
    # After the program, models like to show how it is called.
    code = next(filter(_DEFINES.search, reversed(programs)), programs[-1])
    if not code.strip():
        raise ParseError("its last code block is empty")
    return _Found(code, is_block=True)


def _program(sample: Sample, code: str) -> Program:
    given = sample.metadata
    tests, names = tuple(given["tests"]), tuple(given["names"])
    return Program(code, tests, names, given["context"], given["entry_point"], given["setup"])


@lru_cache(maxsize=4096)
def _judged(program: Program, limits: Limits, unsafe: bool) -> Verdict:
    return shared_sandbox(limits, unsafe=unsafe).judge(program)


def _problem_of(record: Record) -> str:
    return record.sample.metadata["problem"]
