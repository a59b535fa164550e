"""`smidgen serve` whose model is a rule: every decision that is allowed, the same for the same prompt.

python tests/tools/scripted_server.py --port 8765 --store memory.db
"""

import json
import sys
import time
from collections.abc import Iterable, Iterator
from hashlib import sha256

from tests.router.scripted import Scripted

from smidgen.cli.app import exit_code
from smidgen.data.types import Completion, Request
from smidgen.serving import service

SECONDS = 0.003
"""How long an answer takes, so that some are always on their way."""


def decide(request: Request) -> str:
    """One of the answers that the constraint allows; saves more often than not, so that much is written."""
    time.sleep(SECONDS)
    if request.constraint is None:
        return "yes"
    choices = json.loads(request.constraint.value)
    saving = [each for each in choices if "SAVE" in each] or choices
    number = int(sha256(request.sample.messages[-1].content.encode()).hexdigest()[:8], 16)
    return choices[0] if number % 8 == 0 else saving[number // 8 % len(saving)]


class ScriptedModel(Scripted):
    """What a server needs of an engine in its process."""

    batch_size, tokenizer = 4, None

    def complete(self, requests: Iterable[Request]) -> Iterator[tuple[Request, Completion]]:
        """Answer at once."""
        return ((request, Completion("yes")) for request in requests)


if __name__ == "__main__":
    service.open_local_engine = lambda options: ScriptedModel(decide)  # type: ignore[assignment]
    sys.exit(exit_code(["serve", "smidgen:nano", *sys.argv[1:]]))
