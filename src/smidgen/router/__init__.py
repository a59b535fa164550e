"""The memory router as a Python API: decisions of a small model, within a budget of time, none lost.

    from smidgen import Router
    from smidgen.data.memories import Candidate

    with Router("runs/memory-router/model.gguf") as router:
        print(router.memorize("My sister moved to Graz in May.").decision)
        print(router.arbitrate("Mia lives in Graz.", [Candidate("m17", "Mia lives in Linz.")]).decision)
        outcome = router.classify("Book me a table", {"restaurant": "reserve a table", "weather": "forecast"})
        print(outcome.status, outcome.decision, outcome.seconds)

The model is loaded, and the prefixes of the prompts are computed, before the first question. A question
that has no decision within the budget is `deferred`: `outcome.settled()` waits for what comes of it in the
end. Methods may be called from many threads, and slow questions of one task do not hold up those of
another.
"""

from smidgen.router.job import Outcome
from smidgen.router.latency import Latencies
from smidgen.router.questions import ArbitrateQuestion, ClassifyQuestion, MemorizeQuestion, Question
from smidgen.router.router import Router

__all__ = [
    "ArbitrateQuestion",
    "ClassifyQuestion",
    "Latencies",
    "MemorizeQuestion",
    "Outcome",
    "Question",
    "Router",
]
