"""Run a recipe from data to report: declared stages that are cached, resumable, and yield events."""

from smidgen.pipeline.context import RunContext
from smidgen.pipeline.planning import RunPlan, plan_run
from smidgen.pipeline.registry import stages_of
from smidgen.pipeline.runner import run_recipe
from smidgen.pipeline.training import help_training

__all__ = ["RunContext", "RunPlan", "help_training", "plan_run", "run_recipe", "stages_of"]
