"""Programming problems with tests, from rows of the published formats: HumanEval and MBPP.

HumanEval (Chen et al. 2021, https://arxiv.org/abs/2107.03374) gives the head of a function; MBPP (Austin
et al. 2021, https://arxiv.org/abs/2108.07732) a sentence and three tests, which its prompt shows. MBPP's
challenge tests are not read, as in its published results.
"""

import ast
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace

from smidgen.data.bad_rows import FieldError
from smidgen.data.fields import row_id, subset_of, text_of, texts_of
from smidgen.data.rows import Format, Row, read_items


@dataclass(frozen=True)
class ProgrammingProblem:
    """A programming problem.

    Attributes:
        id: unique in its file.
        text: the problem: the head of a function, or a description.
        tests: Python code that raises unless the program is right.
        names: names of the program that the tests use.
        entry_point: the function whose head is the problem; empty if the problem is a description.
        setup: code between the program and its tests.
        solution: a right program; None if there is none.
        subset: the subset of the benchmark.
    """

    id: str
    text: str
    tests: tuple[str, ...]
    names: tuple[str, ...]
    entry_point: str = ""
    setup: str = ""
    solution: str | None = None
    subset: str | None = None


def programming_problems(
    rows: Sequence[Row], *, source: str = "rows", rejected: list[str] | None = None
) -> list[ProgrammingProblem]:
    """Read problems, one per row; raises and rejects as `read_items`."""
    return read_items(rows, PROGRAM_FORMATS, source, rejected=rejected)


def _humaneval(row: Row, number: int) -> list[ProgrammingProblem]:
    """HumanEval: the head of a function; the tests are a function `check` that gets it."""
    head, entry_point = text_of(row, "prompt"), text_of(row, "entry_point").strip()
    test = f"{_code(text_of(row, 'test'))}\n\ncheck({entry_point})"
    solution = _optional(row, "canonical_solution")
    return [
        ProgrammingProblem(
            _task_id(row, number),
            _code(head),
            (_python(test, "test"),),
            (entry_point,),
            entry_point=entry_point,
            solution=_code(head).rstrip() + "\n" + solution.rstrip() if solution else None,
            subset=subset_of(row),
        )
    ]


def _mbpp(
    row: Row, number: int, field: str = "text", setup: str = "test_setup_code"
) -> list[ProgrammingProblem]:
    """MBPP: a description, and a list of assertions."""
    tests = tuple(_python(_code(test), "test_list") for test in texts_of(row, "test_list"))
    solution = _optional(row, "code")
    return [
        ProgrammingProblem(
            _task_id(row, number),
            text_of(row, field).strip(),
            tests,
            _names(solution or "", tests),
            setup=_python(_optional(row, setup), setup),
            solution=solution.strip() or None,
            subset=subset_of(row),
        )
    ]


def _sanitized(row: Row, number: int) -> list[ProgrammingProblem]:
    """The sanitized MBPP: as MBPP, with `prompt` for `text` and imports of the tests."""
    (problem,) = _mbpp(row, number, "prompt", "")
    imports = "\n".join(texts_of(row, "test_imports")) if row.get("test_imports") else ""
    tests = tuple(f"{imports}\n{test}" if imports else test for test in problem.tests)
    return [replace(problem, tests=tests)]


def _task_id(row: Row, number: int) -> str:
    return str(row["task_id"]) if isinstance(row.get("task_id"), str | int) else row_id(row, number)


def _optional(row: Row, field: str) -> str:
    return _code(text_of(row, field, empty=True)) if row.get(field) else ""


def _code(text: str) -> str:
    """Return code with the line ends that Python's tokenizer reports lines by."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _parsed(code: str) -> ast.Module:
    """Parse code; the parser warns of odd escapes in strings, which are no concern of the reader."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ast.parse(code)


def _python(code: str, field: str) -> str:
    """Return code that is Python."""
    try:
        _parsed(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as fault:
        raise FieldError(f"'{field}' is not Python: {fault}; expected assertions", "unreadable row") from None
    return code


def _names(solution: str, tests: Sequence[str]) -> tuple[str, ...]:
    """Return what a right program defines and its tests use, such as the function `sum`."""
    try:
        body = _parsed(solution).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return ()
    defined = {
        node.name for node in body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    }
    trees = [ast.walk(_parsed(test)) for test in tests]
    used = {node.id for tree in trees for node in tree if isinstance(node, ast.Name)}
    return tuple(sorted(defined & used))


PROGRAM_FORMATS = (
    Format("HumanEval row", ("prompt", "entry_point", "test"), _humaneval),
    Format("MBPP row", ("text", "test_list"), _mbpp),
    Format("sanitized MBPP row", ("prompt", "test_list"), _sanitized),
)
