"""`smidgen serve`: an OpenAI-compatible server for a model and its adapters."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter
from cyclopts.types import NonNegativeInt, PositiveInt
from cyclopts.validators import Number

from smidgen.cli.console import print_json, say
from smidgen.cli.parameters import Json
from smidgen.errors import ConfigError
from smidgen.options import EngineOptions, whole

if TYPE_CHECKING:
    from smidgen.serving.guard import Guards

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

    host: Annotated[
        str, Parameter(help="Address to listen on; one that other machines reach needs API keys.")
    ] = "127.0.0.1"
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
    idle: Annotated[
        float | None,
        Parameter(validator=Finite, help="Seconds without a request after which the server ends by itself."),
    ] = None


@Parameter(name="*")
@dataclass(frozen=True)
class GuardOptions:
    """Who may use the server, and how much."""

    api_keys: Annotated[
        Path | None,
        Parameter(
            help="File of API keys, one per line; those in the variable SMIDGEN_API_KEYS are taken too. With "
            "keys, the server may listen on other addresses than this machine's own."
        ),
    ] = None
    allowed_host: Annotated[
        tuple[str, ...], Parameter(help="Further name that clients reach the server by; repeatable.")
    ] = ()
    allowed_origin: Annotated[
        tuple[str, ...],
        Parameter(
            help="Origin of web pages whose requests a proxy passes on, as https://tools.lan; repeatable."
        ),
    ] = ()
    rate_limit: Annotated[
        float | None,
        Parameter(validator=Finite, help="Requests per minute of one key, or of one address without keys."),
    ] = None
    max_body: Annotated[
        PositiveInt, Parameter(converter=whole, help="Maximum size of a request's body in KiB.")
    ] = 4096
    max_connections: Annotated[
        PositiveInt, Parameter(converter=whole, help="Maximum number of open connections.")
    ] = 1000


@Parameter(name="*")
@dataclass(frozen=True)
class LogOptions:
    """The log of requests."""

    log_file: Annotated[
        Path | None, Parameter(help="File for the log, one JSON object per request; stderr by default.")
    ] = None
    log_prompts: Annotated[
        bool, Parameter(show_default=False, help="Log the bodies of requests, prompts included.")
    ] = False


@Parameter(name="*")
@dataclass(frozen=True)
class SpecialistOptions:
    """What judges, decides and remembers."""

    judge: Annotated[
        str | None, Parameter(help="Served name of the model that judges; the base model by default.")
    ] = None
    judge_template: Annotated[
        str | None, Parameter(help="The judge's template: rubric, scores, verdict, or a TOML file.")
    ] = None
    router: Annotated[
        str | None,
        Parameter(help="Served name of the model that decides on memories; the base model by default."),
    ] = None
    budget: Annotated[
        float, Parameter(validator=Finite, help="Seconds after which a decision on a memory is deferred.")
    ] = 0.5
    intents: Annotated[
        Path | None, Parameter(help="JSON file of intents for texts to classify that come without.")
    ] = None
    store: Annotated[
        Path | None,
        Parameter(help="Memory store (SQLite) of /v1/route and /v1/memory, made if there is none."),
    ] = None


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
    guarding: GuardOptions = GuardOptions(),
    logging: LogOptions = LogOptions(),
    specialists: SpecialistOptions = SpecialistOptions(),
    json: Json = False,
) -> None:
    """Serve a model and its adapters to OpenAI's clients, until Ctrl-C or SIGTERM.

    A judge, a memory router and its store have endpoints too. Running requests are finished first. The
    endpoints are described at /docs. With --json the address is printed as one line.
    """
    from contextlib import closing
    from dataclasses import replace

    from smidgen.serving.access_log import AccessLog
    from smidgen.serving.app import build_app
    from smidgen.serving.guard import observed
    from smidgen.serving.metrics import Metrics
    from smidgen.serving.names import ModelNames, named_adapters
    from smidgen.serving.server import BACKLOG, DrainingServer, bind, url_of
    from smidgen.serving.service import ServingSettings, open_service
    from smidgen.serving.specialists import OPERATIONS, Specialists, SpecialistSettings

    guards = _guards(listening.host, guarding)
    base = serving.name or model
    names = ModelNames(base, named_adapters(serving.adapter, base))
    settings = ServingSettings(
        serving.max_tokens, serving.deadline, engine.thinking, serving.queue, serving.max_tokens_limit
    )
    with (
        bind(listening.host, listening.port) as socket,  # first, in case the port is taken
        closing(AccessLog(logging.log_file, prompts=logging.log_prompts)) as log,
        log.taking("uvicorn.error", "asyncio"),
        open_service(replace(engine, model=model), names, settings) as service,
        Specialists(service, SpecialistSettings(**vars(specialists))) as given,
    ):
        metrics = Metrics(service.scheduler)
        app = build_app(
            service,
            routes=[*given.routes, metrics.route],
            operations=OPERATIONS,
            middleware=observed(guards, log, metrics),
        )
        server = DrainingServer(
            app,
            service.scheduler,
            grace_s=serving.grace,
            most_connections=guarding.max_connections,
            idle_s=serving.idle,
            before=given.open,
        )
        socket.listen(BACKLOG)
        url = url_of(socket)
        if json:
            print_json({"url": url, "models": [base, *names.adapters]}, on_one_line=True)
        say(f"{base} is served at {url}, described at {url.removesuffix('/v1')}/docs")
        server.run(sockets=[socket])


def _guards(host: str, given: GuardOptions) -> "Guards":
    """Return what the server takes and refuses; without keys it listens on this machine only."""
    from smidgen.inference.loopback import is_loopback
    from smidgen.serving.guard import Guards
    from smidgen.serving.keys import read_keys

    keys = read_keys(given.api_keys)
    if not keys and not is_loopback(host):
        raise ConfigError(
            f"--host is {host}, which other machines reach, but there are no API keys; give a file with "
            "--api-keys, or listen on 127.0.0.1"
        )
    return Guards(
        keys,
        host,
        given.allowed_host,
        given.allowed_origin,
        max_body_bytes=given.max_body * 1024,
        requests_per_minute=given.rate_limit,
    )
