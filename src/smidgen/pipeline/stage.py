"""What a stage of a run is: small declared things that the runner, the planner and the report ask."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from smidgen.pipeline.context import RunContext
from smidgen.pipeline.events import Event
from smidgen.pipeline.probes import Probes


class Estimate(NamedTuple):
    """What a stage is going to take."""

    minutes: float
    memory_bytes: int


def no_more_inputs(context: RunContext) -> Mapping[str, Any]:
    """Nothing beside the tables of the recipe and the outputs of the stages before."""
    return {}


def no_entry(context: RunContext) -> Mapping[str, Any]:
    """Nothing in the report."""
    return {}


@dataclass(frozen=True)
class Stage:
    """One stage of a run.

    A stage whose inputs are what they were, and whose outputs are still as it left them, is skipped. One that
    was killed goes on if its inputs are the same; otherwise what it left is thrown away.

    Attributes:
        name: unique among the stages of a recipe.
        work: does it, yielding events.
        estimate: what it is going to take, from what was measured of this machine and these rows.
        needs: stages whose outputs it reads.
        tables: tables of the recipe that decide its outcome.
        inputs: what else decides it, as JSON values.
        outputs: files and folders that it writes, relative to the run folder.
        scratch: what it leaves beside them when it is killed.
        entry: what it adds to the content of `report.json`.
    """

    name: str
    work: Callable[[RunContext], Iterator[Event]]
    estimate: Callable[[RunContext, Probes], Estimate]
    needs: tuple[str, ...] = ()
    tables: tuple[str, ...] = ()
    inputs: Callable[[RunContext], Mapping[str, Any]] = no_more_inputs
    outputs: tuple[str, ...] = ()
    scratch: tuple[str, ...] = ()
    entry: Callable[[RunContext], Mapping[str, Any]] = no_entry
