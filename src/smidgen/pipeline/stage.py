"""The declaration of a stage, read by the runner, the planner and the report."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from smidgen.pipeline.budgets import Budgets, StageBudget
from smidgen.pipeline.context import RunContext
from smidgen.pipeline.events import Event
from smidgen.pipeline.probes import Probes
from smidgen.pipeline.times import Times


def no_more_inputs(context: RunContext) -> Mapping[str, Any]:
    """Return no inputs besides the recipe's tables and the outputs of earlier stages."""
    return {}


def no_entry(context: RunContext) -> Mapping[str, Any]:
    """Return no report content."""
    return {}


def no_estimate(times: Times) -> None:
    """Return that the time is not known beforehand."""


@dataclass(frozen=True)
class Stage:
    """One stage of a run.

    A stage is skipped if its inputs are unchanged and its outputs are intact. A stage that was killed resumes
    if its inputs are unchanged; otherwise its partial outputs are deleted and it starts over.

    Attributes:
        name: unique among the stages of a recipe.
        work: runs the stage, yielding events.
        minutes: expected time, from measurements on this machine and these rows.
        budget: expected memory and disk, from the settings alone.
        seconds: expected time, from the settings and two rates of the device; None if nothing is known of it.
        needs: stages whose outputs it reads.
        tables: tables of the recipe that determine its outputs.
        inputs: other inputs that determine its outputs, as JSON values.
        outputs: files and folders that it writes, relative to the run folder.
        scratch: intermediate files, such as checkpoints, relative to the run folder.
        entry: the content that it adds to `report.json`.
        changeable: keys of the recipe that may change while it is under way, if the caller asks for that.
    """

    name: str
    work: Callable[[RunContext], Iterator[Event]]
    minutes: Callable[[RunContext, Probes], float]
    budget: Callable[[Budgets], StageBudget]
    seconds: Callable[[Times], float | None] = no_estimate
    needs: tuple[str, ...] = ()
    tables: tuple[str, ...] = ()
    inputs: Callable[[RunContext], Mapping[str, Any]] = no_more_inputs
    outputs: tuple[str, ...] = ()
    scratch: tuple[str, ...] = ()
    entry: Callable[[RunContext], Mapping[str, Any]] = no_entry
    changeable: frozenset[str] = frozenset()
