"""Judging without writing: a verdict from the probabilities of every possible answer.

The prompt is run once for each order. Every text that is a judgement at once (`Form.answers`) is scored after
it, and their probabilities, among each other, are the distribution of verdicts: expected scores for a
template with scores, a share of each verdict for one without. No token is generated.
"""

import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Protocol

from smidgen.data.types import Completion, Message, Request, Timing
from smidgen.tasks.forms import Form


class Scorer(Protocol):
    """What judging by logits needs of an engine."""

    def score(self, prompt: Sequence[Message], continuations: Sequence[str]) -> list[list[float]]:
        """The natural-log probability of every token of every continuation of the prompt."""
        ...


class ByLogits:
    """Completes requests with the verdict that their answers' probabilities make, in the form's own words."""

    def __init__(self, engine: Scorer, form: Form):
        """Ask `engine` in the template `form`.

        Raises:
            ConfigError: the texts of the form's answers are not known.
        """
        self._engine = engine
        self._form = form
        self._answers = list(form.answers())

    def complete(self, requests: Iterable[Request]) -> Iterator[tuple[Request, Completion]]:
        """Judge requests in their order; sampling settings do not matter."""
        for request in requests:
            started = time.perf_counter()
            logprobs = self._engine.score(request.sample.messages, self._answers)
            seconds = time.perf_counter() - started
            shares = distribution(
                {text: sum(found) for text, found in zip(self._answers, logprobs, strict=True)}
            )
            text = self._form.said(shares)
            yield request, Completion(text, timing=Timing(seconds, seconds, 0, 0))


def distribution(logprobs: Mapping[str, float]) -> dict[str, float]:
    """The share of each text among all, from the log-probabilities that a text begins with each.

    A text that begins another ("1" and "10") loses what is the other's.
    """
    exact = {
        text: math.exp(logprob)
        - sum(
            math.exp(other)
            for longer, other in logprobs.items()
            if longer != text and longer.startswith(text)
        )
        for text, logprob in logprobs.items()
    }
    exact = {text: max(share, 0.0) for text, share in exact.items()}
    total = sum(exact.values())
    if total > 0:
        return {text: share / total for text, share in exact.items()}
    best = max(logprobs.values())  # all are too small for a float, so only their ratios count
    weights = {text: math.exp(logprob - best) for text, logprob in logprobs.items()}
    return {text: weight / sum(weights.values()) for text, weight in weights.items()}
