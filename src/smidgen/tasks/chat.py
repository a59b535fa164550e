"""Chats: conversations and instructions, to whose last message there is no single right answer.

Nothing is generated: the answer of each row is given, and what counts is how probable it is. Its likelihood
is the geometric mean of the probabilities of its tokens, the inverse of its perplexity. Answers weigh the
same whatever their length; in the loss tokens do, as in that of training, which also has the end tokens.
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smidgen.data.conversations import CONVERSATION_FORMATS
from smidgen.data.examples import Example
from smidgen.data.rows import read_items
from smidgen.data.types import Completion, Record, Request, Sample, Score
from smidgen.errors import ParseError
from smidgen.figures.formatting import dig, finite, percent
from smidgen.tasks.measures import Measure, Metric, Statistic
from smidgen.tasks.scoring import completed_by_scores
from smidgen.tasks.task import Answerer, Completer, Row, Task
from smidgen.tasks.words import ClaimWords, MetricWords, TaskWords


class Chat(Task):
    """Conversation → how probable its last answer is."""

    name = "chat"
    formats = CONVERSATION_FORMATS
    has_right_answers = False
    why_unconstrained = "its answers are given and only scored"
    why_no_examples = "conversations are scored as they are, without others before them"
    words = TaskWords(
        claim=ClaimWords(things="answers", asked="conversations", answer=""),
        metrics={
            "likelihood": MetricWords("Likelihood", "geometric mean of the tokens' probabilities", "↑"),
            "loss": MetricWords("Loss", "nats per token of all answers", "↓"),
            "unscored_rate": MetricWords("Unscored", "did not fit the context; likelihood 0", "↓"),
        },
        limits="The figures say how probable the answers of such rows are, not how good those are that the "
        "model writes itself.",
        plain=("loss",),
        shown="the likelihood of their answers by each model",
        pairing="The test counts the rows on which either model finds the answer more probable.",
    )

    @property
    def methods(self) -> tuple[str, ...]:
        """Only `logits`."""
        return ("logits",)

    def answer_with(self, engine: Answerer, method: str) -> Completer:
        """Log-probability scoring of the answers of the rows."""
        return ByLikelihood(engine)

    def samples(
        self, rows: Sequence[Row], *, source: str = "rows", rejected: list[str] | None = None
    ) -> list[Sample]:
        """One sample per row, with its last answer as target."""
        return read_items(rows, self.formats, source, rejected=rejected)

    def plain_rows(self, rows: Sequence[Row], *, source: str = "rows") -> list[tuple[str, dict[str, Any]]]:
        """The rows as they are, each with all that comes before its answer."""
        samples = self.samples(rows, source=source)
        return [(_asked(sample), {**row, "id": sample.id}) for sample, row in zip(samples, rows, strict=True)]

    def target(self, sample: Sample) -> str:
        """The last answer."""
        assert sample.target is not None, sample.id
        return sample.target

    def examples(
        self, rows: Sequence[Row], *, source: str = "rows", rejected: list[str] | None = None
    ) -> list[Example]:
        """The conversations up to their last answer, and that answer."""
        samples = self.samples(rows, source=source, rejected=rejected)
        return [Example(sample.id, _asked(sample), (self.target(sample),)) for sample in samples]

    def show(self, row: Row) -> dict[str, Any]:
        """The conversation and its last answer."""
        (sample,) = self.samples([row])
        return {"prompt": _asked(sample), "target": sample.target}

    def parse(self, text: str) -> tuple[float, int]:
        """The log-probability in nats and the number of tokens of an answer, from JSON.

        Raises:
            ParseError: the text is something else, or there are no tokens.
        """
        try:
            found = json.loads(text)
            logprob, tokens = float(found["logprob"]), int(found["tokens"])
        except (ValueError, TypeError, KeyError):
            raise ParseError("the answer is not a log-probability with a number of tokens") from None
        if tokens < 1:
            raise ParseError("the answer is empty")
        if not math.isfinite(logprob):
            raise ParseError("the log-probability of the answer is not finite")
        return logprob, tokens

    def score(self, sample: Sample, completion: Completion) -> Score:
        """The likelihood of the answer, from 0 to 1."""
        try:
            logprob, tokens = self.parse(completion.text)
        except ParseError as error:
            return Score(0.0, None, parsed=False, explanation=str(error))
        likelihood = math.exp(logprob / tokens)
        return Score(likelihood, f"{percent(likelihood)} per token", parsed=True)

    def measures(self, records: Sequence[Record]) -> dict[str, Metric]:
        """The mean likelihood, the loss, and the share of answers that were not scored."""
        ids = [record.sample.id for record in records]
        scored = [record for record in records if record.score.parsed]
        found = np.array([self.parse(record.completion.text) for record in scored]).reshape(-1, 2)

        def loss(weights: NDArray[np.float64]) -> float:
            logprob, tokens = weights @ found
            return -logprob / tokens if tokens else math.nan

        return {
            "likelihood": Measure([record.score.value for record in records], ids),
            "loss": Statistic(loss, [record.sample.id for record in scored]),
            "unscored_rate": Measure([float(not record.score.parsed) for record in records], ids),
        }

    @classmethod
    def remarks(cls, report: Mapping[str, Any]) -> list[str]:
        """The share of answers that were not scored, if there are any."""
        rate = finite(dig(report, "after", "metrics", "unscored_rate", "value")) or 0.0
        return [f"{percent(rate)} of the answers were not scored and count as improbable."] if rate else []


class ByLikelihood:
    """Completes requests with the log-probability of their targets and the number of its tokens, as JSON."""

    def __init__(self, engine: Answerer):
        self._engine = engine

    def complete(self, requests: Iterable[Request]) -> Iterator[tuple[Request, Completion]]:
        """Score the targets of requests, in any order; sampling settings are ignored.

        Raises:
            ConfigError: a request has its own adapter.
        """
        asked = list(requests)
        targets = {request.sample.id: [request.sample.target or ""] for request in asked}
        return completed_by_scores(self._engine, asked, targets, _as_json)


def _as_json(logprobs: Sequence[Sequence[float]]) -> str:
    (answer,) = logprobs
    return json.dumps({"logprob": math.fsum(answer), "tokens": len(answer)})


def _asked(sample: Sample) -> str:
    """What comes before the answer: a single message as it is, several with their roles."""
    if len(sample.messages) == 1:
        return sample.messages[0].content
    return "\n\n".join(f"{message.role.capitalize()}: {message.content}" for message in sample.messages)
