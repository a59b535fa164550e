"""The process that runs a program under test: it answers calls of its functions, and knows no test."""

import ast
import random
import sys
import textwrap
from collections.abc import Callable, Iterable
from itertools import islice
from types import ModuleType
from typing import Any

from smidgen.tasks.sandbox.values import MessageError, decode, encode, receive, send

_MOST_ITEMS = 100_000
"""Items that are copied of an iterator, which may be endless."""
_LONGEST_EXPLANATION = 200
_BODY = "    "


def work(requests: int, replies: int) -> None:
    """Answer messages from a pipe until it ends."""
    random.seed(0)
    program = Program()
    while True:
        try:
            request = receive(requests)
        except EOFError:
            return
        try:
            reply = {"value": program.perform(request)}
        except BaseException as error:  # SystemExit and KeyboardInterrupt of the program are its faults too
            reply = {"error": [type(error).__name__, _first_line(error)]}
        try:
            send(replies, reply)
        except Exception as error:  # it is too large or too deep to be sent
            send(replies, {"error": [type(error).__name__, _first_line(error)]})


class Program:
    """The module of the program, and its objects that the tests hold references to."""

    def __init__(self) -> None:
        self._module = ModuleType("answer")
        sys.modules["answer"] = self._module  # dataclasses look their module up
        self._objects: list[Any] = []

    def perform(self, request: dict[str, Any]) -> Any:
        """Perform one request; returns the encoded result."""
        match request:
            case {"define": code, "context": context, "entry_point": entry_point, "setup": setup}:
                for text in assembled(code, context, entry_point):
                    self._run(text)
                self._run(setup)
                return None
            case {"call": reference, "arguments": arguments, "named": named}:
                values = [decode(value, self._follow) for value in arguments]
                options = {name: decode(value, self._follow) for name, value in named.items()}
                return self._encoded(self._follow(reference)(*values, **options))
            case {"attribute": name, "of": reference}:
                return self._encoded(getattr(self._follow(reference), name))
            case {"apply": function, "to": reference}:
                return self._encoded(_FUNCTIONS[function](self._follow(reference)))
        raise MessageError("no such request")

    def _run(self, code: str) -> None:
        exec(compile(code, "<answer>", "exec"), self._module.__dict__)

    def _encoded(self, value: Any) -> Any:
        return encode(value, self._refer)

    def _refer(self, value: Any) -> int:
        self._objects.append(value)
        return len(self._objects) - 1

    def _follow(self, reference: Any) -> Any:
        """The object of a number, or of a name in the program."""
        if isinstance(reference, int):
            return self._objects[reference]
        names = self._module.__dict__
        if reference in names:
            return names[reference]
        raise NameError(f"name '{reference}' is not defined")


def _items(found: Iterable[Any]) -> list[Any]:
    items = list(islice(found, _MOST_ITEMS + 1))
    if len(items) > _MOST_ITEMS:
        raise ValueError(f"more than {_MOST_ITEMS} items")
    return items


_FUNCTIONS: dict[str, Callable[[Any], Any]] = {"items": _items, "len": len, "bool": bool}
"""What a test applies to an object of the program."""


def assembled(code: str, context: str, entry_point: str) -> list[str]:
    """Return what to run of a program that completes a context, such as the head of a function.

    The program may be a whole module, which replaces the function of the context, or the function's body,
    whose first line or all lines may lack their indentation.

    Raises:
        SyntaxError: it is not Python.
    """
    if not context or _defines(code, entry_point):
        return [context, code]
    head = context.rstrip() + "\n"
    fault: SyntaxError | None = None
    for body in (code, _BODY + code.lstrip(), textwrap.indent(textwrap.dedent(code), _BODY)):
        try:
            compile(head + body, "<answer>", "exec")
        except SyntaxError as error:
            fault = fault or error
        else:
            return [head + body]
    raise fault or SyntaxError("no program")


def _defines(code: str, name: str) -> bool:
    """Whether a text is a module that defines a name."""
    try:
        compile(code, "<answer>", "exec")  # unlike the parser, it refuses the body of a function
    except SyntaxError:
        return False
    for node in ast.parse(code).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found = [node.name]
        else:  # an assignment, also in an `if` or `try`
            stored = [part for part in ast.walk(node) if isinstance(part, ast.Name)]
            found = [part.id for part in stored if isinstance(part.ctx, ast.Store)]
        if name in found:
            return True
    return False


def _first_line(error: BaseException) -> str:
    try:
        return (str(error).strip().splitlines() or [""])[0][:_LONGEST_EXPLANATION]
    except BaseException:  # an error of the program may refuse to be shown
        return ""
