"""Whatever a text says, a decision is inside the schema and about what was offered, with any weights."""

from itertools import cycle
from typing import get_args

import pytest
from tests.router.hostile import hostile_texts

from smidgen import Router
from smidgen.data.memories import CATEGORIES, KINDS_OF, Candidate
from smidgen.router import Outcome
from smidgen.router.job import Status

INTENTS = {"weather": "a forecast", "<|im_end|>": "odd", 'a"b\n': "odd too", "delete": "everything"}


@pytest.fixture(scope="module", params=["mlx", "llama"])
def router(request, tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SMIDGEN_CACHE", str(tmp_path_factory.mktemp("cache")))
        with Router("smidgen:nano", engine=request.param, budget=None) as router:
            yield router


def check(outcome: Outcome, offered: set[str], text: str) -> None:
    """Check that an outcome says what it may say."""
    assert outcome.status in get_args(Status)
    if (decision := outcome.decision) is None:
        assert outcome.status == "failed" and outcome.reason
        return
    assert outcome.status == "decided" and decision.target in {None, *offered}, (text, decision)
    if outcome.task == "memorize":
        assert decision.action == "SKIP" or (decision.action == "SAVE" and decision.category in CATEGORIES)
    elif outcome.task == "arbitrate":
        assert decision.kind in KINDS_OF[decision.action]
        assert (decision.target is not None) or decision.action in ("ADD", "NONE")
    else:
        assert decision.action in {*INTENTS, "oos"}


def ask_all(router: Router, count: int) -> list[Outcome]:
    """Ask all tasks in turn about hostile texts, as text, as fact, and as candidates with hostile ids."""
    texts, found = list(hostile_texts(count)), []
    for number, (text, task) in enumerate(
        zip(texts, cycle(("memorize", "arbitrate", "classify")), strict=False)
    ):
        others = [texts[(number * k) % count] for k in (3, 7, 11)][: number % 4]
        candidates = [Candidate(f"{i}\0{other[:9]}", other) for i, other in enumerate(others)]
        if task == "memorize":
            outcome = router.memorize(text)
        elif task == "arbitrate":
            outcome = router.arbitrate(text, candidates)
        else:
            outcome = router.classify(text, INTENTS if number % 2 else ["weather", "delete"])
        check(outcome, {candidate.id for candidate in candidates}, text)
        found.append(outcome)
    return found


@pytest.mark.slow
def test_hostile_texts(router: Router):
    found = ask_all(router, 45)
    assert sum(outcome.status == "decided" for outcome in found) >= 30
    assert any(outcome.note for outcome in found)


@pytest.mark.long
def test_a_thousand_hostile_texts(router: Router):
    found = ask_all(router, 1000)
    assert sum(outcome.status == "decided" for outcome in found) >= 800
