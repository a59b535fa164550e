"""The class `Judge`; see `smidgen.judge`."""

import time
from collections.abc import Generator, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import NamedTuple, Self, TypeVar

from smidgen.data.types import UNANSWERED, Completion, Request, Sample
from smidgen.errors import ConfigError, DataError
from smidgen.evaluation.candidates import check_times
from smidgen.inference import Engine, engine_identity, open_engine
from smidgen.inference.sampling import check_sampling
from smidgen.judge.results import Compared, Graded, Piece, Ranked, Said
from smidgen.judge.row_judgements import PairSamples, RowJudgements, Rows, sample_pairs
from smidgen.options import EngineOptions, JudgeOptions, RowOptions, SamplingOptions
from smidgen.tasks.judge import JudgeTask
from smidgen.tasks.judge.forms import Case, JudgeParseError, JudgeTemplate, Verdict
from smidgen.tasks.judge.judgements import ORDERS, side
from smidgen.tasks.judge.outcome import outcome
from smidgen.tasks.judge.ranking import rank
from smidgen.tasks.judge.rubric import Rubric
from smidgen.tasks.templates import find_form

Found = TypeVar("Found")


class Answers(NamedTuple):
    """The completions of requests, in their order, and the seconds that they took together."""

    completions: list[Completion]
    seconds: float


Judging = Generator[list[Request], Answers, Found]
"""Work of a judge without its engine: it yields requests once, is sent their answers, and returns."""


class Judge:
    """A model with a judge template and sampling settings.

    `comparing`, `grading` and `ranking` are for callers who have an engine of their own, such as a server:
    `requests = next(work)`, then `work.send(answers)` raises StopIteration with the result.
    """

    def __init__(
        self,
        engine: EngineOptions | str = EngineOptions(),
        judging: JudgeOptions = JudgeOptions(),
        sampling: SamplingOptions = SamplingOptions(),
    ):
        """Create a judge; its model is loaded on first use.

        Args:
            engine: the model and its engine; a string is the name of the model.
            judging: the template, its rubric, and the number of samples per order.
            sampling: maximum length and sampling settings.

        Raises:
            ConfigError: a setting is out of range, the template is unknown, or all samples would be equal.
        """
        check_times(judging.samples, sampling.temperature)
        self.form: JudgeTemplate = find_form(judging.template or Rubric.name, rubric=judging.rubric)
        self._options = EngineOptions(engine) if isinstance(engine, str) else engine
        self._judging = judging
        self._task_sampling = sampling.sampling()  # tasks add the template's stop strings themselves
        self._sampling = replace(
            self._task_sampling,
            stop=(*self._task_sampling.stop, *self.form.stop),
            stop_after=(*self._task_sampling.stop_after, *self.form.stop_after),
        )
        check_sampling(self._sampling)
        self._opened: Engine | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the model."""
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    def _engine(self) -> Engine:
        if self._opened is None:
            self._opened = open_engine(self._options)
        return self._opened

    def compare(self, prompt: str, a: str, b: str, *, reference: str | None = None) -> Compared:
        """Compare two answers.

        Raises:
            ConfigError: the template grades single answers.
            DataError: the prompt is empty or does not fit the model's context.
        """
        return self._answered(self.comparing(prompt, a, b, reference=reference))

    def comparing(self, prompt: str, a: str, b: str, *, reference: str | None = None) -> Judging[Compared]:
        """Compare two answers without an engine; see the class, and `compare` for what it raises."""
        return (yield from self._comparing(prompt, [(a, b)], reference))[0]

    def stream(
        self, prompt: str, a: str, b: str, *, reference: str | None = None
    ) -> Generator[Piece, None, Compared]:
        """Compare two answers, one judgement after the other, and yield each as it is generated.

        The judgements are those of `compare`, which generates them together and is faster.

        Raises:
            ConfigError: the template grades single answers.
            DataError: the prompt is empty or does not fit the model's context.
        """
        work = self.comparing(prompt, a, b, reference=reference)
        requests, engine = next(work), self._engine()
        started, completions = time.perf_counter(), list[Completion]()
        for request in requests:
            stream = engine.stream(request)
            for text in stream:
                yield piece_of(request, text)
            assert stream.completion is not None
            completions.append(stream.completion)
        return finished(work, Answers(completions, time.perf_counter() - started))

    def grade(self, prompt: str, answer: str, *, reference: str | None = None) -> Graded:
        """Grade one answer.

        Raises:
            ConfigError: the template compares answers.
            DataError: the prompt is empty or does not fit the model's context.
        """
        return self._answered(self.grading(prompt, answer, reference=reference))

    def grading(self, prompt: str, answer: str, *, reference: str | None = None) -> Judging[Graded]:
        """Grade one answer without an engine; see the class, and `grade` for what it raises."""
        if not self.form.singly:
            raise ConfigError(f"the template {self.form.name} compares two answers; use grade to grade one")
        if self.form.needs_reference and not reference:
            raise DataError(f"the template {self.form.name} requires a reference answer; pass a reference")
        case = Case(_checked(prompt), answer, None, reference)
        texts, seconds = yield from self._asking({f"grade#{k}": case for k in range(self._judging.samples)})
        grades = [self._read(completion.text)[0] for completion in texts.values()]
        known = [grade for grade in grades if isinstance(grade, float)]
        return Graded(
            grade=sum(known) / len(known) if known else None,
            grades=tuple(grade if isinstance(grade, float) else None for grade in grades),
            texts=tuple(completion.text for completion in texts.values()),
            tokens=sum(map(_tokens, texts.values())),
            seconds=seconds,
        )

    def rank(self, prompt: str, answers: Sequence[str], *, reference: str | None = None) -> Ranked:
        """Compare all pairs of several answers and fit their strengths.

        Raises:
            ConfigError: the template grades single answers.
            DataError: there are fewer than two answers, or a prompt does not fit the model's context.
        """
        return self._answered(self.ranking(prompt, answers, reference=reference))

    def ranking(
        self, prompt: str, answers: Sequence[str], *, reference: str | None = None
    ) -> Judging[Ranked]:
        """Rank answers without an engine; see the class, and `rank` for what it raises."""
        if len(answers) < 2:
            raise DataError(f"the number of answers to rank is {len(answers)}; expected two or more")
        pairs = list(combinations(range(len(answers)), 2))
        shown = [(answers[i], answers[j]) for i, j in pairs]
        compared = yield from self._comparing(prompt, shown, reference)
        points = {"a": 1.0, "b": 0.0, "tie": 0.5}
        results = []
        for (i, j), found in zip(pairs, compared, strict=True):
            # The judgements of one pair are not independent, so they count as one result.
            shares = [points[said.verdict] for said in found.said if said.verdict is not None]
            if shares:
                results.append((i, j, sum(shares) / len(shares)))
        return Ranked(
            places=tuple(rank(len(answers), results)),
            comparisons=tuple((i, j, found) for (i, j), found in zip(pairs, compared, strict=True)),
            tokens=sum(found.tokens for found in compared),
            seconds=compared[0].seconds,
        )

    def judge_rows(self, rows: Rows, out: Path | str, selection: RowOptions = RowOptions()) -> RowJudgements:
        """Judge pairs from a file or a list of rows in any known format; labels are not needed.

        The result is an iterator over judgements, each of which is written to disk before it is returned;
        `verdicts` finishes the remaining ones and aggregates them. After an interruption, the same call
        resumes.

        Args:
            rows: the file, or the rows.
            out: the file of judgements; resumes if it exists.
            selection: which rows to use.

        Raises:
            ConfigError: the template grades single answers, or requires a reference and is given none.
            DataError: the rows cannot be read, or `out` has the records of another evaluation.
            ModelError: the model cannot be loaded.
        """
        return self.judge_pairs(sample_pairs(self.task, rows, selection, self._judging.samples), Path(out))

    def judge_pairs(self, pairs: PairSamples, out: Path) -> RowJudgements:
        """Judge pairs whose samples were made by `sample_pairs`; otherwise as `judge_rows`."""
        identity = engine_identity(self._options)
        return RowJudgements(self.task, pairs, self._engine(), self._task_sampling, out, identity=identity)

    @property
    def task(self) -> JudgeTask:
        """The task with the judge's template.

        Raises:
            ConfigError: the template requires a reference and is given none.
        """
        return JudgeTask(self.form, reference=self._judging.reference)

    def _comparing(
        self, prompt: str, pairs: Sequence[tuple[str, str]], reference: str | None
    ) -> Judging[list[Compared]]:
        """Compare several pairs of answers to one prompt in one batch."""
        if self.form.singly:
            raise ConfigError(
                f"the template {self.form.name} grades single answers; compare with rubric, scores or verdict"
            )
        shown = {
            f"{index}#{order}#{k}": Case(_checked(prompt), *((a, b) if order == "ab" else (b, a)), reference)
            for index, (a, b) in enumerate(pairs)
            for order in ORDERS
            for k in range(self._judging.samples)
        }
        texts, seconds = yield from self._asking(shown)
        compared = []
        for index in range(len(pairs)):
            own = {name: text for name, text in texts.items() if name.startswith(f"{index}#")}
            judged = [self._judgement(name.split("#")[1], completion) for name, completion in own.items()]
            together = outcome([(judgement.order, verdict) for judgement, verdict in judged])
            tokens = sum(map(_tokens, own.values()))
            said = tuple(judgement for judgement, _ in judged)
            compared.append(Compared(**vars(together), said=said, tokens=tokens, seconds=seconds))
        return compared

    def _judgement(self, order: str, completion: Completion) -> tuple[Said, Verdict | None]:
        """Parse one judgement; also return its verdict in the order shown."""
        verdict, fault = self._read(completion.text)
        if not isinstance(verdict, Verdict):
            return Said(order, None, None, completion.text, fault), None
        scores = outcome([(order, verdict)]).scores
        return Said(order, side(verdict, order), scores, completion.text), verdict

    def _read(self, text: str) -> tuple[Verdict | float | None, str]:
        try:
            return self.form.parse(text), ""
        except JudgeParseError as error:
            return None, str(error)

    def _asking(self, cases: dict[str, Case]) -> Judging[tuple[dict[str, Completion], float]]:
        """Get the completions of cases, by name, in the order of the cases, and the seconds they took."""
        requests = [
            Request(Sample(name, self.form.messages(case)), self._sampling, logprobs=False)
            for name, case in cases.items()
        ]
        answers = yield requests
        for completion in answers.completions:
            if why := UNANSWERED.get(completion.finish_reason):
                raise DataError(f"no judgement: {why}; change the prompt or the answers")
        return dict(zip(cases, answers.completions, strict=True)), answers.seconds

    def _answered(self, work: Judging[Found]) -> Found:
        """Let the engine answer the requests of a judging; return its result."""
        requests = next(work)
        engine = self._engine()  # loaded before the clock starts
        started = time.perf_counter()
        found = {request.sample.id: completion for request, completion in engine.complete(requests)}
        completions = [found[request.sample.id] for request in requests]
        return finished(work, Answers(completions, time.perf_counter() - started))


def piece_of(request: Request, text: str) -> Piece:
    """Return a piece of the judgement that a request of `Judge.comparing` asks for."""
    return Piece(request.sample.id.split("#")[1], text)


def finished(work: Judging[Found], answers: Answers) -> Found:
    """Hand a judging its answers; return its result, or raise as the judging does."""
    try:
        work.send(answers)
    except StopIteration as done:
        return done.value
    raise AssertionError("a judging asks once")


def _checked(prompt: str) -> str:
    if not prompt.strip():
        raise DataError("the prompt is empty; expected the question that the answers respond to")
    return prompt


def _tokens(completion: Completion) -> int:
    timing = completion.timing
    return timing.prompt_tokens + timing.completion_tokens if timing else 0
