r"""Word problems: a problem goes in, a solution comes out whose final answer is compared.

How the final answer is read and compared is in `math_answers`. The target is the row's worked solution, if it
has one, and then `The answer is \boxed{72}.`; calculator notes of GSM8K (`<<48/2=24>>`) are removed, since no
calculator is called. Training and worked examples use the same text.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from pydantic import Field

from smidgen.config import Section
from smidgen.data.examples import Example
from smidgen.data.problems import PROBLEM_FORMATS, Problem, problems
from smidgen.data.rows import read_rows
from smidgen.data.types import Completion, Message, Record, Sample, Score
from smidgen.errors import ConfigError, DataError, ParseError
from smidgen.tasks.classification import most_frequent
from smidgen.tasks.examples import drawn, with_examples
from smidgen.tasks.math_answers import final_answer, is_equal, number_of, written
from smidgen.tasks.measures import Metric
from smidgen.tasks.task import Row, Task, accuracy, unparsed_rate
from smidgen.tasks.words import ClaimWords, MetricWords, TaskWords

INSTRUCTION = "Solve the problem step by step. Put the final answer into \\boxed{}."


class MathSettings(Section):
    """How word problems are asked."""

    shots: int = Field(default=0, ge=0, le=64)
    """Number of worked examples before each problem, as earlier turns of the conversation."""
    examples: str | None = None
    """File of rows that the worked examples come from; by default the training rows of the recipe."""
    seed: int = Field(default=0, ge=0)
    """Seed of the draw of the worked examples."""
    instruction: str = INSTRUCTION
    """What follows each problem in its message; may be empty."""


class MathTask(Task):
    """Word problem → solution with a final answer."""

    name = "math"
    settings_table = MathSettings
    formats = PROBLEM_FORMATS
    why_unconstrained = "its answers are solutions in free text, in which any number is readable"
    words = TaskWords(
        claim=ClaimWords("model", "solves", "problems", "problems"),
        metrics={
            "accuracy": MetricWords("Accuracy", "right final answers", "↑"),
            "unparsed_rate": MetricWords("Unparsed", "no final answer; counted as wrong", "↓"),
        },
        baselines={"most_frequent": "the most frequent answer"},
        limits="The results hold for problems like those of the evaluation.",
    )

    def __init__(self, settings: MathSettings | None = None, pool: Sequence[Sample] = ()) -> None:
        """Create the task; `pool` has the drawn examples and one more, for prompts that are one of them."""
        self.settings = self._own = settings or MathSettings()
        self._pool = pool
        self.variant = f"{self._own.shots} shots" if self._own.shots else ""
        if self._own.shots:
            self.why_no_examples = f"its prompts already contain {self._own.shots} worked examples"
        self.files = (self._own.examples,) if self._own.examples else ()

    @classmethod
    def from_settings(cls, settings: MathSettings) -> Self:
        """Create the task from its settings.

        Raises:
            ConfigError: there is a file of examples but none are asked for.
        """
        if settings.examples and not settings.shots:
            raise ConfigError(
                f"'examples' is {settings.examples}, but 'shots' is 0; set shots to the number of worked "
                "examples per prompt, or leave examples out"
            )
        return cls(settings)

    def prepare(self, rows: Sequence[Row], *, source: str = "rows") -> Self:
        """Draw the worked examples from their file, if one is named."""
        file = self._own.examples
        return self if not file or self._pool else self._with_pool(read_rows(Path(file)), file)

    def learn(self, rows: Sequence[Row], *, source: str = "rows") -> Self:
        """Draw the worked examples from the training rows, unless a file is named."""
        return self if self._own.examples or not self._own.shots else self._with_pool(rows, source)

    def samples(
        self, rows: Sequence[Row], *, source: str = "rows", rejected: list[str] | None = None
    ) -> list[Sample]:
        """One sample per problem, after the worked examples.

        Raises:
            ConfigError: worked examples are asked for, and there are no rows that they come from.
            DataError: one of these problems is a worked example too.
        """
        if self._own.shots and not self._pool:
            raise ConfigError(
                f"shots = {self._own.shots} needs worked examples; name a file of training rows with "
                "--examples, or with examples in [settings]"
            )
        found = [self._bare(problem) for problem in problems(rows, source=source, rejected=rejected)]
        shown = {example.messages: example.id for example in self._pool}
        if leaked := next((sample for sample in found if sample.messages in shown), None):
            raise DataError(
                f"{source}: the problem '{leaked.id}' is also the worked example '{shown[leaked.messages]}'; "
                "take examples from other rows than those that are evaluated, or change their seed"
            )
        return [self._asked(sample) for sample in found]

    def training_samples(self, rows: Sequence[Row], *, source: str = "rows", seed: int = 0) -> list[Sample]:
        """The samples with targets; a problem is never an example for itself."""
        found = [self._bare(problem) for problem in problems(rows, source=source)]
        return [self._asked(replace(sample, target=self.target(sample))) for sample in found]

    def target(self, sample: Sample) -> str:
        """The worked solution and the boxed answer."""
        return sample.metadata["target"]

    def examples(
        self, rows: Sequence[Row], *, source: str = "rows", rejected: list[str] | None = None
    ) -> list[Example]:
        """The problems with their solutions, without the instruction and the worked examples."""
        return [
            Example(problem.id, problem.text, (_target(problem),))
            for problem in problems(rows, source=source, rejected=rejected)
        ]

    def show(self, row: Row) -> dict[str, Any]:
        """The problem and its solution."""
        (problem,) = problems([row])
        return {"prompt": problem.text, "target": _target(problem)}

    def parse(self, text: str) -> str:
        """The final answer of a solution, a plain number in its normal form.

        Raises:
            ParseError: there is none.
        """
        answer = final_answer(text)
        number = number_of(answer)
        return answer if number is None else written(number)

    def score(self, sample: Sample, completion: Completion) -> Score:
        """1 if the final answer equals the right one."""
        try:
            said = self.parse(completion.text)
        except ParseError as error:
            return Score(0.0, None, parsed=False, explanation=str(error))
        return Score(float(is_equal(sample.metadata["answer"], said)), said, parsed=True)

    def measures(self, records: Sequence[Record]) -> dict[str, Metric]:
        """Accuracy, and the share of completions without a final answer."""
        return {"accuracy": accuracy(records), "unparsed_rate": unparsed_rate(records)}

    def baselines(self, samples: Sequence[Sample]) -> dict[str, Metric]:
        """The accuracy of always giving the most frequent answer of these problems."""
        return {
            "most_frequent": most_frequent(
                [sample.metadata["answer"] for sample in samples], [sample.id for sample in samples]
            )
        }

    def _with_pool(self, rows: Sequence[Row], source: str) -> Self:
        read = [self._bare(problem) for problem in problems(rows, source=source)]
        needed = self._own.shots + 1
        pool = drawn([replace(sample, target=self.target(sample)) for sample in read], needed, self._own.seed)
        if len(pool) < needed:
            raise ConfigError(
                f"shots = {self._own.shots} needs {needed} different problems to draw worked examples from, "
                f"but {source} has {len(pool)}; lower shots, or name another file"
            )
        return type(self)(self._own, pool)

    def _bare(self, problem: Problem) -> Sample:
        """The sample of a problem without worked examples."""
        text = f"{problem.text}\n\n{self._own.instruction}" if self._own.instruction else problem.text
        metadata = {"answer": problem.answer, "target": _target(problem), "subset": problem.subset}
        return Sample(problem.id, (Message("user", text),), metadata=metadata)

    def _asked(self, sample: Sample) -> Sample:
        others = [example for example in self._pool if example.messages != sample.messages]
        return with_examples(sample, others[: self._own.shots])


def _target(problem: Problem) -> str:
    final = f"The answer is \\boxed{{{problem.answer}}}."
    return f"{problem.solution}\n{final}" if problem.solution else final
