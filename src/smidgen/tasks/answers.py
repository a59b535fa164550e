"""Short questions with one right answer, by kind: measures a base model before it is fine-tuned."""

from collections.abc import Sequence
from typing import Any

from smidgen.data.formats import QUESTION_FORMATS, questions
from smidgen.data.types import Completion, Message, Record, Sample, Score
from smidgen.data.world import WORLD_ROWS, Split
from smidgen.data.world_items import question_rows
from smidgen.errors import ParseError
from smidgen.tasks.measures import Metric
from smidgen.tasks.task import Row, Task, accuracy, unparsed_rate


class Answers(Task):
    """Question → short answer, bare or in a sentence, which other sentences may follow."""

    name = "answers"
    formats = QUESTION_FORMATS

    def samples(
        self, rows: Sequence[Row], *, source: str = "rows", rejected: list[str] | None = None
    ) -> list[Sample]:
        """One sample per question, with the id of the row."""
        return [
            Sample(
                question.id,
                (Message("user", question.prompt),),
                metadata={"accepted": list(question.accepted), "subset": question.subset},
            )
            for question in questions(rows, source=source, rejected=rejected)
        ]

    def target(self, sample: Sample) -> str:
        """The first accepted answer."""
        return sample.metadata["accepted"][0]

    def world_rows(self, split: Split, limit: int | None, seed: int) -> list[dict[str, Any]]:
        """Questions about the generated world."""
        return list(question_rows(split, limit or WORLD_ROWS[split], seed))

    def score(self, sample: Sample, completion: Completion) -> Score:
        """1 if the completion is an accepted answer or starts with one as a whole sentence."""
        try:
            said = self.parse(completion.text)
        except ParseError as error:
            return Score(0.0, None, parsed=False, explanation=str(error))
        right = any(_matches(said, accepted.rstrip(".")) for accepted in sample.metadata["accepted"])
        return Score(float(right), said, parsed=True)

    def measures(self, records: Sequence[Record]) -> dict[str, Metric]:
        """Accuracy over all rows, then per kind."""
        kinds = sorted({record.sample.metadata["subset"] or "" for record in records} - {""})
        by_kind = {
            f"accuracy_{kind}": accuracy([r for r in records if r.sample.metadata["subset"] == kind])
            for kind in kinds
        }
        return {"accuracy": accuracy(records), **by_kind, "unparsed_rate": unparsed_rate(records)}

    def details(self, records: Sequence[Record]) -> dict[str, Any]:
        """Nothing beyond the metrics."""
        return {}


def _matches(said: str, accepted: str) -> bool:
    """Whether the text is the answer, or starts with the answer as a sentence."""
    return said.rstrip(".") == accepted or said.startswith(f"{accepted}. ")
