"""The sizes that keep the code readable, measured: functions, parameters and files."""

import ast
from functools import cache
from pathlib import Path
from statistics import quantiles

from tests.tools.source import FILES, SOURCE, tree_of

LONGEST_FUNCTION, MOST_PARAMETERS, LONGEST_FILE, USUAL_FUNCTION = 80, 9, 350, 25

Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions(file: Path) -> list[Function]:
    """Every function of a file, those inside others included."""
    return [node for node in ast.walk(tree_of(file)) if isinstance(node, Function)]


@cache
def every_function() -> list[tuple[Path, Function]]:
    return [(file, function) for file in FILES for function in functions(file)]


def place(file: Path, function: Function) -> str:
    return f"{file.relative_to(SOURCE)}:{function.lineno} {function.name}"


def lines_of(function: Function) -> int:
    """Lines from the name to the end, the docstring included."""
    return (function.end_lineno or 0) - function.lineno + 1


def parameters_of(function: Function) -> int:
    """Parameters without `self` and `cls`."""
    names = [p.arg for p in (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)]
    return len([name for name in names if name not in ("self", "cls")])


def test_no_function_is_longer_than_a_screen():
    assert not [place(*found) for found in every_function() if lines_of(found[1]) > LONGEST_FUNCTION]


def test_no_function_takes_more_parameters_than_a_reader_can_hold():
    assert not [place(*found) for found in every_function() if parameters_of(found[1]) > MOST_PARAMETERS]


def test_a_file_has_one_subject():
    lengths = {file: file.read_bytes().count(b"\n") for file in FILES}
    assert not [f"{file.relative_to(SOURCE)}: {n}" for file, n in lengths.items() if n > LONGEST_FILE]


def test_nine_functions_of_ten_are_short():
    assert quantiles((lines_of(function) for _, function in every_function()), n=10)[-1] <= USUAL_FUNCTION
