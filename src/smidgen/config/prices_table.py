"""Prices of judgements: the file that `--prices` reads."""

from pathlib import Path

from pydantic import Field

from smidgen.config.base import Section, parse_table, read_toml


class ApiPrice(Section):
    """List price of an API, applied to the token counts that were measured here."""

    name: str
    """Name of the API in the report."""
    input_per_million: float = Field(ge=0.0)
    """Price of a million input tokens."""
    output_per_million: float = Field(ge=0.0)
    """Price of a million output tokens."""

    def money(self, read: int, written: int) -> float:
        """Return the price of some input and output tokens."""
        return (read * self.input_per_million + written * self.output_per_million) / 1e6


class MachineRate(Section):
    """A machine that can answer rows, for `smidgen plan --rows`."""

    name: str
    """Name of the machine in the plan."""
    tokens_per_second: float = Field(gt=0.0)
    """Prompt and generated tokens per second together, measured on it with many requests at once, such as the
    total token throughput of `vllm bench serve`."""
    per_hour: float | None = Field(default=None, ge=0.0)
    """Price of an hour of it."""
    count: int = Field(default=1, ge=1)
    """Number of such machines, or endpoints."""
    source: str = "prices"
    """Where the rate was measured, for the plan."""


class Prices(Section):
    """Prices for the cost table of a report."""

    currency: str = "USD"
    """Currency of every price."""
    machine_per_hour: float = Field(default=0.1, ge=0.0)
    """Cost of an hour of this machine: its rent, or its power and depreciation."""
    api: tuple[ApiPrice, ...] = (
        ApiPrice(name="gpt-4o (list price, April 2026)", input_per_million=2.5, output_per_million=10.0),
        ApiPrice(name="gpt-4o-mini (list price, April 2026)", input_per_million=0.15, output_per_million=0.6),
    )
    """APIs to compare with at equal token counts; default: gpt-4o and gpt-4o-mini at list price. A teacher on
    a server costs the price of the API that has the `model_name` of the teacher as its name."""
    machine: tuple[MachineRate, ...] = ()
    """Further machines for `smidgen plan --rows`, with rates that were measured on them."""

    def of(self, name: str) -> ApiPrice | None:
        """Return the price of a model on a server; a note in brackets after a listed name does not matter."""
        return next((api for api in self.api if name and api.name.split(" (")[0] == name), None)


def read_prices(path: Path | None) -> Prices:
    """Read a price file; the defaults if `path` is None. Raises as `read_recipe` does."""
    if path is None:
        return Prices()
    return parse_table(Prices, read_toml(path, "price file; see docs/configuration.md"), str(path))
