"""`smidgen rewardbench`: section scores from a result file of RewardBench."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from smidgen.cli.console import print_json, print_table
from smidgen.cli.options import Json
from smidgen.errors import DataError


def rewardbench(
    file: Annotated[Path, Parameter(help="A JSON object with the accuracy of every subset.")],
    /,
    *,
    json: Json = False,
) -> None:
    """Score a result file of RewardBench: four sections, their mean, and the accuracy over all rows."""
    from smidgen.files import read_json
    from smidgen.tasks.judge.rewardbench import read_result, section_scores

    if not file.is_file():
        raise DataError(f"there is no result file at {file}; expected a JSON object of subset accuracies")
    table = read_json(file)
    if not isinstance(table, dict):
        raise DataError(f"{file} is no JSON object; expected one with the accuracy of every subset")
    scores = section_scores(read_result(table))
    if json:
        print_json(scores)
        return
    rows = [*scores["sections"].items(), ("mean", scores["mean"]), ("micro, 2,985 rows", scores["micro"])]
    print_table([(name, f"{value:.6f}") for name, value in rows], headers=("section", "score"))
