"""`smidgen evaluate`: how good a model is at a task, with intervals."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter
from cyclopts.types import PositiveInt

from smidgen.cli.options import Adapter, Json, Limit, MaxTokens, Model, Seed, Temperature, Thinking
from smidgen.errors import WorkError


def evaluate(
    task: Annotated[str, Parameter(help="What the model is to do: judge or intent.")],
    /,
    *,
    model: Model = "smidgen:nano",
    data: Annotated[str, Parameter(help="A file of rows, or world for generated ones.")] = "world",
    engine: Annotated[
        Literal["auto", "mlx", "replay"],
        Parameter(help="What runs the model; replay reads recorded answers."),
    ] = "auto",
    adapter: Adapter = None,
    thinking: Thinking = False,
    limit: Limit = None,
    max_tokens: MaxTokens = 256,
    temperature: Temperature = 0.0,
    batch_size: Annotated[PositiveInt, Parameter(help="Rows decoded together.")] = 64,
    seed: Seed = 0,
    out: Annotated[Path | None, Parameter(help="Folder for the records and the report.")] = None,
    json: Json = False,
) -> None:
    """Ask a model every item of a dataset and score its answers, with 95 % intervals and baselines."""
    raise WorkError("evaluation by itself is not part of this version")
