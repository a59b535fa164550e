"""What a server offers: a model with adapters, and the scheduler of its engine."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from smidgen.data.templates import Tokenizer
from smidgen.data.types import Message, Request, Sample, Sampling
from smidgen.errors import ConfigError, ModelError
from smidgen.inference import engine_identity, open_local_engine
from smidgen.options import EngineOptions
from smidgen.serving.faults import ApiError
from smidgen.serving.names import ModelNames
from smidgen.serving.scheduler import MOST_WAITING, Scheduler


@dataclass(frozen=True)
class ServingSettings:
    """Settings of a server.

    Attributes:
        max_tokens: maximum tokens of an answer whose request does not say.
        deadline_s: seconds after which a request is given up, waiting included.
        thinking: whether the chat template opens a thinking block, as in the engine.
        most_waiting: number of requests that may wait for a place.
        most_tokens: maximum tokens that a request may ask for: what a long row reserves of the KV cache is
            room for many others, whether it gets as long or not.
    """

    max_tokens: int = 512
    deadline_s: float = 600.0
    thinking: bool = False
    most_waiting: int = MOST_WAITING
    most_tokens: int = 4096

    def __post_init__(self):
        """Validate the values.

        Raises:
            ConfigError: answers would be longer than they may be.
        """
        if self.max_tokens > self.most_tokens:
            raise ConfigError(
                f"--max-tokens is {self.max_tokens}, more than --max-tokens-limit, {self.most_tokens}; lower "
                "it, or raise the limit"
            )

    def check_length(self, max_tokens: int, param: str) -> None:
        """Check the length of answer that a request asks for in its field `param`.

        Raises:
            ApiError: 400; it is more than this server writes.
        """
        if max_tokens > self.most_tokens:
            fault = f"{param} is {max_tokens}, more than the {self.most_tokens} of this server; lower it"
            raise ApiError(400, fault, param=param)


@dataclass(frozen=True)
class Service:
    """A model that is served.

    Attributes:
        names: the names of the model and its adapters.
        scheduler: takes requests to its engine.
        tokenizer: its tokenizer.
        settings: settings of the server.
        fingerprint: `system_fingerprint` of answers, which changes with the weights.
    """

    names: ModelNames
    scheduler: Scheduler
    tokenizer: Tokenizer
    settings: ServingSettings = ServingSettings()
    fingerprint: str = "fp_unknown"


@contextmanager
def open_service(options: EngineOptions, names: ModelNames, settings: ServingSettings) -> Iterator[Service]:
    """Load a model and its adapters and serve them, as a context, at whose end everything is closed.

    Raises:
        ConfigError: a setting does not apply to the engine.
        ModelError: the model cannot be loaded or run, or an adapter does not fit it.
    """
    engine = open_local_engine(options)
    try:
        scheduler = Scheduler(engine.session(), places=engine.batch_size, most_waiting=settings.most_waiting)
        try:
            warm_up(scheduler, names)
            fingerprint = f"fp_{engine_identity(options)[:12]}"
            yield Service(names, scheduler, engine.tokenizer, settings, fingerprint)
        finally:
            scheduler.close()
    finally:
        engine.close()


def warm_up(scheduler: Scheduler, names: ModelNames) -> None:
    """Load the model and each adapter by an answer of one token, so that a fault shows before the start.

    Raises:
        ModelError: the model cannot be run, or an adapter does not fit it.
    """
    sample = Sample("warm-up", (Message("text", "a"),))
    request = Request(sample, Sampling(max_tokens=1), logprobs=False)
    for name, adapter in [(names.base, None), *names.adapters.items()]:
        try:
            asyncio.run(scheduler.complete(replace(request, adapter=adapter), "warm-up"))
        except ApiError as error:
            raise ModelError(f"{name} cannot be served: {error.message}") from None
