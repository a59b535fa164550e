"""What tasks that are answered by log-probabilities share."""

from collections.abc import Callable, Iterable, Iterator, Sequence

from smidgen.data.types import Completion, Continuations, Request
from smidgen.errors import ConfigError
from smidgen.tasks.task import Answerer


def without_adapters(requests: Iterable[Request]) -> list[Request]:
    """Return requests that have no adapter of their own, which log-probability scoring does not support.

    Raises:
        ConfigError: a request has one.
    """
    found = list(requests)
    if adapters := [request.adapter for request in found if request.adapter is not None]:
        raise ConfigError(
            f"log-probability scoring does not support adapters per request, such as {adapters[0]}; "
            "open the engine with the adapter"
        )
    return found


def completed_by_scores(
    engine: Answerer,
    requests: Iterable[Request],
    continuations: Continuations,
    text_of: Callable[[Sequence[Sequence[float]]], str],
    *,
    least_share: float = 0.0,
) -> Iterator[tuple[Request, Completion]]:
    """Complete requests with texts made from the log-probabilities of continuations, in any order.

    What does not fit the context of the model has the finish reason `context`.

    Args:
        engine: scores the continuations.
        requests: their samples are the prompts; sampling settings are ignored.
        continuations: as in `Engine.score`.
        text_of: returns the text of a completion, given the log-probabilities of the tokens of every
            continuation.
        least_share: as in `Engine.score`.

    Raises:
        ConfigError: a request has its own adapter.
    """
    by_id = {request.sample.id: request for request in without_adapters(requests)}
    samples = (request.sample for request in by_id.values())
    for sample, scored in engine.score(samples, continuations, least_share=least_share):
        if scored.logprobs is None:
            yield by_id[sample.id], Completion("", finish_reason="context")
        else:
            yield by_id[sample.id], Completion(text_of(scored.logprobs), timing=scored.timing)
