"""What a task is: prompt → parse → score, what its scores add up to, and all that is particular to it.

A task never sees an engine. The same prompt, parser and metrics are therefore used on live weights, on an
exported artefact and on a recording, and training can take `score` as a reward.

`Task` is a Protocol with a default for everything but `name` and `samples`, so that a new task states only
what is its own. Whatever the rest of smidgen says of a task or does for it, it asks the task.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from smidgen.config import Section
from smidgen.data.doctor import examine_samples
from smidgen.data.types import Completion, Constraint, Record, Request, Sample, Score, Scored
from smidgen.data.world import Split
from smidgen.errors import ConfigError, ParseError
from smidgen.tasks.words import TaskWords

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Measure:
    """A metric that is the mean of one value per unit.

    Attributes:
        values: one number per unit, 0 or 1 where the metric is a rate.
        clusters: for each unit, what it shares with others (a prompt); units of one cluster are not
            independent.
        absolute: whether the metric is the absolute value of the mean.
    """

    values: Sequence[float]
    clusters: Sequence[str]
    absolute: bool = False

    def __post_init__(self) -> None:
        assert len(self.values) == len(self.clusters), (len(self.values), len(self.clusters))


@dataclass(frozen=True)
class Statistic:
    """A metric that is not a mean, such as a macro F1.

    Attributes:
        function: weights (units,) float64 → the metric, where a unit of weight k counts as k equal units;
            NaN where the metric is undefined.
        clusters: as in `Measure`, one for each unit.
    """

    function: Callable[[NDArray[np.float64]], float]
    clusters: Sequence[str]


Metric = Measure | Statistic


class Completer(Protocol):
    """What an evaluation needs of an engine."""

    def complete(self, requests: Iterable[Request]) -> Iterator[tuple[Request, Completion]]:
        """Complete requests, in finishing order."""
        ...


class Answerer(Completer, Protocol):
    """What a task may ask of an engine: completions, and log-probabilities of given continuations."""

    def score(
        self, samples: Iterable[Sample], continuations: Sequence[str], *, least_share: float = 0.0
    ) -> Iterator[tuple[Sample, Scored]]:
        """The log-probability of every token of every continuation; see `smidgen.inference.engine`."""
        ...


@dataclass(frozen=True)
class Analyses:
    """What a task finds in the records of an evaluation beyond its metrics.

    Attributes:
        facts: entries of the evaluation's JSON by name; a `Metric` in them is measured with an interval.
        files: JSON files to write beside the records, by name.
    """

    facts: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, Any] = field(default_factory=dict)


class Usage(NamedTuple):
    """The command of smidgen that a specialist is used with, as a model card shows it.

    Attributes:
        command: a subcommand.
        arguments: its options and their values, as examples.
        note: what to know of it.
    """

    command: str
    arguments: tuple[str, ...]
    note: str = ""


class ScoreTable(NamedTuple):
    """Scores of one benchmark, formatted.

    Attributes:
        title: its name.
        columns: what the numbers of each row are.
        rows: a name with its numbers; none where no score can be given.
        notes: what is missing, and why.
    """

    title: str
    columns: list[str]
    rows: list[tuple[str, list[str]]]
    notes: list[str]


class NoSettings(Section):
    """Settings of a task that has none."""


class Task(Protocol):
    """The seam between evaluation, training and what is asked of a model."""

    name: str
    """Its key in `TASKS`."""
    version: int = 1
    """Goes up when the prompt, the parser or a metric changes: records of two versions are not mixed."""
    variant: str = ""
    """What else decides prompt and parser, such as a template; empty where nothing does."""
    stop: tuple[str, ...] = ()
    """Strings that end a completion and are cut off; empty where the end token does."""
    stop_after: tuple[str, ...] = ()
    """Strings that end a completion and belong to it."""
    words: TaskWords = TaskWords()
    """The words in which reports speak of it."""
    usage: Usage | None = None
    """How a model card shows a specialist for it in use; None for a plain prompt."""
    has_right_answers: bool = True
    """Whether a score of 1 means that one answer is right; grades of single answers do not."""
    settings_table: ClassVar[type[Section]] = NoSettings
    """The table `[settings]` that a recipe may give the task."""
    settings: Section = NoSettings()
    """The settings it was made with."""

    @classmethod
    def from_settings(cls, settings: Any) -> Self:
        """The task with settings of its table.

        Raises:
            ConfigError: they contradict each other.
        """
        return cls()

    @property
    def constraint(self) -> Constraint | None:
        """What a whole completion has to be, where that can be said; used only where it is asked for."""
        return None

    @property
    def methods(self) -> tuple[str, ...]:
        """How it can be evaluated: `generate`, and `logits` for scoring answers by log-probability.

        The first is the default; a recipe evaluates the trained model by the others too.
        """
        return ("generate",)

    def answer_with(self, engine: Answerer, method: str) -> Completer:
        """Whatever completes the task's requests by one of its `methods`."""
        return engine

    def prepare(self, rows: Sequence[Row], *, source: str = "rows") -> Self:
        """The task, knowing what only rows can tell it, such as its labels; give it every row there is."""
        return self

    def samples(
        self, rows: Sequence[Row], *, source: str = "rows", rejected: list[str] | None = None
    ) -> list[Sample]:
        """What a model is asked.

        Args:
            rows: as `read_rows` gives them.
            source: names the rows in errors.
            rejected: takes what is wrong with each bad row; None refuses them all.
        """
        ...

    def target(self, sample: Sample) -> str:
        """The text that a model should answer to a sample.

        Raises:
            ConfigError: the task has no targets, so that nothing can be trained on it.
        """
        raise ConfigError(f"the task {self.name} has no targets to train on; choose another task")

    def training_samples(self, rows: Sequence[Row], *, source: str = "rows", seed: int = 0) -> list[Sample]:
        """The samples with targets; `seed` decides what is drawn at random, if anything is."""
        return [replace(sample, target=self.target(sample)) for sample in self.samples(rows, source=source)]

    def world_rows(self, split: Split, limit: int | None, seed: int) -> list[dict[str, Any]]:
        """Generated rows of the split `train` or `test`.

        Raises:
            ConfigError: the generated world has no rows for this task.
        """
        raise ConfigError(
            f"the world has no rows for the task '{self.name}'; name a file of rows with --data"
        )

    def examine(self, train: Sequence[Row], test: Sequence[Row]) -> list[str]:
        """What should not be believed about the rows: repeats, double labels, leaks between the two."""
        learnt, held_out = self.training_samples(train), self.training_samples(test)
        return examine_samples(learnt, held_out)

    def show(self, row: Row) -> dict[str, Any]:
        """What a report shows of a row: `prompt`, and `target` or two answers `a` and `b` with `better`."""
        (sample, *_) = self.training_samples([row])
        return {"prompt": sample.messages[-1].content, "target": sample.target}

    def parse(self, text: str) -> Any:
        """The answer in a completion's text, by default all of it without white space around it.

        Raises:
            ParseError: there is none.
        """
        if not text.strip():
            raise ParseError("the answer is empty")
        return text.strip()

    def score(self, sample: Sample, completion: Completion) -> Score:
        """What a completion is worth, by default 1 if it is the target; never raises `ParseError`."""
        try:
            said = self.parse(completion.text)
        except ParseError as error:
            return Score(0.0, None, parsed=False, explanation=str(error))
        return Score(float(said == self.target(sample)), str(said), parsed=True)

    def measures(self, records: Sequence[Record]) -> dict[str, Metric]:
        """The metrics by name, the most important first."""
        return {"accuracy": accuracy(records), "unparsed_rate": unparsed_rate(records)}

    def baselines(self, samples: Sequence[Sample]) -> dict[str, Metric]:
        """The accuracy of strategies without a model on the same samples."""
        return {}

    def details(self, records: Sequence[Record]) -> dict[str, Any]:
        """Counts that explain the metrics; JSON-serialisable."""
        return {"unparsed": unparsed_reasons(records)}

    def analyses(self, records: Sequence[Record], rows: Sequence[Row], *, model: str) -> Analyses:
        """What else the records show; `model` is named in files that are made of them."""
        return Analyses()

    @classmethod
    def score_tables(cls, report: Mapping[str, Any]) -> list[ScoreTable]:
        """Scores in the form in which benchmarks publish them, from the content of `report.json`."""
        return []

    @classmethod
    def sections(cls, report: Mapping[str, Any]) -> list[str]:
        """Sections of HTML that the report shows of this task alone, from the content of `report.json`."""
        return []

    @classmethod
    def asked(cls, report: Mapping[str, Any]) -> str | None:
        """What the accuracy was measured on, in words; None for the number of rows and their noun."""
        return None

    @classmethod
    def remarks(cls, report: Mapping[str, Any]) -> list[str]:
        """Sentences under the headline that only this task has."""
        return []


def accuracy(records: Sequence[Record]) -> Measure:
    """The mean score, each sample on its own."""
    return Measure([record.score.value for record in records], [record.sample.id for record in records])


def unparsed_rate(records: Sequence[Record]) -> Measure:
    """The share of completions that could not be read, each sample on its own."""
    return Measure(
        [float(not record.score.parsed) for record in records], [record.sample.id for record in records]
    )


def unparsed_reasons(records: Sequence[Record]) -> dict[str, int]:
    """How often the text failed to parse, by reason, the commonest first."""
    faults = Counter(record.score.explanation for record in records if not record.score.parsed)
    return dict(faults.most_common())
