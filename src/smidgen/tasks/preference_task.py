"""Preferences: a prompt with a better and a worse answer, which a model is trained to prefer.

Nothing is generated: an answer is preferred if its log-probability is larger. A base model is asked in the
same way, so what it prefers without training is the baseline. A sum of log-probabilities favours short
answers, so the share per character stands beside it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from smidgen.data.answer_pairs import AnswerPair, answer_pairs
from smidgen.data.examples import Example
from smidgen.data.preferences import judge_rows
from smidgen.data.types import Completion, Preference, Record, Sample, Score
from smidgen.data.world import WORLD_ROWS, Split
from smidgen.figures.formatting import interval, percent, table_at
from smidgen.tasks.choice import ByOptions, ChoiceTask
from smidgen.tasks.measures import Measure, Metric
from smidgen.tasks.task import Answerer, Completer, Row, Task, unparsed_rate
from smidgen.tasks.words import ClaimWords, MetricWords, TaskWords

CHOSEN, REJECTED = 0, 1


class PreferenceTask(Task):
    """Prompt with two answers → the more probable answer."""

    name = "preference"
    why_unconstrained = "its answers are probabilities of two texts, so they are always readable"
    words = TaskWords(
        claim=ClaimWords("model", "finds the better answer more probable for", "prompts", "prompts"),
        metrics={
            "accuracy": MetricWords("Accuracy", "better answer has the larger log-probability", "↑"),
            "accuracy_norm": MetricWords("Accuracy, per character", "log-probability ÷ characters", "↑"),
            "unparsed_rate": MetricWords("Unscored", "did not fit the context; counted as wrong", "↓"),
        },
        baselines={"longer": "always the longer answer"},
        limits="The figures hold for pairs like those evaluated, and say nothing of generated answers.",
    )

    def __init__(self) -> None:
        self._choice = ChoiceTask()

    @property
    def methods(self) -> tuple[str, ...]:
        """Only `logits`."""
        return ("logits",)

    def answer_with(self, engine: Answerer, method: str) -> Completer:
        """Log-probability scoring of the answers."""
        return ByOptions(engine)

    def samples(
        self, rows: Sequence[Row], *, source: str = "rows", rejected: list[str] | None = None
    ) -> list[Sample]:
        """One sample per pair, with its answers in the metadata, the better one first."""
        found = answer_pairs(rows, source=source, rejected=rejected)
        prompts: dict[Any, str] = {}
        return [_sample(pair, prompts.setdefault(pair.messages, pair.id)) for pair in found]

    def plain_rows(self, rows: Sequence[Row], *, source: str = "rows") -> list[tuple[str, dict[str, Any]]]:
        """Preference rows with the prompt as messages, one for each pair."""
        return [
            (
                "\n".join(message.content for message in pair.messages),
                {
                    "id": pair.id,
                    "prompt": [vars(message) for message in pair.messages],
                    "chosen": pair.chosen,
                    "rejected": pair.rejected,
                    **({} if pair.subset is None else {"subset": pair.subset}),
                },
            )
            for pair in answer_pairs(rows, source=source)
        ]

    def target(self, sample: Sample) -> str:
        """The better answer."""
        return sample.metadata["options"][CHOSEN]

    def preference(self, sample: Sample) -> Preference:
        """The two answers."""
        chosen, rejected = sample.metadata["options"]
        return Preference(sample, chosen, rejected)

    def world_rows(self, split: Split, limit: int | None, seed: int) -> list[dict[str, Any]]:
        """Pairs of answers to questions about the generated world."""
        return list(judge_rows(split, limit or WORLD_ROWS[split], seed))

    def examples(
        self, rows: Sequence[Row], *, source: str = "rows", rejected: list[str] | None = None
    ) -> list[Example]:
        """The prompts with both answers, in alternating order, since no model sees one."""
        found = []
        for index, pair in enumerate(answer_pairs(rows, source=source, rejected=rejected)):
            answers = (pair.chosen, pair.rejected) if index % 2 == 0 else (pair.rejected, pair.chosen)
            prompt = "\n".join(message.content for message in pair.messages)
            found.append(Example(pair.id, prompt, answers, "ab"[index % 2]))
        return found

    def show(self, row: Row) -> dict[str, Any]:
        """The prompt with both answers."""
        pair = answer_pairs([row])[0]
        return {"prompt": pair.messages[-1].content, "a": pair.chosen, "b": pair.rejected, "better": "a"}

    def parse(self, text: str) -> list[float]:
        """The log-probability of each answer, from a JSON list; raises `ParseError`."""
        return self._choice.parse(text)

    def score(self, sample: Sample, completion: Completion) -> Score:
        """1 if the better answer has the larger log-probability."""
        return self._choice.score(sample, completion)

    def measures(self, records: Sequence[Record]) -> dict[str, Metric]:
        """Accuracy by the log-probability and per character, and the share that was not scored."""
        clusters = [record.sample.metadata["cluster"] for record in records]
        per_character = self._choice.measures(records)["accuracy_norm"]
        assert isinstance(per_character, Measure)
        return {
            "accuracy": Measure([record.score.value for record in records], clusters),
            "accuracy_norm": replace(per_character, clusters=clusters),
            "unparsed_rate": unparsed_rate(records),
        }

    def baselines(self, samples: Sequence[Sample]) -> dict[str, Metric]:
        """How often the longer answer is the better one; half of equally long ones."""
        lengths = [sample.metadata["characters"] for sample in samples]
        values = [(1 + float(np.sign(found[CHOSEN] - found[REJECTED]))) / 2 for found in lengths]
        return {"longer": Measure(values, [sample.metadata["cluster"] for sample in samples])}

    def against_base(self, records: Sequence[Record], base: Sequence[Record]) -> Mapping[str, Any]:
        """The implicit reward: whether training raised the better answer against the worse one.

        The reward of an answer is β times its log-probability beyond that of the base, so a margin above 0
        does not depend on β, nor, as the share of larger log-probabilities does, on the answers' lengths.
        Equal margins are half right, as those of an untrained model.
        """
        both = [pair for pair in zip(records, base, strict=True) if all(one.score.parsed for one in pair)]
        totals = [[self.parse(one.completion.text) for one in pair] for pair in both]
        margins = [(a[CHOSEN] - a[REJECTED]) - (b[CHOSEN] - b[REJECTED]) for a, b in totals]
        clusters = [record.sample.metadata["cluster"] for record, _ in both]
        values = [(1 + float(np.sign(margin))) / 2 for margin in margins]
        return {"reward_accuracy": Measure(values, clusters)} if values else {}

    @classmethod
    def remarks(cls, report: Mapping[str, Any]) -> list[str]:
        """The share of pairs that training moved in the right direction."""
        if not (found := table_at(report, "after", "reward_accuracy")):
            return []
        return [
            "Relative to the base, training raised the better answer against the worse one in "
            f"{percent(found['value'])} ({interval(found)}) of the pairs; half is chance."
        ]


def _sample(pair: AnswerPair, cluster: str) -> Sample:
    """The sample of a pair, with what `ByOptions` scores."""
    answers = [pair.chosen, pair.rejected]
    metadata = {
        "options": answers,
        "right": CHOSEN,
        "prompts": [pair.messages[-1].content],
        "continuations": answers,
        "characters": [max(1, len(answer.strip())) for answer in answers],
        "cluster": cluster,
        "subset": pair.subset,
    }
    return Sample(pair.id, pair.messages, metadata=metadata)
