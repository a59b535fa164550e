"""What tasks that are answered by log-probabilities share."""

from collections.abc import Iterable

from smidgen.data.types import Request
from smidgen.errors import ConfigError


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
