from collections.abc import Callable, Iterator

import pytest
from tests.router.scripted import Scripted, first_choice

from smidgen import Router


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Scripted:
    """The engine that routers open."""
    engine = Scripted()
    monkeypatch.setattr("smidgen.router.router.open_engine", lambda options: engine)
    return engine


@pytest.fixture
def make(engine: Scripted) -> Iterator[Callable[..., Router]]:
    """A function that makes routers on `engine`, whose warm questions are forgotten."""
    made = []

    def make(**settings) -> Router:
        said, engine.say = engine.say, first_choice
        made.append(Router("scripted", **settings))
        engine.say = said
        engine.asked.clear()
        return made[-1]

    yield make
    for router in made:
        router.close()
