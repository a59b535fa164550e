"""Log-probability scoring: a verdict from the probabilities of all possible answers, without generation.

The prompt of each order is prefilled once, in batches. Every text that is a complete judgement
(`answers`) is scored as its continuation, and the normalised probabilities are the distribution of
verdicts: expected scores for a template with scores, a share per verdict for one without.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

from smidgen.data.types import Completion, Request
from smidgen.tasks.judge.forms import JudgeTemplate
from smidgen.tasks.scoring import completed_by_scores
from smidgen.tasks.task import Answerer

LEAST_SHARE = 0.1
"""Second scores are only computed after first scores that have at least this share of the probability."""


class ByLogits:
    """Completes requests with the verdict that the probabilities of the answers give."""

    def __init__(self, engine: Answerer, form: JudgeTemplate):
        """Judge with `engine` and the template `form`.

        Raises:
            ConfigError: the template cannot list its possible answers.
        """
        self._engine = engine
        self._form = form
        self._answers = list(form.answers())
        self._longer = extensions(self._answers)

    def complete(self, requests: Iterable[Request]) -> Iterator[tuple[Request, Completion]]:
        """Judge requests, in any order; sampling settings are ignored.

        Raises:
            ConfigError: a request has its own adapter.
        """
        return completed_by_scores(
            self._engine, requests, self._answers, self._verdict, least_share=LEAST_SHARE
        )

    def _verdict(self, logprobs: Sequence[Sequence[float]]) -> str:
        totals = {text: sum(logs) for text, logs in zip(self._answers, logprobs, strict=True)}
        return self._form.verdict_text(distribution(totals, self._longer))


def extensions(texts: Sequence[str]) -> dict[str, list[str]]:
    """Return, for each text, the other texts that start with it."""
    return {text: [other for other in texts if other != text and other.startswith(text)] for text in texts}


def distribution(logprobs: Mapping[str, float], longer: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """Return the share of each text, from the log-probability that the completion starts with it.

    The probability of a text that is a prefix of others ("1" of "10", as listed in `longer`) includes theirs,
    which is subtracted.
    """
    exact = {
        text: math.exp(logprob) - sum(math.exp(logprobs[other]) for other in longer[text])
        for text, logprob in logprobs.items()
    }
    exact = {text: max(share, 0.0) for text, share in exact.items()}
    total = sum(exact.values())
    if total > 0:
        return {text: share / total for text, share in exact.items()}
    best = max(logprobs.values())  # all probabilities underflow, so only their ratios are known
    weights = {text: math.exp(logprob - best) for text, logprob in logprobs.items()}
    return {text: weight / sum(weights.values()) for text, weight in weights.items()}
