"""The judge that a program opens; see `smidgen.judge`."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Self

from smidgen.data.formats import Label
from smidgen.data.types import UNANSWERED, Completion, Request, Sample
from smidgen.errors import ConfigError, DataError
from smidgen.inference import Engine, engine_identity, open_engine
from smidgen.inference.sampling import check_sampling
from smidgen.judge.rows import RowJudgements, Rows, ask_pairs
from smidgen.options import EngineOptions, JudgeOptions, RowOptions, SamplingOptions
from smidgen.tasks.judge import JudgeTask
from smidgen.tasks.judge.forms import Case, Form, JudgeParseError, Verdict
from smidgen.tasks.judge.judgements import ORDERS, side
from smidgen.tasks.judge.outcome import Outcome, outcome
from smidgen.tasks.judge.ranking import Strength, rank
from smidgen.tasks.judge.rubric import Rubric
from smidgen.tasks.templates import find_form


@dataclass(frozen=True)
class Said:
    """One judgement: the order in which the answers were shown, the side it prefers, and its words.

    Attributes:
        order: `ab` or `ba`.
        verdict: `a`, `b`, `tie`, or None where the text did not parse.
        scores: of `a` and `b`, where the template has scores.
        text: what the judge wrote: its critique and its verdict.
        fault: why it did not parse; empty where it did.
    """

    order: str
    verdict: Label | None
    scores: tuple[float, float] | None
    text: str
    fault: str = ""


@dataclass(frozen=True)
class Compared(Outcome):
    """What all judgements of a pair come to, with each of them and their cost."""

    said: tuple[Said, ...]
    tokens: int
    seconds: float


@dataclass(frozen=True)
class Graded:
    """The grade of one answer: the mean over the samples that parsed, or None."""

    grade: float | None
    grades: tuple[float | None, ...]
    texts: tuple[str, ...]
    tokens: int
    seconds: float


@dataclass(frozen=True)
class Ranked:
    """Answers by strength, the best first, with every comparison behind it."""

    places: tuple[Strength, ...]
    comparisons: tuple[tuple[int, int, Compared], ...]
    tokens: int
    seconds: float


class Judge:
    """A model, a template, and a way of asking."""

    def __init__(
        self,
        engine: EngineOptions | str = EngineOptions(),
        judging: JudgeOptions = JudgeOptions(),
        sampling: SamplingOptions = SamplingOptions(),
    ):
        """Prepare a judge; its model is loaded when it is first asked.

        Args:
            engine: the model, and what runs it; a text is the name of the model.
            judging: the template, what it grades by, and how often every order is asked.
            sampling: how long a judgement may be, and how it is drawn.

        Raises:
            ConfigError: a setting is out of its range, the template is unknown, or samples would all be the
                same.
        """
        _check_samples(judging.samples, sampling.temperature)
        self.form: Form = find_form(judging.template or Rubric.name, rubric=judging.rubric)
        self._options = EngineOptions(engine) if isinstance(engine, str) else engine
        self._judging, self._drawn = judging, sampling.sampling()
        self._sampling = replace(
            self._drawn,
            stop=(*self._drawn.stop, *self.form.stop),
            stop_after=(*self._drawn.stop_after, *self.form.stop_after),
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
        """Say which of two answers is better.

        Raises:
            ConfigError: the template grades answers alone.
            DataError: the prompt is empty or does not fit the model's context.
        """
        return self._compare(prompt, [(a, b)], reference)[0]

    def grade(self, prompt: str, answer: str, *, reference: str | None = None) -> Graded:
        """Grade one answer alone.

        Raises:
            ConfigError: the template compares.
            DataError: the prompt is empty or does not fit the model's context.
        """
        if not self.form.singly:
            raise ConfigError(f"the template {self.form.name} compares two answers; use grade to grade one")
        if self.form.needs_reference and not reference:
            raise DataError(f"the template {self.form.name} grades beside a right answer; give a reference")
        case = Case(_asked(prompt), answer, None, reference)
        self._engine()  # loading it is not part of what the answer took
        started = time.perf_counter()
        texts = self._ask({f"grade#{k}": case for k in range(self._judging.samples)})
        grades = [self._read(completion.text)[0] for completion in texts.values()]
        known = [grade for grade in grades if isinstance(grade, float)]
        return Graded(
            grade=sum(known) / len(known) if known else None,
            grades=tuple(grade if isinstance(grade, float) else None for grade in grades),
            texts=tuple(completion.text for completion in texts.values()),
            tokens=sum(map(_tokens, texts.values())),
            seconds=time.perf_counter() - started,
        )

    def rank(self, prompt: str, answers: Sequence[str], *, reference: str | None = None) -> Ranked:
        """Compare every two of several answers and fit their strengths.

        Raises:
            ConfigError: the template grades answers alone.
            DataError: there are fewer than two answers, or a prompt does not fit.
        """
        if len(answers) < 2:
            raise DataError(f"there is {len(answers)} answer to rank; expected two or more")
        pairs = list(combinations(range(len(answers)), 2))
        self._engine()
        started = time.perf_counter()
        compared = self._compare(prompt, [(answers[i], answers[j]) for i, j in pairs], reference)
        points = {"a": 1.0, "b": 0.0, "tie": 0.5}
        results = []
        for (i, j), found in zip(pairs, compared, strict=True):
            # The judgements of one pair are not independent, so together they are one result.
            shares = [points[said.verdict] for said in found.said if said.verdict is not None]
            if shares:
                results.append((i, j, sum(shares) / len(shares)))
        return Ranked(
            places=tuple(rank(len(answers), results)),
            comparisons=tuple((i, j, found) for (i, j), found in zip(pairs, compared, strict=True)),
            tokens=sum(found.tokens for found in compared),
            seconds=time.perf_counter() - started,
        )

    def judge_rows(self, rows: Rows, out: Path | str, selection: RowOptions = RowOptions()) -> RowJudgements:
        """Judge the pairs of a file, or of rows in any known format; labels are not needed.

        The result is an iterator over judgements, each of which is on disk when it comes; `verdicts` makes
        those that are missing and sums up. After an interruption the same call goes on where the file ends.

        Args:
            rows: the file, or the rows.
            out: the file of judgements, made or resumed.
            selection: which rows are used.

        Raises:
            ConfigError: the template grades answers alone, or judges beside a right answer and is shown none.
            DataError: the rows cannot be read, or `out` holds the records of something else.
            ModelError: the model cannot be loaded.
        """
        task = JudgeTask(self.form, reference=self._judging.reference)
        asked = ask_pairs(task, rows, selection, self._judging.samples)
        identity = engine_identity(self._options)
        return RowJudgements(task, asked, self._engine(), self._drawn, Path(out), identity=identity)

    def _compare(
        self, prompt: str, pairs: Sequence[tuple[str, str]], reference: str | None
    ) -> list[Compared]:
        """Compare several pairs of answers to one prompt, all at once."""
        if self.form.singly:
            raise ConfigError(
                f"the template {self.form.name} grades one answer; use rubric, scores or verdict to compare"
            )
        shown = {
            f"{index}#{order}#{k}": Case(_asked(prompt), *((a, b) if order == "ab" else (b, a)), reference)
            for index, (a, b) in enumerate(pairs)
            for order in ORDERS
            for k in range(self._judging.samples)
        }
        self._engine()
        started = time.perf_counter()
        texts = self._ask(shown)
        seconds = time.perf_counter() - started
        found = []
        for index in range(len(pairs)):
            own = {name: text for name, text in texts.items() if name.startswith(f"{index}#")}
            said = tuple(self._said(name.split("#")[1], completion) for name, completion in own.items())
            together = outcome([(each.order, verdict) for each, verdict in said])
            tokens = sum(map(_tokens, own.values()))
            words = tuple(each for each, _ in said)
            found.append(Compared(**vars(together), said=words, tokens=tokens, seconds=seconds))
        return found

    def _said(self, order: str, completion: Completion) -> tuple[Said, Verdict | None]:
        """One judgement, and its verdict in the order shown."""
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

    def _ask(self, cases: dict[str, Case]) -> dict[str, Completion]:
        """Completions by name, in the order of the cases."""
        requests = [
            Request(Sample(name, self.form.messages(case)), self._sampling, logprobs=False)
            for name, case in cases.items()
        ]
        found = {request.sample.id: completion for request, completion in self._engine().complete(requests)}
        for completion in found.values():
            if why := UNANSWERED.get(completion.finish_reason):
                raise DataError(f"there is no judgement: {why}; change the prompt or its answers")
        return {name: found[name] for name in cases}


def _check_samples(samples: int, temperature: float) -> None:
    """Refuse a number of samples that means nothing.

    Raises:
        ConfigError: it is below 1, or greedy decoding would say the same every time.
    """
    if not isinstance(samples, int) or samples < 1:
        raise ConfigError(f"samples is {samples}; expected a whole number, 1 or more")
    if samples > 1 and temperature == 0:
        raise ConfigError(
            f"{samples} samples at temperature 0 would all say the same; set a temperature, as 0.7"
        )


def _asked(prompt: str) -> str:
    if not prompt.strip():
        raise DataError("the prompt is empty; a judge needs what was asked")
    return prompt


def _tokens(completion: Completion) -> int:
    timing = completion.timing
    return timing.prompt_tokens + timing.completion_tokens if timing else 0
