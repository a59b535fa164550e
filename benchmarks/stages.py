"""The held-out loss of models by source of text, with paired intervals: what a stage of training was worth.

    python benchmarks/stages.py recipes/mobilellm-mini-midtrain.toml runs/FIRST/best runs/SECOND/best …

Rows are those that the recipe holds out of its files, which no training on the same files with the same seed
has read. Losses are in nats per token of the models' common tokenizer, each document with its own attention.
Intervals of 95 % are from a bootstrap over rows; the difference from the first model is paired by row.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from _common import machine, write_results
from smidgen.config import PretrainRecipe, read_recipe
from smidgen.models.load import load, resolve
from smidgen.pipeline.corpus import Corpus
from smidgen.pipeline.events import result_of
from smidgen.pipeline.jobs import survey_sources
from smidgen.training.batches import pad
from smidgen.training.objectives.likelihood import Likelihood
from smidgen.training.pretrain import fast_encoder, validation_rows

RESAMPLES = 10_000


def held_out(recipe: PretrainRecipe, tokenizer: Path, count: int) -> dict[str, list[Any]]:
    """Return rows of the held-out documents of each source, at most `count`."""
    corpus = Corpus(recipe, result_of(survey_sources(recipe)))
    encode, separator = fast_encoder(tokenizer / "tokenizer.json")
    return {
        source.name: validation_rows(corpus.held_out(source), encode, separator, recipe.train, count=count)
        for source in corpus.configs
    }


def losses_of(name: str, rows: dict[str, list[Any]]) -> dict[str, np.ndarray]:
    """Return for each source the summed loss and the tokens of each row, (rows, 2)."""
    model, objective, found = load(name).model, Likelihood(), {}
    model.eval()
    for source, own in rows.items():
        batches = [pad([row]) for row in own]
        found[source] = np.array(
            [(objective.loss(model, one).loss.item(), objective.weight(one)) for one in batches]
        )
    return found


def with_interval(losses: np.ndarray, draws: np.ndarray) -> list[float]:
    """Return the loss per token and its interval: `losses` (rows, 2), `draws` (resamples, rows) of rows."""
    replicates = losses[draws].sum(axis=1)
    low, high = np.quantile(replicates[:, 0] / replicates[:, 1], [0.025, 0.975])
    total = losses.sum(axis=0)
    return [float(total[0] / total[1]), float(low), float(high)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("recipe", type=Path)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--rows", type=int, default=200, help="most rows of each source (default: 200)")
    arguments = parser.parse_args()
    recipe = read_recipe(arguments.recipe)
    if not isinstance(recipe, PretrainRecipe):
        parser.error(f'{arguments.recipe} has another method; expected method = "pretrain"')
    rows = held_out(recipe, resolve(arguments.models[0]), arguments.rows)
    random = np.random.default_rng(0)
    draws = {name: random.integers(0, len(own), (RESAMPLES, len(own))) for name, own in rows.items()}
    results: dict[str, Any] = {}
    first: dict[str, np.ndarray] | None = None
    for name in arguments.models:
        found = losses_of(name, rows)
        first = first or found
        results[name] = {}
        print(f"\n{name}")
        for source, losses in found.items():
            beside = np.column_stack([losses[:, 0] - first[source][:, 0], losses[:, 1]])
            loss, difference = (with_interval(one, draws[source]) for one in (losses, beside))
            results[name][source] = {"rows": len(losses), "loss": loss, "difference": difference}
            print(
                f"  {source:12}{len(losses):5} rows{loss[0]:8.3f} ({loss[1]:.3f} to {loss[2]:.3f})"
                f"   against the first {difference[0]:+.3f} ({difference[1]:+.3f} to {difference[2]:+.3f})"
            )
    print(f"\n{machine()['cpu']}; written to {write_results('stages', results)}")


if __name__ == "__main__":
    main()
