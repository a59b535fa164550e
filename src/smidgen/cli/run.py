"""`smidgen run`: the whole life of one specialist, as its recipe says.

A stage is skipped when it finished on the same inputs and what it wrote is still there. A stage that was
killed goes on where it stopped, as long as its inputs are the same; if not, what it left is thrown away.
"""

import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from cyclopts import Parameter

from smidgen import __version__
from smidgen.cli.console import duration, print_json, say
from smidgen.cli.options import Json, PricesFile, RecipeFile, RunsFolder
from smidgen.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from smidgen.cli.exports import Artefact
    from smidgen.cli.stages import Life
    from smidgen.config import Prices, Recipe
    from smidgen.runs import Run


class Stage(NamedTuple):
    """One step of a life.

    Attributes:
        name: of the stage.
        work: does it; called with a `Life`.
        needs: stages whose outputs it reads.
        tables: of the recipe, that decide its outcome.
        outputs: what it writes, relative to the run folder.
        scratch: what it leaves when it is killed, beside its outputs.
    """

    name: str
    work: "Callable[[Life], None]"
    needs: tuple[str, ...]
    tables: tuple[str, ...]
    outputs: tuple[str, ...]
    scratch: tuple[str, ...] = ()


def run(
    recipe: RecipeFile,
    /,
    *,
    runs: RunsFolder = Path("runs"),
    data: Annotated[
        str | None,
        Parameter(help="A file of rows that takes the place of the recipe's data.train and data.test."),
    ] = None,
    from_stage: Annotated[
        str | None, Parameter(name="--from", help="Do this stage and those after it again, even if done.")
    ] = None,
    prices: PricesFile = None,
    dry_run: Annotated[
        bool, Parameter(help="Print what would be done, measured on one step, and do nothing.")
    ] = False,
    json: Json = False,
) -> None:
    """Evaluate, train, evaluate again, quantise, evaluate that, and report, as a recipe says."""
    from smidgen.config import PretrainRecipe, read_prices, read_recipe
    from smidgen.runs import Run

    settings, price_list = read_recipe(recipe), read_prices(prices)
    if isinstance(settings, PretrainRecipe) or settings.task == "none":
        raise ConfigError(f"{recipe} has no task to prove; train it with `smidgen train {recipe}`")
    if data is not None:
        sources = settings.data.model_copy(update={"train": data, "test": data})
        settings = settings.model_copy(update={"data": sources})
    if dry_run:
        if from_stage is not None:
            raise ConfigError("--dry-run plans every stage, so --from does not go with it; leave one out")
        from smidgen.cli.plan import make_plan, show_plan

        plan = make_plan(settings)
        print_json(plan) if json else show_plan(plan)
        return
    folder = Run(runs / settings.name)
    report = live(settings, folder, from_stage, prices=price_list)
    if json:
        print_json(report)
    else:
        from rich.console import Console

        from smidgen.evaluation.report import console_table

        Console().print(console_table(report))
        say(f"report: {folder.path('report.html')}")


def live(
    recipe: "Recipe",
    folder: "Run",
    from_stage: str | None = None,
    *,
    only: Sequence[str] = (),
    prices: "Prices | None" = None,
) -> dict[str, Any]:
    """Go through the stages that are due, or through those of `only`, and return what the last of them wrote.

    Nothing is written before the recipe and its rows were read without a fault.

    Returns:
        The report, or {"training": …} where `only` stops before it.
    """
    from smidgen.cli.stages import Life
    from smidgen.config import Prices, resolved_toml
    from smidgen.files import read_json

    stages = [stage for stage in stages_of(recipe) if not only or stage.name in only]
    names = [stage.name for stage in stages]
    if from_stage is not None and from_stage not in names:
        hint = did_you_mean(from_stage, names)
        raise ConfigError(f"there is no stage '{from_stage}'.{hint} Known: {', '.join(names)}")
    life = Life(recipe, folder, prices or Prices())
    if not folder.stage_is_done("data", _inputs_hash(life, stages[0])):
        life.check()
    with folder.lock():
        folder.write_text("config.toml", resolved_toml(recipe))
        for name in names[names.index(from_stage) :] if from_stage else ():
            _forget(folder, stages[names.index(name)])
        _do(life, stages)
    if only:
        return {"training": read_json(folder.path("training.json"))}
    return read_json(folder.path("report.json"))


def _do(life: "Life", stages: Sequence[Stage]) -> None:
    """Go through the stages that are due."""
    from smidgen.backend import device

    recipe, folder = life.recipe, life.run
    due = False
    for stage in stages:
        inputs = _inputs_hash(life, stage)
        if folder.stage_is_done(stage.name, inputs):
            say(f"{stage.name}: done before, skipped")
            continue
        if not due:
            due = True
            seeds = {"data": recipe.data.seed, "train": recipe.train.seed, "evaluate": recipe.evaluate.seed}
            sources = {"train": recipe.data.train, "test": recipe.data.test}
            hashes = {role: _source_hash(source) for role, source in sources.items()}
            folder.start(seeds=seeds, data=hashes, device=device().name)
        _begin(folder, stage, inputs)
        started = time.monotonic()
        stage.work(life)
        seconds = time.monotonic() - started
        folder.finish_stage(stage.name, inputs, stage.outputs, seconds)
        say(f"{stage.name}: finished in {duration(seconds)}")
    if due:
        folder.finish()


def stages_of(recipe: "Recipe") -> list[Stage]:
    """The stages of a recipe, in order."""
    from smidgen.cli import stages
    from smidgen.cli.exports import artefacts
    from smidgen.cli.reporting import report

    asked = ("model", "evaluate")
    found = [
        Stage("data", stages.data, (), ("task", "data"), ("data",)),
        Stage("before", stages.before, ("data",), asked, ("evaluations/before",)),
        Stage(
            "train", stages.train, ("data",), ("model", "train"),
            ("best", "metrics.jsonl", "training.json"), ("checkpoints",),
        ),
        Stage("after", stages.after, ("data", "train"), asked, ("evaluations/after",)),
    ]  # fmt: skip
    if recipe.task == "judge":
        found.append(Stage("logits", stages.by_logits, ("data", "train"), asked, ("evaluations/logits",)))
    if recipe.quantize is not None:
        found += [
            Stage(
                "quantize", stages.quantize, ("data", "train"), ("model", "quantize"),
                ("quantized", "quantize.json"), ("sensitivity.jsonl",),
            ),
            Stage("quantized", stages.quantized, ("data", "quantize"), asked, ("evaluations/quantized",)),
        ]  # fmt: skip
    shipped = artefacts(recipe)
    for artefact in shipped:
        if artefact.make is not None:
            found += _exported(artefact)
    everything = tuple(stage.name for stage in found)
    tables = ("name", "description", "evaluate", "quantize", "export")
    cards = tuple(f"{artefact.folder}/README.md" for artefact in shipped)
    return [*found, Stage("report", report, everything, tables, ("report.json", "report.html", *cards))]


def _exported(artefact: "Artefact") -> list[Stage]:
    """The stages that make an artefact and evaluate it."""
    from smidgen.cli import stages

    making = f"export-{artefact.name}"
    return [
        Stage(
            making,
            lambda life: stages.make(life, artefact),
            ("data", "train"),
            ("name", "model", "export"),
            (artefact.folder, f"exports/{artefact.name}.json"),
        ),
        Stage(
            artefact.name,
            lambda life: stages.exported(life, artefact),
            ("data", making),
            ("model", "evaluate"),
            (f"evaluations/{artefact.name}",),
        ),
    ]


def _inputs_hash(life: "Life", stage: Stage) -> str:
    """Fingerprint of all that decides what a stage writes."""
    from smidgen.files import content_hash, sha256_json
    from smidgen.models.load import resolve
    from smidgen.tasks import find_task

    settings = life.recipe.model_dump(mode="json", include=set(stage.tables))
    inputs: dict[str, Any] = {"version": __version__, "settings": settings}
    inputs["stages"] = {name: life.run.outputs_hash(name) for name in stage.needs}
    if "model" in stage.tables:
        inputs["model"] = content_hash(resolve(life.recipe.model.base))
    if stage.name == "data":
        sources = sorted({life.recipe.data.train, life.recipe.data.test})
        inputs["files"] = {source: _source_hash(source) for source in sources}
    if stage.name == "quantize" and (source := life.recipe.quantize and life.recipe.quantize.calibration):
        inputs["calibration"] = _source_hash(source)
    if stage.name == "report":
        inputs["prices"] = life.prices.model_dump(mode="json")
    if stage.name in ("data", "report") or "evaluate" in stage.tables:
        task = find_task(life.recipe.task)
        inputs["task"] = [task.name, task.version]
    return sha256_json(inputs)


def _source_hash(source: str) -> str:
    """The hash of a file of rows; generated rows are told by their seed and the version of smidgen."""
    from smidgen.errors import DataError
    from smidgen.files import sha256_file

    path = Path(source)
    if source == "world":
        return source
    if not path.is_file():
        raise DataError(
            f"there is no data file at {path}; give one with --data FILE, or mend data.train and data.test"
        )
    return sha256_file(path)


def _begin(folder: Any, stage: Stage, inputs: str) -> None:
    """Keep what a killed attempt on the same inputs left; throw away what any other left.

    A stage that finished and is due again has lost something that it wrote, so all of it is made again.
    """
    from smidgen.files import read_json

    marker = f"stages/{stage.name}.begun.json"
    path = folder.path(marker)
    killed = path.exists() and folder.stage_record(stage.name) is None
    if not killed or read_json(path)["inputs"] != inputs:
        _forget(folder, stage)
        folder.write_json(marker, {"inputs": inputs})


def _forget(folder: Any, stage: Stage) -> None:
    """Remove everything a stage wrote, and the record that it did."""
    names = (*stage.outputs, *stage.scratch, f"stages/{stage.name}.json", f"stages/{stage.name}.begun.json")
    for name in names:
        path = folder.path(name)
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
