"""`smidgen serve`: an OpenAI-compatible server for a model and its adapters."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter
from cyclopts.types import NonNegativeInt, PositiveInt
from cyclopts.validators import Number

from smidgen.cli.console import print_json, say
from smidgen.cli.parameters import Json
from smidgen.errors import ConfigError
from smidgen.options import EngineOptions, whole

Finite = Number(gt=0, lt=math.inf)


@Parameter(name="*")
@dataclass(frozen=True)
class ServedEngine(EngineOptions):
    """The engine that runs the model in this process."""

    model: Annotated[str, Parameter(parse=False)] = "smidgen:nano"
    engine: Annotated[
        Literal["auto", "mlx", "llama"],
        Parameter(
            help="Engine that runs the model: MLX or llama.cpp. By default chosen by the model; on a CPU by "
            "a short measurement, kept in the cache folder."
        ),
    ] = "auto"
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
    max_tokens_limit: Annotated[
        PositiveInt,
        Parameter(
            converter=whole,
            help="Maximum answer length that a request may ask for. In llama.cpp, the memory of every place "
            "grows with the longest that was asked for.",
        ),
    ] = 4096
    queue: Annotated[
        NonNegativeInt,
        Parameter(converter=whole, help="Requests that may wait; further ones are refused with status 429."),
    ] = 256
    deadline: Annotated[
        float,
        Parameter(validator=Finite, help="Seconds after which a request is given up, waiting included."),
    ] = 600.0
    grace: Annotated[
        float,
        Parameter(validator=Finite, help="Seconds that running requests get when the server is stopped."),
    ] = 30.0


def serve(
    model: Annotated[
        str,
        Parameter(
            help="Model folder, .gguf file, hub id (owner/repo or owner/repo:subfolder), smidgen:nano or "
            "smidgen:smollm2."
        ),
    ],
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

    from smidgen.serving.app import build_app
    from smidgen.serving.names import ModelNames, named_adapters
    from smidgen.serving.server import BACKLOG, DrainingServer, bind, is_loopback, url_of
    from smidgen.serving.service import ServingSettings, open_service

    if not is_loopback(listening.host):
        raise ConfigError(
            f"--host is {listening.host}, which other machines reach; expected an address of this machine "
            "only, such as 127.0.0.1"
        )
    base = serving.name or model
    names = ModelNames(base, named_adapters(serving.adapter, base))
    settings = ServingSettings(
        serving.max_tokens, serving.deadline, engine.thinking, serving.queue, serving.max_tokens_limit
    )
    with (
        bind(listening.host, listening.port) as socket,  # first, in case the port is taken
        open_service(replace(engine, model=model), names, settings) as service,
    ):
        socket.listen(BACKLOG)
        url = url_of(socket)
        if json:
            print_json({"url": url, "models": [base, *names.adapters]}, on_one_line=True)
        say(f"{base} is served at {url}, described at {url.removesuffix('/v1')}/docs")
        DrainingServer(build_app(service), service.scheduler, grace_s=serving.grace).run(sockets=[socket])
