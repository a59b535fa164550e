"""Run the stages of a recipe that are due, yielding their events.

One rule holds for every stage: it is skipped if it finished on the same inputs and its outputs are intact; it
resumes if it was killed and its inputs are unchanged; otherwise it starts over.
"""

import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any

from smidgen import __version__
from smidgen.backend import device
from smidgen.config import PretrainRecipe, resolved_toml
from smidgen.errors import ConfigError, did_you_mean
from smidgen.files import content_hash, read_json, sha256_json
from smidgen.inference.sampling import check_sampling
from smidgen.models.load import resolve
from smidgen.pipeline.asking import check_attacks
from smidgen.pipeline.context import RunContext
from smidgen.pipeline.corpus import source_hashes
from smidgen.pipeline.events import Event, EventLog, MessageEvent, StageEvent, Work
from smidgen.pipeline.exporting import check_exporting
from smidgen.pipeline.jobs import prepare_training
from smidgen.pipeline.keeping import check_keeping
from smidgen.pipeline.quantizing import check_quantizing
from smidgen.pipeline.registry import stages_of
from smidgen.pipeline.stage import Stage
from smidgen.pipeline.teaching import check_teaching
from smidgen.pipeline.tracking import Tracking
from smidgen.runs import Run


def run_recipe(context: RunContext, *, from_stage: str | None = None, only: Sequence[str] = ()) -> Work[None]:
    """Run the stages that are due, or only those named in `only` and what they need, yielding their events.

    Nothing is written until the recipe and its rows have been read and checked.

    Args:
        context: the recipe and its run folder.
        from_stage: rerun this stage and all later ones, even if they are done.
        only: names of the stages to run, with all that they need; default: all.

    Raises:
        ConfigError: there is no stage `from_stage`, or the recipe is invalid.
        WorkError: a stage failed, or another process is using the folder.
    """
    stages = stages_of(context)
    if only:
        wanted = _with_needs(stages, only)
        stages = [stage for stage in stages if stage.name in wanted]
    names = [stage.name for stage in stages]
    if from_stage is not None and from_stage not in names:
        hint = did_you_mean(from_stage, names)
        raise ConfigError(f"there is no stage '{from_stage}'.{hint} Known: {', '.join(names)}")
    run, tracking = context.run, Tracking(context.recipe, context.run)
    if not run.stage_is_done(stages[0].name, inputs_hash(context, stages[0])):
        check(context)
    with run.lock():
        run.write_text("config.toml", resolved_toml(context.recipe))
        for stage in stages[names.index(from_stage) :] if from_stage else ():
            _forget(run, stage)
        log = EventLog(run)
        with closing(tracking):
            for event in _run_stages(context, stages):
                log.write(event)
                yield event
                for warning in tracking.follow(event):
                    log.write(warning)
                    yield warning


def _with_needs(stages: Sequence[Stage], names: Sequence[str]) -> set[str]:
    """Return the names of some stages and of all that they need."""
    needs, found, due = {stage.name: stage.needs for stage in stages}, set[str](), list(names)
    while due:
        name = due.pop()
        if name not in found:
            found.add(name)
            due += needs[name]
    return found


def check(context: RunContext) -> None:
    """Read every row and check every setting that a later stage could refuse; writes nothing.

    Raises:
        UserError: the recipe or its rows are invalid.
    """
    if not context.tasks:  # the hash of a corpus needs its files, and a survey reads every document
        return
    check_sampling(context.sampling)
    for task in context.tasks:
        task.check()
    check_attacks(context)
    check_quantizing(context)
    check_exporting(context)
    check_teaching(context)
    check_keeping(context)
    if not context.awaits_answers:
        prepare_training(context)


def inputs_hash(context: RunContext, stage: Stage) -> str:
    """Return a hash of everything that determines a stage's outputs."""
    return sha256_json(_inputs(context, stage))


def _inputs(context: RunContext, stage: Stage, *, leave_out: frozenset[str] = frozenset()) -> dict[str, Any]:
    """Return everything that determines a stage's outputs, without some keys of the recipe."""
    settings = context.recipe.model_dump(mode="json", include={*stage.tables})
    for key in leave_out:
        table, _, name = key.partition(".")
        settings[table].pop(name)
    inputs: dict[str, Any] = {
        "version": __version__,
        "settings": settings,
        "stages": {name: context.run.outputs_hash(name) for name in stage.needs},
        **stage.inputs(context),
    }
    if "model" in stage.tables and context.recipe.model.base is not None:
        inputs["model"] = content_hash(resolve(context.recipe.model.base))
    return inputs


def _run_stages(context: RunContext, stages: Sequence[Stage]) -> Iterator[Event]:
    run, has_started = context.run, False
    for stage in stages:
        inputs = inputs_hash(context, stage)
        if run.stage_is_done(stage.name, inputs):
            yield StageEvent(stage.name, "skipped")
            continue
        if not has_started:
            has_started = True
            _start(context)
        if _begin(context, stage, inputs):
            yield MessageEvent(stage.name, "its settings or inputs changed, so it starts over")
        yield StageEvent(stage.name, "started")
        started = time.monotonic()
        yield from stage.work(context)
        seconds = time.monotonic() - started
        run.finish_stage(stage.name, inputs, stage.outputs, seconds)
        yield StageEvent(stage.name, "finished", seconds)
    if has_started:
        run.finish()


def _start(context: RunContext) -> None:
    """Write the provenance of a run that starts or resumes."""
    hashes = {}
    for task in context.tasks:
        data, found = task.config.data, task.source_hashes()
        for source, name in zip(data.all_sources, task.sources, strict=True):
            hashes[f"{task.named('train')} {name}".strip()] = found[source.path]
        hashes[task.named("test")] = found[data.test]
    if isinstance(context.recipe, PretrainRecipe):
        hashes = source_hashes(context.recipe)
    context.run.start(seeds=context.recipe.seeds, data=hashes, device=device().name)


def _begin(context: RunContext, stage: Stage, inputs: str) -> bool:
    """Keep the partial outputs of a killed attempt on the same inputs; delete those of any other attempt.

    A stage that finished and is due again has lost one of its outputs, so all of them are made again.

    Returns:
        Whether partial outputs of an attempt on other inputs were deleted.

    Raises:
        ConfigError: the stage has to go on from its checkpoint, and cannot.
    """
    run = context.run
    path = run.path(marker := f"stages/{stage.name}.begun.json")
    begun = read_json(path) if path.exists() else {}
    killed = path.exists() and run.stage_record(stage.name) is None
    has_changed = path.exists() and begun["inputs"] != inputs
    fixed = sha256_json(_inputs(context, stage, leave_out=stage.changeable))
    if stage.changeable and context.from_checkpoint and has_changed:
        _check_changes(stage, killed=killed, only_changeable=begun.get("fixed") == fixed)
        has_changed = False
    elif not killed or has_changed:
        _forget(run, stage)
    run.write_json(marker, {"inputs": inputs, "fixed": fixed})
    return has_changed


def _check_changes(stage: Stage, *, killed: bool, only_changeable: bool) -> None:
    """Refuse to go on from a checkpoint of a finished stage, or of one with other changes."""
    names = ", ".join(sorted(stage.changeable))
    if not killed:
        raise ConfigError(
            f"the stage '{stage.name}' is finished, so it cannot go on from a checkpoint; leave out "
            "--from-checkpoint to start over with the new settings"
        )
    if not only_changeable:
        raise ConfigError(
            f"more has changed than may at a checkpoint ({names}): another setting, the data or the base; "
            "restore it, or leave out --from-checkpoint to start over"
        )


def _forget(run: Run, stage: Stage) -> None:
    """Delete all outputs of a stage and the records that it started and finished."""
    names = (*stage.outputs, *stage.scratch, f"stages/{stage.name}.json", f"stages/{stage.name}.begun.json")
    for name in names:
        path = run.path(name)
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
