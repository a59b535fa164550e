"""The process behind `math_verifier`: reads pairs of expressions, and writes whether they are equal.

Both are JSON lines. It is run as a file, so that it loads nothing of smidgen.
"""

import json
import logging
import os
import resource
import sys
from contextlib import suppress

from math_verify import parse, verify

MEMORY = 4 << 30
"""Bytes of address space: enough for sympy, and the end of numbers that would fill the machine."""


def compare(gold: str, said: str) -> bool:
    """Whether math-verify finds two expressions equal; any failure means no."""
    try:
        right, given = (parse(f"${text.strip().strip('$')}$", parsing_timeout=0) for text in (gold, said))
        return bool(right and given) and verify(right, given, timeout_seconds=None)
    except Exception:  # sympy raises errors of every kind on what models write
        return False


def main() -> None:
    """Answer one line for each line, until the input ends."""
    with suppress(ValueError, OSError):  # a lower limit holds, or the system has none
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    logging.disable(logging.CRITICAL)
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what libraries print is no answer
    compare("1", "2")  # sympy imports on first use
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(compare(*json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    main()
