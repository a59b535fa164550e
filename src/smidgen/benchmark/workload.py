"""Requests of a given length for an engine, and how long it takes to answer them.

Every time is wall-clock from handing requests to an engine until it hands them back: what an engine itself
counts as a request's time leaves out queueing and shared beginnings. Engines and servers run what two prompts
begin with once, so no two begin alike: where the model runs here they go without the chat template, and of a
server's prompts only the tokens beyond its template's are counted.
"""

import random
import string
import time
from collections.abc import Sequence
from typing import NamedTuple

from smidgen.data.types import Completion, Message, Request, Sample, Sampling
from smidgen.errors import DataError
from smidgen.inference import Engine

WORDS = "which answer counts better than another when both towns keep seven green tin bells near the old mill"
CLOSING = ". Go on with this text for as long as you can, and do not stop!"
SLACK = 16
"""A prompt may be so many tokens longer than it was asked for."""


class TimedRequests(NamedTuple):
    """Requests that were handed over together.

    Attributes:
        completions: in finishing order.
        latencies: seconds until each was handed back.
    """

    completions: list[Completion]
    latencies: list[float]

    @property
    def seconds(self) -> float:
        """Until the last was handed back."""
        return self.latencies[-1]

    @property
    def prompt_tokens(self) -> int:
        """Tokens of all prompts."""
        return sum(found.timing.prompt_tokens for found in self.completions if found.timing)

    @property
    def tokens(self) -> int:
        """Tokens of all completions."""
        return sum(_written(completion) for completion in self.completions)


class Prompts:
    """Requests of about the same length, no two of which begin alike but for a server's template.

    Attributes:
        num_words: of each prompt; `fit` finds how many.
        template_tokens: of each prompt, those of one that says nothing; `fit` finds how many.
    """

    def __init__(self, max_tokens: int, *, is_chat: bool):
        """Make prompts for answers of `max_tokens`; servers take them as a chat only."""
        self._random = random.Random(0)
        self._max_tokens = max_tokens
        self._role = "user" if is_chat else "text"
        self.num_words = 16
        self.template_tokens = 0

    def take(self, number: int, *, max_tokens: int | None = None) -> list[Request]:
        """Make new requests."""
        return [self._request(self._text(), max_tokens or self._max_tokens) for _ in range(number)]

    def fit(self, engine: Engine, wanted: int) -> int:
        """Find how many words make prompts of `wanted` tokens; return the length that was reached.

        Raises:
            DataError: the engine does not count prompt tokens, or even a short prompt is longer.
        """
        self.template_tokens = _length(engine, self._request("a", 1))
        lengths = {}
        for num_words in (16, 64):
            self.num_words = num_words
            lengths[num_words] = _length(engine, *self.take(1, max_tokens=1))
        if lengths[64] <= lengths[16]:
            raise DataError("the engine does not count the tokens of a prompt; use another one")
        each = (lengths[64] - lengths[16]) / 48
        self.num_words = max(1, round(16 + (wanted - lengths[16]) / each))
        reached = _length(engine, *self.take(1, max_tokens=1))
        if reached > wanted + SLACK:
            raise DataError(f"--prompt-tokens is {wanted}, and the shortest prompt has {reached}; raise it")
        return reached

    def _text(self) -> str:
        start = "".join(self._random.choices(string.ascii_lowercase, k=8))
        words = self._random.choices(WORDS.split(), k=self.num_words)
        return f"{start} {' '.join(words)}{CLOSING}"

    def _request(self, text: str, max_tokens: int) -> Request:
        sample = Sample(f"{self._random.random()}", (Message(self._role, text),))
        return Request(sample, Sampling(max_tokens=max_tokens), logprobs=False)


def run_together(engine: Engine, requests: Sequence[Request]) -> TimedRequests:
    """Hand requests to an engine at once and wait for all."""
    completions, latencies = [], []
    started = time.perf_counter()
    for _, completion in engine.complete(requests):
        completions.append(completion)
        latencies.append(time.perf_counter() - started)
    return TimedRequests(completions, latencies)


def _length(engine: Engine, request: Request) -> int:
    """Tokens of a request's prompt, as the engine counts them."""
    (completion,) = run_together(engine, [request]).completions
    if completion.finish_reason == "context":
        raise DataError("the prompt does not fit the model's context; lower --prompt-tokens")
    if completion.timing is None:
        raise DataError("the engine does not count tokens, so nothing can be measured; use another one")
    return completion.timing.prompt_tokens


def _written(completion: Completion) -> int:
    """Tokens of a completion, the end token included."""
    return completion.timing.completion_tokens if completion.timing else len(completion.token_ids)
