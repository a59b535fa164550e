"""`smidgen run`: the whole life of one specialist, as its recipe says."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from smidgen.cli.console import print_json
from smidgen.cli.options import Json, RecipeFile, RunsFolder
from smidgen.errors import WorkError

if TYPE_CHECKING:
    from smidgen.config import Recipe
    from smidgen.runs import Run


def run(recipe: RecipeFile, /, *, runs: RunsFolder = Path("runs"), json: Json = False) -> None:
    """Train, evaluate and quantise as a recipe says; stages that are done are skipped."""
    from smidgen.config import read_recipe, resolved_toml
    from smidgen.runs import Run

    settings = read_recipe(recipe)
    folder = Run(runs / settings.name)
    with folder.lock():
        folder.write_text("config.toml", resolved_toml(settings))
        report = live(settings, folder)
    if json:
        print_json(report)


def live(recipe: "Recipe", folder: "Run") -> dict[str, Any]:
    """Go through the stages of a recipe and return the report."""
    raise WorkError(f"the stages of {recipe.name} are not part of this version; use train and evaluate")
