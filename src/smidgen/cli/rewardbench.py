"""`smidgen rewardbench`: section scores of a RewardBench result file."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from smidgen.cli.console import print_json, print_table
from smidgen.cli.parameters import Json
from smidgen.errors import DataError


def rewardbench(
    file: Annotated[Path, Parameter(help="JSON file with the accuracy of every subset.")],
    /,
    *,
    json: Json = False,
) -> None:
    """Score a RewardBench result file: four sections, their mean, and the accuracy over all rows."""
    from smidgen.files import read_json
    from smidgen.tasks.judge.rewardbench_scores import read_result, section_scores

    if not file.is_file():
        raise DataError(
            f"result file {file} not found; expected a JSON file with the accuracy of every subset"
        )
    table = read_json(file)
    if not isinstance(table, dict):
        raise DataError(f"{file} is not a JSON object; expected one with the accuracy of every subset")
    scores = section_scores(read_result(table))
    if json:
        print_json(scores)
        return
    rows = [*scores["sections"].items(), ("mean", scores["mean"]), ("micro, 2,985 rows", scores["micro"])]
    print_table([(name, f"{value:.6f}") for name, value in rows], headers=("section", "score"))
