"""`smidgen train`: the training of a recipe by itself, resumable at any moment."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smidgen.cli.console import Progress, duration, print_json, say
from smidgen.cli.options import Json, RecipeFile, RunsFolder

if TYPE_CHECKING:
    from smidgen.config import PretrainRecipe
    from smidgen.data.types import StepResult
    from smidgen.runs import Run

# What a tokenizer learns from: 4 MB of text, in which every word of the world stands many times.
TOKENIZER_DOCUMENTS = 20_000


def train(recipe: RecipeFile, /, *, runs: RunsFolder = Path("runs"), json: Json = False) -> None:
    """Train as a recipe says, going on from the last checkpoint of its run folder."""
    from smidgen.cli.run import live
    from smidgen.config import Recipe, read_recipe, resolved_toml
    from smidgen.runs import Run

    settings = read_recipe(recipe)
    run = Run(runs / settings.name)
    if isinstance(settings, Recipe):
        summary = live(settings, run, only=("data", "train"))["training"]
    else:
        with run.lock():
            bind(run, settings)
            run.write_text("config.toml", resolved_toml(settings))
            summary = pretrain(settings, run)
    if json:
        print_json(summary)
    else:
        say(f"{run.path('best')}: best of {summary['steps']} steps, {duration(summary['seconds'])}")


def bind(run: "Run", recipe: "PretrainRecipe") -> None:
    """Refuse to go on with a run that was begun with other data or another model.

    Raises:
        ConfigError: it was; the training settings are checked by the checkpoints.
    """
    from smidgen.files import read_json
    from smidgen.runs import refuse_changes

    tables = recipe.model_dump(mode="json", include={"model", "data"})
    wanted = {f"{table}.{name}": value for table, values in tables.items() for name, value in values.items()}
    if run.path("begun.json").exists():
        refuse_changes(run.folder, read_json(run.path("begun.json")), wanted)
    run.write_json("begun.json", wanted)


def pretrain(recipe: "PretrainRecipe", run: "Run") -> dict[str, Any]:
    """Make a tokenizer and a model from nothing and train it on the world's text; return what was done."""
    from smidgen.backend import device, mx
    from smidgen.data.corpus import curriculum, documents
    from smidgen.models.graph import create
    from smidgen.models.save import save_model
    from smidgen.training.batches import fixed_batches
    from smidgen.training.loop import train as train_model
    from smidgen.training.objectives.likelihood import Likelihood
    from smidgen.training.pretrain import PackedBatches, fast_encoder, packed_rows

    run.start(seeds={"data": recipe.data.seed, "train": recipe.train.seed}, data={}, device=device().name)
    folder = make_tokenizer(recipe, run)
    encode, separator = fast_encoder(folder / "tokenizer.json")
    model, config = create(recipe.model.architecture, recipe.train.seed)
    config |= end_tokens(folder)
    seed, settings = recipe.data.seed, recipe.train
    held_back = packed_rows(
        lambda start: documents(seed + 1, start),
        encode,
        separator,
        count=recipe.data.validation_limit,
        max_length=settings.max_length,
    )
    results = train_model(
        model,
        Likelihood(),
        batches := PackedBatches(lambda start: curriculum(seed, start), encode, separator, settings),
        settings,
        run_dir=run.folder,
        validation=fixed_batches(held_back, settings.batch_size),
        save=lambda path: save_model(path, model, config, folder, dtype=mx.bfloat16),
    )
    summary = follow(results, batches.num_steps)
    run.finish()
    return summary


def make_tokenizer(recipe: "PretrainRecipe", run: "Run") -> Path:
    """Learn the tokenizer of a pretraining run once, into its folder `tokenizer`."""
    from smidgen.data.corpus import tokenizer_documents
    from smidgen.data.tokenizer import save_tokenizer, train_tokenizer
    from smidgen.files import atomic_folder

    folder = run.path("tokenizer")
    if not folder.exists():
        texts = tokenizer_documents(recipe.data.seed, TOKENIZER_DOCUMENTS)
        tokenizer = train_tokenizer(texts, recipe.model.architecture.vocab_size)
        with atomic_folder(folder) as partial:
            save_tokenizer(tokenizer, partial, context=recipe.model.architecture.max_position_embeddings)
    return folder


def end_tokens(folder: Path) -> dict[str, int | None]:
    """The ids that `config.json` names, from the tokenizer in `folder`."""
    from smidgen.data.templates import load_tokenizer
    from smidgen.data.tokenizer import END_OF_TEXT, TURN_END

    tokenizer = load_tokenizer(folder)
    (end,), (padding,) = tokenizer.encode(TURN_END), tokenizer.encode(END_OF_TEXT)
    return {"bos_token_id": None, "eos_token_id": end, "pad_token_id": padding}


def follow(results: "Iterator[StepResult]", steps: int) -> dict[str, Any]:
    """Show a training run while it goes on and sum it up."""
    started, last = time.monotonic(), None
    with Progress("train", total=steps) as progress:
        for result in results:
            if last is None:
                progress.begin_at(result.step - 1)
            last = result
            progress.update(
                result.step, tokens=result.tokens, loss=result.loss, validation=result.validation_loss
            )
    return {
        "steps": steps,
        "seconds": time.monotonic() - started,
        "last": last.to_json() if last else None,
    }
