"""`smidgen compare`: paired comparison of two evaluations on the same rows."""

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from smidgen.cli.console import figure, print_json, print_table, say
from smidgen.cli.parameters import Json
from smidgen.errors import DataError
from smidgen.options import Seed

Place = Annotated[
    Path, Parameter(help="Output folder of `evaluate --out`, or evaluations/after in a run folder.")
]


def compare(first: Place, second: Place, /, *, seed: Seed = 0, json: Json = False) -> None:
    """Compare two evaluations of the same rows, with paired intervals and McNemar's test."""
    from smidgen.evaluation import compare as compare_records
    from smidgen.evaluation import compare_resistance, read_records

    results = [_result(place) for place in (first, second)]
    if results[0]["task"] != results[1]["task"]:
        raise DataError(
            f"{first} evaluates the task {results[0]['task']} and {second} the task {results[1]['task']}; "
            "expected two evaluations of the same task"
        )
    task, other = (task_of(result, place) for result, place in zip(results, (first, second), strict=True))
    records = [read_records(place / "records.jsonl") for place in (first, second)]
    compared = compare_records(task, *records, other=other, seed=seed)
    if results[0].get("attacks") and results[1].get("attacks") and task.variant == other.variant:
        attacked = [read_records(place / "attacked.jsonl") for place in (first, second)]
        compared |= compare_resistance((task, other), *zip(records, attacked, strict=True), seed=seed)
    found = {name: comparison.to_json() for name, comparison in compared.items()}
    answer = {"first": results[0]["model"], "second": results[1]["model"], "metrics": found}
    print_json(answer) if json else _show(answer)


def task_of(result: dict[str, Any], place: Path) -> Any:
    """Return the task of an evaluation, with its settings.

    Raises:
        DataError: its prompts or metrics were those of another version of the task.
    """
    from smidgen.tasks import find_task

    task = find_task(result["task"], result["settings"])
    if (version := result.get("version", task.version)) != task.version:
        raise DataError(
            f"{place} was evaluated with version {version} of the task {task.name}, and this is version "
            f"{task.version}; run the evaluation again"
        )
    return task


def _result(place: Path) -> dict[str, Any]:
    from smidgen.files import read_json

    if not (place / "evaluation.json").is_file():
        raise DataError(f"{place} contains no evaluation.json; expected an output folder of `evaluate --out`")
    result = read_json(place / "evaluation.json")
    if not isinstance(result, dict) or not {"task", "settings", "model"} <= result.keys():
        raise DataError(f"{place / 'evaluation.json'} is not an evaluation result; run the evaluation again")
    if "ensemble" in result:
        raise DataError(
            f"{place} evaluates an ensemble, and its report compares it with each of its judges; expected "
            "evaluations of one judge, asked once"
        )
    return result


def _show(answer: dict[str, Any]) -> None:
    say(f"first: {answer['first']}\nsecond: {answer['second']}")
    rows = []
    for name, compared in answer["metrics"].items():
        difference, p = compared["difference"], compared["p_value"]
        rows.append(
            (
                name,
                figure(compared["first"]["value"]),
                figure(compared["second"]["value"]),
                f"{figure(difference['value'])} ({figure(difference['low'])} – {figure(difference['high'])})",
                "–" if p is None else f"{p:.2g}",
            )
        )
    print_table(rows, headers=("", "first", "second", "difference, 95 % interval", "McNemar p"))
