"""`smidgen plan --fit`: the smallest changes of a recipe with which every stage has enough memory.

Changes that leave the results alone come first: a smaller batch with gradient accumulation, then recomputing
activations. On a GPU a base in 4 bits is next, then fewer adapted blocks and, last, shorter rows.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

from smidgen.config import AnyRecipe, FinetuneConfig, Recipe
from smidgen.errors import ConfigError, DataError
from smidgen.figures.formatting import size
from smidgen.models.budget import training_budget
from smidgen.pipeline.budgets import Budgets
from smidgen.pipeline.forecast import stage_needs

Changes = dict[str, dict[str, Any]]
"""Changed keys by table, such as `train` or `train.lora`."""
FOUR_BITS = "BASE-4bit"
"""Stands for the folder of a quantised base."""
SHORTEST = 64
"""Rows are not made shorter than this."""


@dataclass(frozen=True)
class Fit:
    """Changes with which a recipe fits.

    Attributes:
        budgets: the budgets of the changed recipe.
        changes: the changed keys.
        notes: what the changes cost, one sentence each.
    """

    budgets: Budgets
    changes: Changes
    notes: list[str]

    @property
    def toml(self) -> str:
        """The changed lines of the recipe."""
        lines = []
        for table, keys in self.changes.items():
            lines += [f"[{table}]", *(f"{key} = {json.dumps(value)}" for key, value in keys.items())]
        return "\n".join(lines)


def fit(budgets: Budgets, available: int) -> Fit:
    """Return the smallest changes with which a recipe fits into some memory; none if it fits as it is.

    Args:
        budgets: the recipe's budgets.
        available: bytes of memory that it may take.

    Raises:
        ConfigError: nothing fits; says what the smallest settings need.
        UserError: the recipe is invalid, or its rows cannot be trained on as they are.
    """
    recipe = budgets.context.recipe
    smallest = training_budget(budgets.largest_step).needed
    candidates = list(_training_changes(budgets))
    needs = (_training_bytes(_with(budgets, changes)) for changes in reversed(candidates))
    smallest = next((needed for needed in needs if needed is not None), smallest)
    fitting = (
        changes
        for changes in candidates
        if (needed := _training_bytes(_with(budgets, changes))) is not None and needed <= available
    )
    found = next(fitting, None) if smallest <= available else None
    if found is not None:
        for answers in _answer_changes(recipe):
            changes = found | answers
            changed = _with(budgets, changes)
            smallest = max(stage.needed_bytes for stage in stage_needs(changed))
            if smallest <= available:
                return Fit(changed, changes, _notes(recipe, changes))
    adapts = getattr(recipe.train, "lora", None)
    advice = "use a smaller base" if adapts else "train an adapter ([train.lora]) or use a smaller model"
    raise ConfigError(
        f"{recipe.name} does not fit: with the smallest settings it needs {size(smallest)} of memory, "
        f"and {size(available)} may be used here; {advice}"
    )


def _training_bytes(budgets: Budgets) -> int | None:
    """Return the memory of the training; None if an answer does not fit into the rows."""
    try:
        return training_budget(budgets.largest_step).needed
    except DataError:
        return None


def _training_changes(budgets: Budgets) -> Iterator[Changes]:
    """Yield changes of the training by table, the least harmful first and the smallest setting last."""
    settings = budgets.context.recipe.train
    finetunes = isinstance(settings, FinetuneConfig)
    can_recompute = finetunes and budgets.shape.layered and not settings.gradient_checkpointing
    lora = settings.lora if finetunes else None
    quantized = budgets.shape.quantized_parameters > 0
    blocks = (lora and lora.num_layers) or budgets.shape.layers
    ways = product(
        [None, *_halves(settings.max_length, SHORTEST)],
        [None, *_halves(blocks, 1)] if lora else [None],
        [False, True] if lora and budgets.place.kind != "cpu" and not quantized else [False],
        [False, True] if can_recompute else [False],
        [None, *_halves(settings.batch_size, 1, exact=True)],
    )
    for length, num_layers, four_bits, recompute, batch in ways:
        train: dict[str, Any] = {}
        if batch:
            accumulation = settings.gradient_accumulation * settings.batch_size // batch
            train |= {"batch_size": batch, "gradient_accumulation": accumulation}
        train |= {"gradient_checkpointing": True} if recompute else {}
        train |= {"max_length": length} if length else {}
        changes: Changes = {"train": train} if train else {}
        changes |= {"model": {"base": FOUR_BITS}} if four_bits else {}
        yield changes | ({"train.lora": {"num_layers": num_layers}} if num_layers else {})


def _answer_changes(recipe: AnyRecipe) -> Iterator[Changes]:
    """Yield changes of the evaluations by table: fewer rows decoded together."""
    yield {}
    if isinstance(recipe, Recipe):
        yield from ({"evaluate": {"batch_size": rows}} for rows in _halves(recipe.evaluate.batch_size, 1))


def _halves(number: int, least: int, *, exact: bool = False) -> list[int]:
    """Return a number halved again and again down to `least`; with `exact`, as long as it divides evenly."""
    found = []
    while number // 2 >= least and not (exact and number % 2):
        number //= 2
        found.append(number)
    return found


def _with(budgets: Budgets, changes: Changes) -> Budgets:
    return budgets.changed(_changed(budgets.context.recipe, changes), four_bits="model" in changes)


def _changed(recipe: AnyRecipe, changes: Changes) -> AnyRecipe:
    train = recipe.train.model_copy(update=changes.get("train", {}))
    if "train.lora" in changes and isinstance(train, FinetuneConfig) and train.lora is not None:
        lora = train.lora.model_copy(update=changes["train.lora"])
        train = train.model_copy(update={"lora": lora})
    updated: dict[str, Any] = {"train": train}
    if isinstance(recipe, Recipe) and "evaluate" in changes:
        updated["evaluate"] = recipe.evaluate.model_copy(update=changes["evaluate"])
    return recipe.model_copy(update=updated)


def _notes(recipe: AnyRecipe, changes: Changes) -> list[str]:
    """Say what the changes cost."""
    train, notes = changes.get("train", {}), []
    if "batch_size" in train:
        notes.append("the rows of an optimiser step stay the same, so the results do")
    if "gradient_checkpointing" in train:
        notes.append("recomputing takes about a third more time; the results stay the same")
    if "model" in changes:
        notes.append("make that base with `smidgen quantize BASE --out BASE-4bit --bits 4`; it answers worse")
    if "train.lora" in changes:
        notes.append("fewer blocks are adapted, so the model can learn less")
    if "max_length" in train:
        notes.append(
            f"as a last resort, rows lose context beyond {train['max_length']} tokens (now "
            f"{recipe.train.max_length}), which can make the model worse"
        )
    return notes
