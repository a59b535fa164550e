"""Options of the commands that can share their rows among workers of Ray."""

from dataclasses import dataclass, replace
from typing import Annotated, TypeVar

from cyclopts import Parameter
from cyclopts.types import NonNegativeFloat, PositiveFloat, PositiveInt

from smidgen.errors import ConfigError
from smidgen.options import EngineOptions, Workers, whole

Engine = TypeVar("Engine", bound=EngineOptions)


@Parameter(name="*")
@dataclass(frozen=True)
class RayOptions:
    """Whether rows are shared among workers of Ray, and which.

    Raises:
        ConfigError: a detail is given without `ray`.
    """

    ray: Annotated[
        bool,
        Parameter(
            show_default=False,
            help="Share the rows among workers of Ray, each with an engine of its own, on this machine or a "
            "cluster; see docs/scale.md. Needs the extra smidgen[ray].",
        ),
    ] = False
    workers: Annotated[
        PositiveInt | None,
        Parameter(
            converter=whole, help="Number of workers; default: one for each server, or two. Needs --ray."
        ),
    ] = None
    endpoint: Annotated[
        tuple[str, ...],
        Parameter(
            help="URL of a further server of the same model, beside that of --model; repeatable. Needs --ray."
        ),
    ] = ()
    ray_address: Annotated[
        str | None,
        Parameter(
            help="Address of a Ray cluster to join, as HOST:6379 or auto; default: Ray on this machine, for "
            "this command only. Needs --ray."
        ),
    ] = None
    worker_cpus: Annotated[
        PositiveFloat | None, Parameter(help="CPU cores of a worker; default: 1. Needs --ray.")
    ] = None
    worker_gpus: Annotated[
        NonNegativeFloat | None, Parameter(help="GPUs of a worker; default: 0. Needs --ray.")
    ] = None

    def __post_init__(self):
        """Refuse details without `ray`."""
        given = [
            name for name, value in vars(self).items() if value is not None and value != () and name != "ray"
        ]
        if given and not self.ray:
            raise ConfigError(f"--{given[0].replace('_', '-')} applies only to workers of Ray; add --ray")

    def workers_of(self) -> Workers | None:
        """Return the workers that were asked for; None without `ray`."""
        if not self.ray:
            return None
        return Workers(
            number=self.workers,
            endpoints=self.endpoint,
            address=self.ray_address,
            cpus=1.0 if self.worker_cpus is None else self.worker_cpus,
            gpus=self.worker_gpus or 0.0,
        )

    def spread(self, engine: Engine) -> Engine:
        """Return the options of an engine with the workers that were asked for."""
        return replace(engine, workers=self.workers_of())
