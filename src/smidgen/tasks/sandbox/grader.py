"""The process that runs tests: whatever they know of the program under test comes as copies of plain values.

A test is Python code that raises unless the program is right. Names in it are, in this order: those that the
program must define; helpers that the problem itself defines; modules of the standard library whose
attributes the test uses; and else what the program defines, such as its classes.
"""

import ast
import builtins
import importlib
import json
import os
import random
import sys
import traceback
from collections.abc import Iterator
from typing import Any

from smidgen.tasks.sandbox.values import decode, encode, receive, send

_LONGEST_EXPLANATION = 200


def grade(job: dict[str, Any], requests: int, replies: int) -> dict[str, str]:
    """Run the tests of a job on the worker behind two pipes.

    Returns:
        `outcome`: `passed` only if every test ran to its end; else `syntax`, `error`, `wrong`, or `ended` if
        the worker is gone. And `why`.
    """
    random.seed(0)
    link = Link(requests, replies)
    try:
        link.ask(
            define=job["code"],
            context=job["context"],
            entry_point=job["entry_point"],
            setup=job["setup"],
        )
    except SyntaxError as error:
        return _verdict("syntax", error)
    except BaseException as error:
        return _verdict("error", error)
    for test in job["tests"]:
        fault: BaseException | None = None
        try:
            exec(compile(test, "<test>", "exec"), _names_of(test, job, link))
        except BaseException as error:
            fault = error
        if fault := link.broken or fault:  # a test may forgive every exception, but not this one
            is_wrong = isinstance(fault, AssertionError) and fault is not link.last_error
            return (
                _verdict("wrong", fault, _failed_line(fault, test)) if is_wrong else _verdict("error", fault)
            )
    return {"outcome": "passed", "why": ""}


def write_verdict(pipe: int, verdict: dict[str, str]) -> None:
    """Write a verdict as a line."""
    os.write(pipe, json.dumps(verdict).encode() + b"\n")


class LinkError(Exception):
    """The worker does not keep to the protocol."""


class EndedError(LinkError):
    """The worker is gone."""


class Link:
    """The way to the worker."""

    def __init__(self, requests: int, replies: int) -> None:
        self._requests, self._replies = requests, replies
        self.broken: LinkError | None = None
        self.last_error: Exception | None = None

    def ask(self, **request: Any) -> Any:
        """Send a request and return the value of the reply.

        Raises:
            LinkError: there is no reply.
            Exception: the program raised one; of its name if that is a built-in one, else a RuntimeError.
        """
        if self.broken:
            raise self.broken
        try:
            send(self._requests, request)
            reply = receive(self._replies)
            if list(reply) == ["value"]:
                return decode(reply["value"], self._follow)
            name, message = map(str, reply["error"])
        except (EOFError, OSError):
            self.broken = EndedError("the program ended")
            raise self.broken from None
        except Exception as error:
            self.broken = LinkError(f"the program sent {error}")
            raise self.broken from None
        self.last_error = _rebuilt(name, message)
        raise self.last_error

    def _follow(self, reference: Any) -> "Remote":
        return Remote(self, int(reference))

    def encoded(self, value: Any) -> Any:
        """Return an argument as JSON data."""
        return encode(value, _refer)


class Remote:
    """A name or an object of the program: called and read over the link, and equal to itself only."""

    __slots__ = ("_link", "_reference")

    def __init__(self, link: Link, reference: str | int) -> None:
        self._link, self._reference = link, reference

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """Call it in the worker."""
        encoded = self._link.encoded
        return self._link.ask(
            call=self._reference,
            arguments=[encoded(value) for value in arguments],
            named={name: encoded(value) for name, value in named.items()},
        )

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self._link.ask(attribute=name, of=self._reference)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._link.ask(apply="items", to=self._reference))

    def __len__(self) -> int:
        return self._link.ask(apply="len", to=self._reference)

    def __bool__(self) -> bool:
        return self._link.ask(apply="bool", to=self._reference)

    def __getitem__(self, key: Any) -> Any:
        return self._link.ask(attribute="__getitem__", of=self._reference)(key)

    def __repr__(self) -> str:
        return f"<{self._reference} of the program>"


def _refer(value: Any) -> str | int:
    if isinstance(value, Remote):
        return value._reference
    raise TypeError(f"the test passes a {type(value).__name__}, which cannot be sent to the program")


def _rebuilt(name: str, message: str) -> Exception:
    kind = getattr(builtins, name, None)
    ends_loops = name in ("StopIteration", "StopAsyncIteration")  # of the test: `all(map(…))` would be true
    if isinstance(kind, type) and issubclass(kind, Exception) and not ends_loops:
        try:
            return kind(message)
        except TypeError:  # UnicodeDecodeError and its like want more
            pass
    return RuntimeError(f"{name}: {message}" if message else name)


def _names_of(test: str, job: dict[str, Any], link: Link) -> dict[str, Any]:
    """Return the namespace of a test."""
    names: dict[str, Any] = {"__name__": "test"}
    if job["context"]:
        exec(compile(job["context"], "<problem>", "exec"), names)
    tree = ast.parse(test)
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    owners = {
        node.value.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
    }
    for name in used:
        if name in job["names"]:
            names[name] = Remote(link, name)
        elif name not in names and not hasattr(builtins, name):
            is_module = name in owners and name in sys.stdlib_module_names
            names[name] = importlib.import_module(name) if is_module else Remote(link, name)
    return names


def _verdict(outcome: str, error: BaseException, why: str = "") -> dict[str, str]:
    name, text = type(error).__name__, str(error).strip().splitlines()
    if isinstance(error, EndedError):
        outcome = "ended"
    if not why:
        why = f"{name}: {text[0]}" if text and not isinstance(error, LinkError) else (*text, name)[0]
    return {"outcome": outcome, "why": why[:_LONGEST_EXPLANATION]}


def _failed_line(error: BaseException, test: str) -> str:
    """Return the line of a test that failed."""
    lines = [
        frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == "<test>"
    ]
    number = lines[-1] if lines and lines[-1] else 1
    return test.splitlines()[number - 1].strip()[:_LONGEST_EXPLANATION]
