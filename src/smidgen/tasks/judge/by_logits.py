"""Judging without writing: a verdict from the probabilities of every possible answer.

The prompt is run once for each order, many together. Every text that is a judgement at once (`Form.answers`)
is scored after it, and their probabilities, among each other, are the distribution of verdicts: expected
scores for a template with scores, a share of each verdict for one without. No token is generated.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Protocol

from smidgen.data.types import Completion, Request, Sample, Scored
from smidgen.errors import ConfigError
from smidgen.tasks.judge.forms import Form

LEAST_SHARE = 0.1
"""Second scores are computed after first scores with this share of the probability; others are left out."""


class Scorer(Protocol):
    """What judging by logits needs of an engine."""

    def score(
        self, samples: Iterable[Sample], continuations: Sequence[str], *, least_share: float = 0.0
    ) -> Iterator[tuple[Sample, Scored]]:
        """The log-probability of every token of every continuation; see `smidgen.inference.engine`."""
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
        self._longer = extensions(self._answers)

    def complete(self, requests: Iterable[Request]) -> Iterator[tuple[Request, Completion]]:
        """Judge requests, in any order; sampling settings do not matter.

        Raises:
            ConfigError: a request is to be answered with an adapter of its own.
        """
        asked = {request.sample.id: request for request in requests}
        if given := [request.adapter for request in asked.values() if request.adapter is not None]:
            raise ConfigError(
                f"judging by logits takes no adapter of a single request, and {given[0]} is one; "
                "open the engine with it"
            )
        samples = (request.sample for request in asked.values())
        for sample, scored in self._engine.score(samples, self._answers, least_share=LEAST_SHARE):
            if scored.logprobs is None:
                yield asked[sample.id], Completion("", finish_reason="context")
                continue
            totals = {text: sum(found) for text, found in zip(self._answers, scored.logprobs, strict=True)}
            text = self._form.said(distribution(totals, self._longer))
            yield asked[sample.id], Completion(text, timing=scored.timing)


def extensions(texts: Sequence[str]) -> dict[str, list[str]]:
    """The texts that begin with each text, itself left out."""
    return {text: [other for other in texts if other != text and other.startswith(text)] for text in texts}


def distribution(logprobs: Mapping[str, float], longer: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """The share of each text among all, from the log-probabilities that a text begins with each.

    A text that begins another ("1" and "10", as `longer` says) loses what is the other's.
    """
    exact = {
        text: math.exp(logprob) - sum(math.exp(logprobs[other]) for other in longer[text])
        for text, logprob in logprobs.items()
    }
    exact = {text: max(share, 0.0) for text, share in exact.items()}
    total = sum(exact.values())
    if total > 0:
        return {text: share / total for text, share in exact.items()}
    best = max(logprobs.values())  # all are too small for a float, so only their ratios count
    weights = {text: math.exp(logprob - best) for text, logprob in logprobs.items()}
    return {text: weight / sum(weights.values()) for text, weight in weights.items()}
