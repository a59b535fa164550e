"""`smidgen serve`: an OpenAI-compatible server for a model and its adapters."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from cyclopts.types import NonNegativeInt, PositiveFloat, PositiveInt
from cyclopts.validators import Number

from smidgen.cli.console import print_json, say
from smidgen.cli.parameters import Json
from smidgen.errors import ConfigError
from smidgen.options import EngineOptions, Model, whole

Seconds = Annotated[float, Parameter(validator=Number(gt=0, lt=math.inf))]


@Parameter(name="*")
@dataclass(frozen=True)
class ServedEngine(EngineOptions):
    """The engine that runs the model in this process."""

    model: Annotated[Model, Parameter(parse=False)] = "smidgen:nano"
    model_name: Annotated[str | None, Parameter(parse=False)] = None
    api_key_env: Annotated[str | None, Parameter(parse=False)] = None
    timeout: Annotated[float | None, Parameter(parse=False)] = None
    adapter: Annotated[Path | None, Parameter(parse=False)] = None
    batch_size: Annotated[
        PositiveInt,
        Parameter(converter=whole, help="Maximum number of requests decoded together; llama.cpp takes 16."),
    ] = 64


@Parameter(name="*")
@dataclass(frozen=True)
class ListenOptions:
    """Where the server listens."""

    host: Annotated[str, Parameter(help="Address to listen on; only this machine's own are allowed.")] = (
        "127.0.0.1"
    )
    port: Annotated[
        NonNegativeInt,
        Parameter(converter=whole, validator=Number(lte=65535), help="Port; 0 takes a free one."),
    ] = 8765


@Parameter(name="*")
@dataclass(frozen=True)
class ServingOptions:
    """What requests get."""

    name: Annotated[
        str | None, Parameter(help="Name of the base model for clients; the model as given by default.")
    ] = None
    adapter: Annotated[
        tuple[str, ...],
        Parameter(help="LoRA adapter to serve as a model of its own, NAME=PATH; repeatable."),
    ] = ()
    max_tokens: Annotated[
        PositiveInt,
        Parameter(converter=whole, help="Maximum answer length in tokens where a request does not say."),
    ] = 512
    queue: Annotated[
        NonNegativeInt,
        Parameter(converter=whole, help="Requests that may wait; further ones are refused with status 429."),
    ] = 256
    deadline: Annotated[
        PositiveFloat, Parameter(help="Seconds after which a request is given up, waiting included.")
    ] = 600.0
    grace: Annotated[
        PositiveFloat, Parameter(help="Seconds that running requests get when the server is stopped.")
    ] = 30.0


def serve(
    model: Model,
    *,
    engine: ServedEngine = ServedEngine(),
    listening: ListenOptions = ListenOptions(),
    serving: ServingOptions = ServingOptions(),
    json: Json = False,
) -> None:
    """Serve a model and its adapters to OpenAI's clients, until Ctrl-C or SIGTERM.

    Running requests are finished first. The endpoints are described at /docs. With --json the address is
    printed as one line.
    """
    from dataclasses import replace

    from smidgen.inference import engine_identity, open_local_engine
    from smidgen.serving.app import build_app
    from smidgen.serving.names import ModelNames, named_adapters
    from smidgen.serving.scheduler import Scheduler
    from smidgen.serving.server import DrainingServer, is_loopback, listen, url_of
    from smidgen.serving.service import Service, ServingSettings, warm_up

    if not is_loopback(listening.host):
        raise ConfigError(
            f"--host is {listening.host}, which other machines reach; expected an address of this machine "
            "only, such as 127.0.0.1"
        )
    base = serving.name or model
    names = ModelNames(base, named_adapters(serving.adapter, base))
    options = replace(engine, model=model)
    socket = listen(listening.host, listening.port)
    opened = open_local_engine(options)
    warm_up(opened, names)
    scheduler = Scheduler(opened.session(), places=opened.batch_size, most_waiting=serving.queue)
    settings = ServingSettings(serving.max_tokens, serving.deadline, engine.thinking)
    fingerprint = f"fp_{engine_identity(options)[:12]}"
    service = Service(names, scheduler, opened.tokenizer, settings, fingerprint)
    url = url_of(socket)
    if json:
        print_json({"url": url, "models": [base, *names.adapters]}, on_one_line=True)
    say(f"{base} is served at {url}, described at {url.removesuffix('/v1')}/docs")
    try:
        DrainingServer(build_app(service), scheduler, grace_s=serving.grace).run(sockets=[socket])
    finally:
        scheduler.close()
        opened.close()
