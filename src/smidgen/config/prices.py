"""What judgements cost: the file that `--prices` reads."""

from pathlib import Path

from pydantic import Field

from smidgen.config.base import Section, parse_table, read_toml


class ApiPrice(Section):
    """The list price of an API, for a judgement of as many tokens as were counted here."""

    name: str
    """What the report calls it."""
    input_per_million: float = Field(ge=0.0)
    """Price of a million tokens read."""
    output_per_million: float = Field(ge=0.0)
    """Price of a million tokens written."""


class Prices(Section):
    """What judgements cost, for the cost table of a report."""

    currency: str = "USD"
    """Unit of every price."""
    machine_per_hour: float = Field(default=0.1, ge=0.0)
    """What an hour of this machine costs: its rent, or its power and its share of the price."""
    api: tuple[ApiPrice, ...] = (
        ApiPrice(name="gpt-4o (list price, April 2026)", input_per_million=2.5, output_per_million=10.0),
        ApiPrice(name="gpt-4o-mini (list price, April 2026)", input_per_million=0.15, output_per_million=0.6),
    )
    """What as many tokens would cost elsewhere; gpt-4o and gpt-4o-mini at list price when absent."""


def read_prices(path: Path | None) -> Prices:
    """Read a file of prices; without one, the prices are the defaults. Raises as `read_recipe` does."""
    if path is None:
        return Prices()
    return parse_table(Prices, read_toml(path, "file of prices; see docs/configuration.md"), str(path))
