"""Multiple choice by log-probability: the option that the model finds most probable is its answer.

Nothing is generated, so every answer is readable and base models can be asked. `accuracy` takes the option
with the largest sum of log-probabilities, `accuracy_norm` the largest sum per character of the option: the
metrics `acc` and `acc_norm` of lm-evaluation-harness (https://github.com/EleutherAI/lm-evaluation-harness),
with its prompts `Question: … Answer:`. Of equal options the first counts, as there.

A sentence with a gap is evaluated as WinoGrande is there (https://arxiv.org/abs/1806.02847, "partial"): each
option is put into the gap, and what is compared is the probability of the rest of the sentence after it. The
rests are equally long, so both metrics are equal.
"""

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from string import ascii_uppercase
from typing import Any, Literal, Self

import numpy as np

from smidgen.config import Section
from smidgen.data.choices import BLANK, CHOICE_FORMATS, Choice, choices
from smidgen.data.examples import Example
from smidgen.data.types import Completion, Message, Record, Request, Sample, Score, Timing
from smidgen.errors import ConfigError, ParseError
from smidgen.tasks.measures import Measure, Metric
from smidgen.tasks.scoring import without_adapters
from smidgen.tasks.task import Answerer, Completer, Row, Task, accuracy, unparsed_rate
from smidgen.tasks.words import ClaimWords, MetricWords, TaskWords


class ChoiceSettings(Section):
    """How questions and options are put to the model."""

    prompt: Literal["text", "chat"] = "text"
    """`text` is continued as raw text, which any model can; `chat` is a message in the model's template."""
    letters: bool = False
    """List the options with letters and score the letters; by default the texts of the options are scored."""


class ChoiceTask(Task):
    """Question with options → the most probable option."""

    name = "choice"
    settings_table = ChoiceSettings
    formats = CHOICE_FORMATS
    why_unconstrained = "its answers are probabilities of the options, so they are always readable"
    words = TaskWords(
        claim=ClaimWords("model", "finds the right option most probable for", "questions", "questions"),
        metrics={
            "accuracy": MetricWords("Accuracy", "right option has the largest log-probability", "↑"),
            "accuracy_norm": MetricWords("Accuracy, per character", "log-probability ÷ characters", "↑"),
            "unparsed_rate": MetricWords("Unscored", "did not fit the context; counted as wrong", "↓"),
        },
        baselines={"random": "random guessing", "longest": "always the longest option"},
        limits="The results hold for questions like those of the evaluation and for this form of asking.",
    )

    def __init__(self, settings: ChoiceSettings | None = None) -> None:
        self.settings = self._own = settings or ChoiceSettings()
        self.variant = self._own.prompt + " letters" * self._own.letters

    @classmethod
    def from_settings(cls, settings: ChoiceSettings) -> Self:
        """Create the task from its settings."""
        return cls(settings)

    @property
    def methods(self) -> tuple[str, ...]:
        """Only `logits`."""
        return ("logits",)

    def answer_with(self, engine: Answerer, method: str) -> Completer:
        """Log-probability scoring of the options."""
        return ByOptions(engine)

    def samples(
        self, rows: Sequence[Row], *, source: str = "rows", rejected: list[str] | None = None
    ) -> list[Sample]:
        """One sample per question, with its options and what is scored for each in the metadata."""
        return [self._sample(choice) for choice in choices(rows, source=source, rejected=rejected)]

    def target(self, sample: Sample) -> str:
        """What is scored for the right option.

        Raises:
            ConfigError: the prompt is raw text, which is not trained on.
        """
        if self._own.prompt == "text":
            raise ConfigError('prompts of the task choice are raw text; to train on it, set prompt = "chat"')
        return sample.metadata["continuations"][sample.metadata["right"]]

    def examples(
        self, rows: Sequence[Row], *, source: str = "rows", rejected: list[str] | None = None
    ) -> list[Example]:
        """The questions with their options, labelled with the letter of the right one."""
        return [
            Example(
                choice.id,
                "\n".join((choice.question, *choice.options)),
                (choice.options[choice.right],),
                ascii_uppercase[choice.right],
            )
            for choice in choices(rows, source=source, rejected=rejected)
        ]

    def show(self, row: Row) -> dict[str, Any]:
        """The question and its right option."""
        (choice,) = choices([row])
        return {"prompt": choice.question, "target": choice.options[choice.right]}

    def parse(self, text: str) -> list[float]:
        """The log-probability of each option, from a JSON list.

        Raises:
            ParseError: the text is not a list of finite numbers.
        """
        try:
            found = json.loads(text)
        except ValueError:
            found = None
        if not isinstance(found, list) or not all(type(value) in (int, float) for value in found):
            raise ParseError("the answer is not a list of log-probabilities")
        if not found or not all(map(math.isfinite, found)):
            raise ParseError("a log-probability is missing or not finite")
        return found

    def score(self, sample: Sample, completion: Completion) -> Score:
        """1 if the right option has the largest sum of log-probabilities."""
        try:
            totals = self._totals(sample, completion)
        except ParseError as error:
            return Score(0.0, None, parsed=False, explanation=str(error))
        best = int(np.argmax(totals))
        right = best == sample.metadata["right"]
        return Score(float(right), sample.metadata["options"][best], parsed=True)

    def measures(self, records: Sequence[Record]) -> dict[str, Metric]:
        """Accuracy by the sum of log-probabilities and per character, and the share that was not scored."""
        ids = [record.sample.id for record in records]
        normalised = Measure([float(self._is_right_per_character(record)) for record in records], ids)
        return {
            "accuracy": accuracy(records),
            "accuracy_norm": normalised,
            "unparsed_rate": unparsed_rate(records),
        }

    def baselines(self, samples: Sequence[Sample]) -> dict[str, Metric]:
        """The accuracy of guessing, and of always taking the longest option."""
        ids, asked = [sample.id for sample in samples], [sample.metadata for sample in samples]
        longest = [float(int(np.argmax(facts["characters"])) == facts["right"]) for facts in asked]
        return {
            "random": Measure([1 / len(facts["options"]) for facts in asked], ids),
            "longest": Measure(longest, ids),
        }

    def _totals(self, sample: Sample, completion: Completion) -> list[float]:
        totals = self.parse(completion.text)
        if len(totals) != len(sample.metadata["options"]):
            count = len(sample.metadata["options"])
            raise ParseError(f"there are {len(totals)} log-probabilities for {count} options")
        return totals

    def _is_right_per_character(self, record: Record) -> bool:
        if not record.score.parsed:
            return False
        facts = record.sample.metadata
        totals = self._totals(record.sample, record.completion)
        return int(np.argmax(np.array(totals) / facts["characters"])) == facts["right"]

    def _sample(self, choice: Choice) -> Sample:
        """The sample of a question: `prompts` has one prompt per option, or one for all of them."""
        listed = "\n".join(f"{letter}. {text}" for letter, text in _lettered(choice.options))
        scored = [letter for letter, _ in _lettered(choice.options)] if self._own.letters else choice.options
        in_gap = choice.is_gap and self._own.prompt == "text" and not self._own.letters
        if in_gap:
            before, _, rest = choice.question.partition(BLANK)
            prompts, scored = [before + option for option in choice.options], [rest] * len(choice.options)
        elif self._own.prompt == "chat":
            prompts = [f"{choice.question}\n{listed}" if self._own.letters else choice.question]
        else:
            question = f"{choice.question}\n{listed}" if self._own.letters else f"Question: {choice.question}"
            prompts, scored = [f"{question}\nAnswer:"], [f" {text}" for text in scored]
        role = "user" if self._own.prompt == "chat" else "text"
        metadata = {
            "options": list(choice.options),
            "right": choice.right,
            "prompts": prompts,
            "continuations": list(scored),
            "characters": [len(text.strip()) for text in scored],
            "subset": choice.subset,
        }
        shown = choice.question if in_gap else prompts[0]
        return Sample(choice.id, (Message(role, shown),), metadata=metadata)


class ByOptions:
    """Completes requests with the summed log-probabilities of their options, as a JSON list."""

    def __init__(self, engine: Answerer):
        self._engine = engine

    def complete(self, requests: Iterable[Request]) -> Iterator[tuple[Request, Completion]]:
        """Score the options of requests, in any order; sampling settings are ignored.

        Raises:
            ConfigError: a request has its own adapter.
        """
        by_id = {request.sample.id: request for request in without_adapters(requests)}
        asked: dict[str, tuple[str, Sample, list[str]]] = {}
        parts: dict[str, list[str]] = {}
        for name, request in by_id.items():
            sample, facts = request.sample, request.sample.metadata
            for number, prompt in enumerate(facts["prompts"]):
                alone = len(facts["prompts"]) == 1
                texts = facts["continuations"] if alone else [facts["continuations"][number]]
                part = f"{name}/{number}"
                message = Message(sample.messages[-1].role, prompt)
                messages = (*sample.messages[:-1], message)
                asked[part] = name, Sample(part, messages), texts
                parts.setdefault(name, []).append(part)
        totals: dict[str, tuple[list[float] | None, Timing | None]] = {}
        continuations = {part: texts for part, (_, _, texts) in asked.items()}
        samples = (sample for _, sample, _ in asked.values())
        for part, scored in self._engine.score(samples, continuations):
            logs = scored.logprobs
            totals[part.id] = None if logs is None else [math.fsum(of) for of in logs], scored.timing
            name = asked[part.id][0]
            if all(other in totals for other in parts[name]):
                yield by_id[name], _completion([totals.pop(other) for other in parts[name]])


def _completion(parts: Sequence[tuple[list[float] | None, Timing | None]]) -> Completion:
    """Join the parts of one question; it is unanswered if one of them did not fit the context."""
    totals = [total for found, _ in parts for total in found or ()]
    if any(found is None for found, _ in parts):
        return Completion("", finish_reason="context")
    timings = [timing for _, timing in parts if timing is not None]
    seconds = max((timing.seconds for timing in timings), default=0.0)
    tokens = sum(timing.prompt_tokens for timing in timings)
    return Completion(json.dumps(totals), timing=Timing(seconds, seconds, tokens, 0) if timings else None)


def _lettered(options: Sequence[str]) -> list[tuple[str, str]]:
    return list(zip(ascii_uppercase, options, strict=False))
