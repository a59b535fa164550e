"""Intents that an adapter has learnt by heart, so that they need not stand in a prompt."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from smidgen.config import Recipe, read_recipe
from smidgen.errors import DataError
from smidgen.files import read_jsonl
from smidgen.tasks.intent import Intent, IntentSettings


@dataclass(frozen=True)
class LearnedIntents:
    """What a training of the task `intent` made.

    Attributes:
        adapter: folder of its LoRA adapter, on the base of the router's model.
        task: the task with its labels and its system message.
    """

    adapter: Path
    task: Intent

    @classmethod
    def of_run(cls, run: Path) -> Self:
        """Read the folder of a run.

        Raises:
            ConfigError: its recipe cannot be read.
            DataError: it is not the run of a recipe with `task = "intent"`, or has no adapter.
        """
        recipe_file, adapter = run / "config.toml", run / "best"
        if not recipe_file.is_file():
            raise DataError(
                f"{run} is no run of a recipe, which has a config.toml; name one such as runs/intent-smollm2"
            )
        recipe = read_recipe(recipe_file)
        if not isinstance(recipe, Recipe) or recipe.task != "intent":
            raise DataError(
                f'{run} is not the run of a recipe with task = "intent"; its labels are not known'
            )
        if not (adapter / "adapters.safetensors").is_file():
            raise DataError(f"{run} has no adapter in best/; train it with [train.lora]")
        files = [run / "data" / f"{part}.jsonl" for part in ("train", "validation")]
        labels = {row["metadata"]["intent"] for file in files for row in read_jsonl(file)}
        return cls(adapter, Intent(labels, IntentSettings.model_validate(recipe.settings)))
