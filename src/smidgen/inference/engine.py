"""What evaluation, serving and the command line ask of whatever completes prompts."""

from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import Protocol

from smidgen.data.types import Completion, Request, Sample, Scored


class Stream:
    """The text of one completion in pieces, none of which holds half a character or part of a stop string.

    Attributes:
        completion: the whole of it, once every piece was read.
    """

    def __init__(self, pieces: Generator[str, None, Completion]):
        self.completion: Completion | None = None
        self._pieces = pieces

    def __iter__(self) -> Iterator[str]:
        self.completion = yield from self._pieces


class Engine(Protocol):
    """Something that completes prompts: weights, a server or a recording."""

    def complete(self, requests: Iterable[Request]) -> Iterator[tuple[Request, Completion]]:
        """Complete requests, each with its completion as it finishes.

        The order is the order of finishing. A timing counts from the moment a request's own prompt is run, so
        waiting for a place in the batch and running a shared prefix are not in it.

        Raises:
            UserError: a request cannot be served; the message says why and what to do.
        """
        ...

    def stream(self, request: Request) -> Stream:
        """Complete one request, handing out its text while it is made; raises as `complete` does."""
        ...

    def score(
        self, samples: Iterable[Sample], continuations: Sequence[str], *, least_share: float = 0.0
    ) -> Iterator[tuple[Sample, Scored]]:
        """Return the log-probability of every token of every continuation of each sample's prompt.

        Nothing is generated. Samples come back in any order. The end token is not scored.

        Args:
            samples: their messages are the prompts.
            continuations: texts that may follow each prompt.
            least_share: continuations are not run beyond the token where they part from each other if that
                token has less than this share of what all of them have there, and is not the most probable
                one; what follows it is −inf.

        Raises:
            UserError: the engine knows no probabilities.
        """
        ...

    def peak_memory_bytes(self) -> int | None:
        """Return the most memory used so far, or None where it is not known."""
        ...

    def close(self) -> None:
        """Release what the engine holds; it cannot be used afterwards."""
        ...
