"""`smidgen train`: the training stage of a recipe by itself."""

from pathlib import Path

from smidgen.cli.options import Json, RecipeFile, RunsFolder
from smidgen.errors import WorkError


def train(recipe: RecipeFile, /, *, runs: RunsFolder = Path("runs"), json: Json = False) -> None:
    """Train as a recipe says, going on from the last checkpoint of its run folder."""
    from smidgen.config import read_recipe

    settings = read_recipe(recipe)
    raise WorkError(f"training by itself is not part of this version; start `smidgen run {settings.name}`")
