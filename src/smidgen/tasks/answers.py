"""Short questions with one right answer, by kind: what a base model can do before it is made a specialist."""

from collections.abc import Mapping, Sequence
from typing import Any, Self

from smidgen.data.formats import questions
from smidgen.data.types import Completion, Constraint, Message, Record, Sample, Score
from smidgen.errors import ParseError
from smidgen.tasks.task import Measure, Metric


class Answers:
    """Question → short answer, which may stand in a sentence and be followed by more sentences."""

    name: str = "answers"
    version: int = 1
    variant: str = ""
    stop: tuple[str, ...] = ()
    stop_after: tuple[str, ...] = ()
    constraint: Constraint | None = None

    def prepare(self, rows: Sequence[Mapping[str, Any]], *, source: str = "rows") -> Self:
        """The task itself; rows tell it nothing."""
        return self

    def samples(
        self,
        rows: Sequence[Mapping[str, Any]],
        *,
        source: str = "rows",
        rejected: list[str] | None = None,
    ) -> list[Sample]:
        """One sample for each question, whose id is the row's."""
        return [
            Sample(
                question.id,
                (Message("user", question.prompt),),
                metadata={"accepted": list(question.accepted), "subset": question.subset},
            )
            for question in questions(rows, source=source, rejected=rejected)
        ]

    def training_samples(
        self, rows: Sequence[Mapping[str, Any]], *, source: str = "rows", seed: int = 0
    ) -> list[Sample]:
        """The samples with the first accepted answer for target; `seed` is not used."""
        return [
            Sample(sample.id, sample.messages, sample.metadata["accepted"][0], sample.metadata)
            for sample in self.samples(rows, source=source)
        ]

    def parse(self, text: str) -> str:
        """The text without blanks around it.

        Raises:
            ParseError: nothing was said.
        """
        if not text.strip():
            raise ParseError("the answer is empty")
        return text.strip()

    def score(self, sample: Sample, completion: Completion) -> Score:
        """1 if the completion is an accepted answer, or opens with one as a whole sentence."""
        try:
            said = self.parse(completion.text)
        except ParseError as error:
            return Score(0.0, None, parsed=False, explanation=str(error))
        right = any(_says(said, accepted.rstrip(".")) for accepted in sample.metadata["accepted"])
        return Score(float(right), said, parsed=True)

    def measures(self, records: Sequence[Record]) -> dict[str, Metric]:
        """Accuracy over all rows, then by kind."""
        kinds = sorted({record.sample.metadata["subset"] or "" for record in records} - {""})
        by_kind = {
            f"accuracy_{kind}": _accuracy([r for r in records if r.sample.metadata["subset"] == kind])
            for kind in kinds
        }
        unparsed = Measure(
            [float(not record.score.parsed) for record in records], [record.sample.id for record in records]
        )
        return {"accuracy": _accuracy(records), **by_kind, "unparsed_rate": unparsed}

    def baselines(self, samples: Sequence[Sample]) -> dict[str, Metric]:
        """None: there is no answer to give without reading the question."""
        return {}

    def details(self, records: Sequence[Record]) -> dict[str, Any]:
        """Nothing beyond the metrics."""
        return {}


def _says(said: str, accepted: str) -> bool:
    """Whether the text is the answer, or the answer as a sentence before others."""
    return said.rstrip(".") == accepted or said.startswith(f"{accepted}. ")


def _accuracy(records: Sequence[Record]) -> Measure:
    return Measure([record.score.value for record in records], [record.sample.id for record in records])
