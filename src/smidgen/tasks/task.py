"""The task interface: prompt → parse → score, metrics, and everything else that is specific to a task.

A task never sees an engine. So the same prompts, parser and metrics apply to live weights, to an export and
to a recording, and training can use `score` as a reward.

`Task` is a Protocol with a default for everything but `name` and `samples`, so that a new task defines only
what differs. The rest of smidgen has no task-specific code: it calls these methods.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, NamedTuple, Protocol, Self

from smidgen.config import Section
from smidgen.data.examples import Example
from smidgen.data.rows import Format
from smidgen.data.types import (
    Completion,
    Constraint,
    Continuations,
    Preference,
    Record,
    Request,
    Sample,
    Score,
    Scored,
)
from smidgen.data.world import Split
from smidgen.errors import ConfigError, ParseError
from smidgen.tasks.attacking import Attacks
from smidgen.tasks.measures import Measure, Metric
from smidgen.tasks.rewards import SCORE, GroupReward, score_reward
from smidgen.tasks.words import TaskWords
from smidgen.tasks.worse_answers import other_choice

Row = Mapping[str, Any]


class Completer(Protocol):
    """The part of an engine that an evaluation uses."""

    def complete(self, requests: Iterable[Request]) -> Iterator[tuple[Request, Completion]]:
        """Complete requests, in finishing order."""
        ...


class Answerer(Completer, Protocol):
    """The part of an engine that a task may use: completions and log-probabilities of continuations."""

    def score(
        self, samples: Iterable[Sample], continuations: Continuations, *, least_share: float = 0.0
    ) -> Iterator[tuple[Sample, Scored]]:
        """The log-probability of every token of every continuation; see `smidgen.inference.engine`."""
        ...


@dataclass(frozen=True)
class Analyses:
    """Results of a task's analysis of evaluation records, beyond its metrics.

    Attributes:
        facts: entries of the evaluation's JSON by name; a `Metric` in them is reported with an interval.
        files: JSON files to write next to the records, by name.
    """

    facts: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, Any] = field(default_factory=dict)


class Usage(NamedTuple):
    """The smidgen command to use a specialist with, for its model card.

    Attributes:
        command: a subcommand.
        arguments: example options and values.
        note: a remark on its use.
    """

    command: str
    arguments: tuple[str, ...]
    note: str = ""


class ScoreTable(NamedTuple):
    """Scores of one benchmark, formatted.

    Attributes:
        title: the name of the benchmark.
        columns: column headings.
        rows: a name and its numbers; empty if no score can be computed.
        notes: what is missing, and why.
    """

    title: str
    columns: list[str]
    rows: list[tuple[str, list[str]]]
    notes: list[str]


class NoSettings(Section):
    """Settings of a task without settings."""


class Task(Protocol):
    """The interface between evaluation, training and the definition of a task."""

    name: str
    """Its key in `TASKS`."""
    version: int = 1
    """Incremented when prompts, parser or metrics change: records of two versions are not mixed."""
    variant: str = ""
    """Identifies whatever else determines prompts and parser, such as a template; empty if nothing does."""
    stop: tuple[str, ...] = ()
    """Strings that end a completion and are removed; empty if only the end token ends it."""
    stop_after: tuple[str, ...] = ()
    """Strings that end a completion and are kept."""
    words: TaskWords = TaskWords()
    """The task's wording in reports."""
    usage: Usage | None = None
    """The usage example of model cards; None for a plain prompt."""
    needs_confidence: bool = False
    """Whether `score` reads the log-probabilities of completions."""
    has_right_answers: bool = True
    """Whether a score of 1 means that the answer is right; false for grades and for likelihoods."""
    formats: ClassVar[tuple[Format, ...]] = ()
    """The formats of rows by which its files are recognised; empty if the settings define it."""
    settings_table: ClassVar[type[Section]] = NoSettings
    """The schema of the task's table `[settings]`."""
    settings: Section = NoSettings()
    """The settings of this instance."""

    @classmethod
    def from_settings(cls, settings: Any) -> Self:
        """Create the task from validated settings.

        Raises:
            ConfigError: they contradict each other.
        """
        return cls()

    files: tuple[str, ...] = ()
    """Files besides the rows that determine its prompts."""
    why_unconstrained: str = "the task has no output constraint"
    """Why there is no `constraint`, where there is none."""
    why_no_examples: str = ""
    """Why its prompts are not asked after worked examples; empty if they can be."""

    @property
    def constraint(self) -> Constraint | None:
        """A constraint on whole completions, if every sample has the same; applied only on request."""
        return None

    def constraint_of(self, sample: Sample) -> Constraint | None:
        """The constraint on the completion of one sample; default: that of the task."""
        return self.constraint

    @property
    def attacks(self) -> Attacks | None:
        """Manipulations of its samples, if its prompts show texts that may be manipulated."""
        return None

    @property
    def methods(self) -> tuple[str, ...]:
        """Evaluation methods: `generate`, and `logits` for log-probability scoring of the possible answers.

        The first is the default; a recipe also evaluates the trained model by the others.
        """
        return ("generate",)

    def answer_with(self, engine: Answerer, method: str) -> Completer:
        """Return what completes the task's requests by one of its `methods`."""
        return engine

    def prepare(self, rows: Sequence[Row], *, source: str = "rows") -> Self:
        """Return the task with what it learns from rows, such as its labels; it needs all rows."""
        return self

    def learn(self, rows: Sequence[Row], *, source: str = "rows") -> Self:
        """Return the task with what it takes from training rows only, such as worked examples."""
        return self

    def samples(
        self, rows: Sequence[Row], *, source: str = "rows", rejected: list[str] | None = None
    ) -> list[Sample]:
        """Convert rows to samples.

        Args:
            rows: as `read_rows` returns them.
            source: names the rows in errors.
            rejected: collects the fault of each bad row, which is skipped; if None, bad rows raise.
        """
        ...

    def plain_rows(self, rows: Sequence[Row], *, source: str = "rows") -> list[tuple[str, dict[str, Any]]]:
        """The rows in the task's own format with an `id`, each with its prompt; default: as they are.

        Rows with the same prompt belong together when rows are split.
        """
        samples = self.samples(rows, source=source)
        return [
            (sample.messages[-1].content, {**row, "id": sample.id})
            for sample, row in zip(samples, rows, strict=True)
        ]

    def target(self, sample: Sample) -> str:
        """The target completion of a sample.

        Raises:
            ConfigError: the task has no targets to train on.
        """
        raise ConfigError(f"the task {self.name} has no targets to train on; choose another task")

    def training_samples(self, rows: Sequence[Row], *, source: str = "rows", seed: int = 0) -> list[Sample]:
        """The samples with targets; `seed` is for tasks that draw something at random."""
        return [replace(sample, target=self.target(sample)) for sample in self.samples(rows, source=source)]

    def training_prompts(self, rows: Sequence[Row], *, source: str = "rows", seed: int = 0) -> list[Sample]:
        """The samples to train on without targets, as in training on rewards; default: as evaluated."""
        return self.samples(rows, source=source)

    def preference(self, sample: Sample) -> Preference:
        """A training sample with an answer that is worse than its target; default: another of the choices.

        Raises:
            ConfigError: the task has no worse answers.
        """
        constraint = self.constraint_of(sample)
        return other_choice(self.name, constraint, sample, sample.target or self.target(sample))

    def world_rows(self, split: Split, limit: int | None, seed: int) -> list[dict[str, Any]]:
        """Generated rows of the split `train` or `test`.

        Raises:
            ConfigError: the generated world has no rows for this task.
        """
        raise ConfigError(
            f"there are no generated rows for the task '{self.name}'; give a file of rows with --data"
        )

    def examples(
        self, rows: Sequence[Row], *, source: str = "rows", rejected: list[str] | None = None
    ) -> list[Example]:
        """The rows as the checks of a dataset see them; arguments as in `samples`."""
        is_class = self.constraint is not None and self.constraint.kind == "choices"
        targets = [
            (sample, self.target(sample)) for sample in self.samples(rows, source=source, rejected=rejected)
        ]
        return [
            Example(sample.id, sample.messages[-1].content, (target,), target if is_class else None)
            for sample, target in targets
        ]

    def show(self, row: Row) -> dict[str, Any]:
        """A row for display in a report: `prompt`, and `target` or two answers `a` and `b` with `better`."""
        (sample, *_) = self.training_samples([row])
        return {"prompt": sample.messages[-1].content, "target": sample.target}

    def parse(self, text: str) -> Any:
        """The answer in a completion's text; default: the stripped text.

        Raises:
            ParseError: there is no answer.
        """
        if not text.strip():
            raise ParseError("the answer is empty")
        return text.strip()

    def score(self, sample: Sample, completion: Completion) -> Score:
        """The score of a completion; default: 1 if it equals the target. Never raises `ParseError`."""
        try:
            said = self.parse(completion.text)
        except ParseError as error:
            return Score(0.0, None, parsed=False, explanation=str(error))
        return Score(float(said == self.target(sample)), str(said), parsed=True)

    @property
    def rewards(self) -> Mapping[str, GroupReward]:
        """Rewards of its answers by name, for training on them."""
        return {SCORE: score_reward}

    def reward_groups(self, samples: Sequence[Sample]) -> list[list[Sample]]:
        """The samples whose answers are rewarded together; default: each alone."""
        return [[sample] for sample in samples]

    def measures(self, records: Sequence[Record]) -> dict[str, Metric]:
        """The metrics by name, the most important first."""
        return {"accuracy": accuracy(records), "unparsed_rate": unparsed_rate(records)}

    def baselines(self, samples: Sequence[Sample]) -> dict[str, Metric]:
        """The accuracy of strategies without a model on the same samples."""
        return {}

    def details(self, records: Sequence[Record]) -> dict[str, Any]:
        """Counts that explain the metrics, such as reasons of parse failures; JSON-serialisable."""
        return {"unparsed": unparsed_reasons(records)}

    def analyses(self, records: Sequence[Record], rows: Sequence[Row], *, model: str) -> Analyses:
        """Further analyses of the records; `model` is the name of the model in result files."""
        return Analyses()

    def against_base(self, records: Sequence[Record], base: Sequence[Record]) -> Mapping[str, Any]:
        """Facts of a trained model that need the base's records of the same samples, in the same order.

        They become entries of the evaluation's JSON; a `Metric` in them is reported with an interval.
        """
        return {}

    @classmethod
    def score_tables(cls, report: Mapping[str, Any]) -> list[ScoreTable]:
        """Scores in the published form of benchmarks, from the content of `report.json`."""
        return []

    @classmethod
    def resistance_table(cls, report: Mapping[str, Any]) -> ScoreTable | None:
        """What the attacked samples showed, from the content of `report.json`; None if none was asked."""
        return None

    @classmethod
    def sections(cls, report: Mapping[str, Any]) -> list[str]:
        """Task-specific HTML sections of the report, from the content of `report.json`."""
        return []

    @classmethod
    def asked(cls, report: Mapping[str, Any]) -> str | None:
        """The evaluated items in words; None for the number of rows and their noun."""
        return None

    @classmethod
    def remarks(cls, report: Mapping[str, Any]) -> list[str]:
        """Task-specific sentences below the headline."""
        return []


def accuracy(records: Sequence[Record]) -> Measure:
    """Mean score; samples are independent."""
    return Measure([record.score.value for record in records], [record.sample.id for record in records])


def unparsed_rate(records: Sequence[Record]) -> Measure:
    """Share of completions that did not parse; samples are independent."""
    return Measure(
        [float(not record.score.parsed) for record in records], [record.sample.id for record in records]
    )


def unparsed_reasons(records: Sequence[Record]) -> dict[str, int]:
    """Count parse failures by reason, the most frequent first."""
    faults = Counter(record.score.explanation for record in records if not record.score.parsed)
    return dict(faults.most_common())
