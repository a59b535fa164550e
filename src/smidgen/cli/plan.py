"""`smidgen run --dry-run`: rows, tokens, steps, minutes and memory, before anything starts.

Minutes and memory are not modelled but measured: two optimiser steps and a few answers, on this machine and
these rows, thrown away afterwards.
"""

import time
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smidgen.cli.console import count, print_table, say, size

if TYPE_CHECKING:
    from smidgen.cli.stages import Life
    from smidgen.config import Recipe

PROBED_ANSWERS = 16
FORWARD_SHARE = 1 / 3
"""Share of a training step that is its forward pass, all that a validation needs."""


def make_plan(recipe: "Recipe") -> dict[str, Any]:
    """Measure what a recipe is going to take; nothing is written.

    Returns:
        `stages`, each with `name` and `minutes`, and the figures of the data, the training and the memory.
    """
    from smidgen.backend import peak_memory_bytes
    from smidgen.cli.run import stages_of
    from smidgen.cli.stages import Life
    from smidgen.runs import Run

    life = Life(recipe, Run(Path("runs") / recipe.name))
    life.check()
    answer_seconds = _seconds_an_answer(life)
    training = _training(life)
    evaluation = answer_seconds * len(life.test_samples) / 60
    minutes = {
        "before": evaluation,
        "after": evaluation,
        "quantized": evaluation,
        "train": training["minutes"],
    }
    stages = [{"name": stage.name, "minutes": minutes.get(stage.name, 0.0)} for stage in stages_of(recipe)]
    return {
        "recipe": recipe.name,
        "training": training,
        "evaluation": {"rows": len(life.test_rows), "answers": len(life.test_samples)},
        "peak_memory_bytes": peak_memory_bytes(),
        "stages": stages,
        "minutes": sum(stage["minutes"] for stage in stages),
    }


def show_plan(plan: dict[str, Any]) -> None:
    """Print a plan as two tables."""
    training, evaluation = plan["training"], plan["evaluation"]
    say(f"{plan['recipe']}: a plan, nothing was started")
    print_table(
        [
            ("training rows", count(training["rows"])),
            ("tokens", f"{count(training['tokens'])}, {count(training['trained_tokens'])} of them learnt"),
            ("steps", count(training["steps"])),
            ("padding", f"{training['padding']:.0%}"),
            ("cut rows", count(training["cut_rows"])),
            ("test rows", f"{count(evaluation['rows'])}, {count(evaluation['answers'])} answers a stage"),
            ("peak memory", size(plan["peak_memory_bytes"])),
        ]
    )
    print_table(
        [
            *((stage["name"], f"{stage['minutes']:.1f}") for stage in plan["stages"]),
            ("all", f"{plan['minutes']:.1f}"),
        ],
        headers=("stage", "minutes"),
    )


def _training(life: "Life") -> dict[str, Any]:
    """The figures of the training, from two steps of it."""
    from smidgen.cli.stages import prepare_training
    from smidgen.training.batches import plan_training
    from smidgen.training.loop import train
    from smidgen.training.objectives.likelihood import Likelihood

    loaded, learnt, held_back, batches = prepare_training(life)
    planned = plan_training(learnt.rows, batches)
    settings = life.recipe.train.model_copy(update={"checkpoint_every": 0})
    steps = train(loaded.model, Likelihood(settings.dropout), batches, settings)
    *_, last = islice(steps, 2)  # the first also warms caches up
    validations = 1 + (batches.num_steps // settings.validate_every if settings.validate_every else 0)
    read = validations * sum(len(row.token_ids) for row in held_back.rows) * FORWARD_SHARE
    minutes = (planned.tokens + read) * last.seconds / last.tokens / 60
    return asdict(planned) | {"cut_rows": learnt.cut_rows, "minutes": minutes}


def _seconds_an_answer(life: "Life") -> float:
    """Seconds that one answer takes when a few are decoded together."""
    from smidgen.data.types import Request, Sampling
    from smidgen.inference import open_engine

    settings = life.recipe.evaluate
    engine = open_engine(
        life.recipe.model.base, thinking=life.recipe.model.thinking, batch_size=settings.batch_size
    )
    asked = life.test_samples[:PROBED_ANSWERS]
    sampling = Sampling(max_tokens=settings.max_tokens)
    started = time.perf_counter()
    for _ in engine.complete([Request(sample, sampling, logprobs=False) for sample in asked]):
        pass
    engine.close()
    return (time.perf_counter() - started) / len(asked)
