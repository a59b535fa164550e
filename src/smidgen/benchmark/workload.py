"""Requests of a given length for an engine, and the time it takes to complete them.

All times are wall-clock times from submitting requests until they are returned, because the times that an
engine reports exclude queueing and shared prefixes. Engines and servers cache shared prefixes, so no two
prompts start alike: local models get raw prompts without the chat template, and of a server's prompts only
the tokens beyond those of its template are counted.
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
"""Maximum number of tokens by which a prompt may exceed the requested length."""


class TimedRequests(NamedTuple):
    """Requests that were submitted together.

    Attributes:
        completions: in finishing order.
        latencies: seconds until each was returned.
    """

    completions: list[Completion]
    latencies: list[float]

    @property
    def seconds(self) -> float:
        """Seconds until the last one was returned."""
        return self.latencies[-1]

    @property
    def prompt_tokens(self) -> int:
        """Tokens of all prompts."""
        return sum(found.timing.prompt_tokens for found in self.completions if found.timing)

    @property
    def tokens(self) -> int:
        """Tokens of all completions."""
        return sum(_num_tokens(completion) for completion in self.completions)


class Prompts:
    """Requests of about the same length that share no prefix, apart from a server's template.

    Attributes:
        num_words: words per prompt, set by `fit`.
        template_tokens: tokens of a minimal prompt, that is of the template, set by `fit`.
    """

    def __init__(self, max_tokens: int, *, is_chat: bool):
        """Prepare prompts for completions of `max_tokens`; servers need chat prompts (`is_chat`)."""
        self._random = random.Random(0)
        self._max_tokens = max_tokens
        self._role = "user" if is_chat else "text"
        self.num_words = 16
        self.template_tokens = 0

    def take(self, number: int, *, max_tokens: int | None = None) -> list[Request]:
        """Make new requests."""
        return [self._request(self._text(), max_tokens or self._max_tokens) for _ in range(number)]

    def fit(self, engine: Engine, wanted: int) -> int:
        """Find the number of words for prompts of `wanted` tokens; return the actual length in tokens.

        Raises:
            DataError: the engine does not count prompt tokens, or even a short prompt is longer.
        """
        self.template_tokens = _length(engine, self._request("a", 1))
        lengths = {}
        for num_words in (16, 64):
            self.num_words = num_words
            lengths[num_words] = _length(engine, *self.take(1, max_tokens=1))
        if lengths[64] <= lengths[16]:
            raise DataError("the engine does not count prompt tokens; use another engine")
        each = (lengths[64] - lengths[16]) / 48
        self.num_words = max(1, round(16 + (wanted - lengths[16]) / each))
        reached = _length(engine, *self.take(1, max_tokens=1))
        if reached > wanted + SLACK:
            raise DataError(f"--prompt-tokens is {wanted}, but the shortest prompt has {reached}; raise it")
        return reached

    def _text(self) -> str:
        start = "".join(self._random.choices(string.ascii_lowercase, k=8))
        words = self._random.choices(WORDS.split(), k=self.num_words)
        return f"{start} {' '.join(words)}{CLOSING}"

    def _request(self, text: str, max_tokens: int) -> Request:
        sample = Sample(f"{self._random.random()}", (Message(self._role, text),))
        return Request(sample, Sampling(max_tokens=max_tokens), logprobs=False)


def run_together(engine: Engine, requests: Sequence[Request]) -> TimedRequests:
    """Submit requests to an engine together and wait for all of them."""
    completions, latencies = [], []
    started = time.perf_counter()
    for _, completion in engine.complete(requests):
        completions.append(completion)
        latencies.append(time.perf_counter() - started)
    return TimedRequests(completions, latencies)


def _length(engine: Engine, request: Request) -> int:
    """The prompt length of a request as counted by the engine."""
    (completion,) = run_together(engine, [request]).completions
    if completion.finish_reason == "context":
        raise DataError("the prompt does not fit the model's context; lower --prompt-tokens")
    if completion.timing is None:
        raise DataError("the engine does not count tokens, so it cannot be measured; use another engine")
    return completion.timing.prompt_tokens


def _num_tokens(completion: Completion) -> int:
    """The number of tokens of a completion, including the end token."""
    return completion.timing.completion_tokens if completion.timing else len(completion.token_ids)
