"""Processes that a test may kill, without paying for the imports of each.

On Linux they are forked from a server that has loaded what is slow to import and computes nothing. MLX is not
among it: its threads would not survive a fork. Elsewhere every process starts anew.
"""

import multiprocessing
import os
import sys
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from typing import Any

PRELOADED = [
    "pytest",
    "smidgen.cli.app",
    "smidgen.data.templates",
    "smidgen.tasks.judge.by_logits",
    "smidgen.tasks.judge.calibration",
    "smidgen.evaluation.report",
]


def start(function: Callable[..., object], *arguments: Any) -> BaseProcess:
    """Run a function of a module in a process of its own, which exits with what the function returns."""
    context = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
    if sys.platform == "linux":
        context.set_forkserver_preload(PRELOADED)
    process = context.Process(target=_run, args=(function, arguments), daemon=True)
    process.start()
    return process


def smidgen(arguments: Sequence[str]) -> BaseProcess:
    """Start the command `smidgen`; what it says is lost."""
    return start(_command, list(arguments))


def _command(arguments: list[str]) -> int:
    from smidgen.cli.app import exit_code
    from smidgen.inference import choice

    choice.candidates = lambda path, config, num_weights: ["mlx"]  # as `unmeasured` of tests/conftest.py
    with open(os.devnull, "w") as nowhere:
        for stream in (1, 2):
            os.dup2(nowhere.fileno(), stream)
    return exit_code(arguments)


def _run(function: Callable[..., object], arguments: Sequence[Any]) -> None:
    sys.exit(function(*arguments))
