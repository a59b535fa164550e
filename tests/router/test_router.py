"""The Python door to memory decisions, on an engine that follows a script."""

import math
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.router.scripted import SKIP, first_choice

from smidgen import EngineOptions, Router
from smidgen.data.memories import Candidate, Decision, IntentOffer
from smidgen.data.types import Completion
from smidgen.errors import ConfigError, DataError, ModelError, WorkError
from smidgen.router import ArbitrateQuestion, MemorizeQuestion
from smidgen.router import router as router_module

ADD, UPDATE = '{"decision":"ADD","kind":"new"}', '{"decision":"UPDATE","kind":"correction"}'
MIA = (Candidate("m17", "Mia lives in Linz."), Candidate("m9", "Mia has a dog."))


def text_of(request) -> str:
    return request.sample.messages[-1].content


def test_decisions_are_mapped_back_to_what_was_offered(make, engine):
    router = make(intents={"weather": "a forecast"})
    engine.say = lambda request: '{"decision":"SAVE","category":"plan"}'
    found = router.memorize("I will move to Graz.")
    assert (found.status, found.decision) == ("decided", Decision("SAVE", category="plan"))
    assert found.attempts == 1 and 0 < found.seconds < 5 and found.settled() is found
    engine.say = lambda request: UPDATE if "a dog" in text_of(request) else ADD
    assert router.arbitrate("Mia has a cat.", MIA).decision == Decision(
        "UPDATE", target="m9", kind="correction"
    )
    engine.say = lambda request: '{"intent":"weather"}'
    assert router.classify("Rain?").decision == Decision("weather")
    assert router.classify("Rain?", ["food", IntentOffer("weather")]).decision == Decision("weather")
    assert [request.logprobs for request in engine.asked] == [False, True, True, False, False]


def test_a_fact_is_compared_with_every_candidate_and_the_surest_answer_counts(make, engine, monkeypatch):
    router, sure = make(), {"b": 0.5, "c": 0.75}
    offered = [Candidate(name, f"it is {name}") for name in "abcde"]
    said = {"a": ADD, "b": UPDATE, "c": UPDATE, "d": ADD, "e": ADD}
    monkeypatch.setattr(
        "tests.router.scripted.Completion",
        lambda name: Completion(said[name], logprobs=(math.log(sure.get(name, 1.0)),)),
    )
    engine.say = lambda request: text_of(request)[-1]
    found = router.arbitrate("It is new.", offered)
    assert found.decision == Decision("UPDATE", target="c", kind="correction") and found.attempts == 1
    assert [text_of(request)[-1] for request in engine.asked] == [*"abcde"]


def test_nothing_is_asked_about_a_fact_if_nothing_is_stored(make, engine):
    found = make().arbitrate("Mia has a cat.", ())
    assert (found.status, found.decision) == ("decided", Decision("ADD", kind="new"))
    assert found.attempts == 0 and engine.asked == []
    router = make()
    router.arbitrate("Mia has a cat.", ())
    assert router.latencies.to_json()["tasks"] == {}, "it says nothing about the model"
    router.close()
    with pytest.raises(WorkError, match="the router is closed"):
        router.arbitrate("Mia has a cat.", ())


def test_what_cannot_be_answered_is_not_asked_on(make, engine, monkeypatch):
    router = make()
    monkeypatch.setattr(
        "tests.router.scripted.Completion", lambda text: Completion("", finish_reason="context")
    )
    found = router.arbitrate("x", [Candidate(name, name) for name in "abcdef"])
    assert found.reason == "the prompt does not fit the model's context; shorten the text"
    assert len(engine.asked) <= 3


def test_one_comparison_that_fails_fails_the_question_and_frees_its_places(make, engine):
    router = make(budget=None)
    engine.say = lambda request: DataError("it is odd") if "a dog" in text_of(request) else None
    assert router.arbitrate("Mia has a cat.", MIA).reason == "it is odd"
    assert len(engine.cancelled) == 1 and router.num_unsettled == 0
    engine.say = first_choice
    assert router.arbitrate("Mia has a cat.", MIA).status == "decided"


def test_a_late_comparison_keeps_the_answers_that_it_has(make, engine):
    router = make(budget=0.05)
    engine.say = lambda request: ADD if "Linz" in text_of(request) else None
    late = [router.arbitrate(f"Mia has a cat {i}.", MIA) for i in range(2)]
    assert [outcome.status for outcome in late] == ["deferred"] * 2
    assert router.arbitrate("Third", MIA).status == "deferred"  # takes the place of one of them
    engine.say = first_choice
    engine.wake()
    assert {outcome.settled(timeout=10).status for outcome in late} == {"decided"}
    stored = [text_of(request) for request in engine.asked]
    assert max(stored.count(f"New: Mia has a cat {i}.\nStored: Mia lives in Linz.") for i in range(2)) == 1


def test_the_model_is_warm_before_the_first_question(engine):
    with Router("scripted", intents=["a", "b"], places=3) as router:
        tasks = [request.sample.id.partition("-")[0] for request in engine.asked]
        assert tasks == ["memorize"] * 3 + ["arbitrate"] * 6 + ["classify"] * 3
        assert len({text_of(request) for request in engine.asked}) == 12
        assert {(request.logprobs, request.forced_logprobs) for request in engine.asked[3:9]} == {
            (True, False)
        }
        assert router.latencies.cold_start > 0 and "decided" not in router.latencies.to_json()["all"]
    assert engine.closed


def test_what_is_wrong_with_a_question_fails_it_alone(make, engine):
    router = make()
    for outcome, reason in [
        (router.memorize(" \n"), "the text is empty; expected something to decide on"),
        (router.memorize(5), "a text is 5; expected a string"),  # type: ignore[arg-type]
        (router.arbitrate("x", [*MIA, *MIA]), "two candidates have the id 'm17'"),
        (router.arbitrate("x", [Candidate(str(i), "y") for i in range(17)]), "there are 17 candidates"),
        (router.classify("x"), "no intents are given to choose from"),
    ]:
        assert (outcome.status, outcome.decision, outcome.attempts) == ("failed", None, 0)
        assert reason in outcome.reason
    assert engine.asked == [] and router.memorize("x").status == "decided"


def test_an_error_of_the_engine_fails_its_question_alone(make, engine):
    router = make(budget=None)
    faults = {
        "bad": DataError("it does not fit"),
        "strange": ValueError(),
        "odd": "no JSON",
        "other": '{"a":1}',
    }
    engine.say = lambda request: faults.get(text_of(request), SKIP)
    with ThreadPoolExecutor(8) as pool:
        found = dict(zip(texts := [*faults, *"abcd"], pool.map(router.memorize, texts), strict=True))
    assert {text for text, outcome in found.items() if outcome.status == "failed"} == faults.keys()
    assert found["bad"].reason == "it does not fit" and found["strange"].reason == "ValueError"
    assert "the answer is no decision: 'no JSON' is not JSON" in found["odd"].reason
    assert all(found[text].decision == Decision("SKIP") for text in "abcd")
    engine.opened[0].step, step = failing, engine.opened[0].step
    assert router.memorize("x").reason == "the engine failed: out of memory"
    engine.opened[0].step = step
    assert router.memorize("x").status == "decided"


def failing(**_):
    raise RuntimeError("out of memory")


def test_a_prompt_without_an_answer_has_failed(make, engine, monkeypatch):
    router = make()
    monkeypatch.setattr(
        "tests.router.scripted.Completion", lambda text: Completion("", finish_reason="context")
    )
    assert router.memorize("x").reason == "the prompt does not fit the model's context; shorten the text"


def test_notes_say_what_the_model_does_not_see(make, engine):
    router = make()
    assert router.memorize("x" * 800).note == ""
    found = router.memorize("x" * 100_000)
    assert found.status == "decided"
    assert found.note == "100,000 characters of text were shortened to 800, beginning and end"
    assert len(text_of(engine.asked[-1])) <= 800
    assert router.memorize("a \ud800 b").note == "half characters (lone surrogates) were replaced"


def test_late_questions_are_deferred_and_settled(make, engine):
    router = make(budget=0.05)
    engine.say = lambda request: None
    found = router.memorize("slow")
    assert (found.status, found.decision) == ("deferred", None) and 0.05 <= found.seconds < 2
    assert "no decision within the budget of 0.05 s; it is tried again" in found.reason
    assert router.num_unsettled == 1 and found.settled(timeout=0.01) is found
    settled = []
    found.when_settled(settled.append)
    engine.say = first_choice
    engine.wake()
    final = found.settled(timeout=5)
    assert (final.status, final.decision, final.settled()) == ("decided", Decision("SKIP"), final)
    assert settled == [final] and final.seconds > found.seconds and router.num_unsettled == 0
    now = []
    final.when_settled(now.append)
    assert now == [final] and engine.cancelled == []  # it kept its place


def test_a_late_question_makes_room_and_is_tried_again(make, engine):
    """Three late questions hold both places; the next one is decided at once, and they are in the end."""
    router = make(budget=0.05)
    engine.say = lambda request: None if "slow" in text_of(request) and not is_over else SKIP
    is_over = False
    with ThreadPoolExecutor(3) as pool:
        late = list(pool.map(router.memorize, ["slow 1", "slow 2", "slow 3"]))
    assert [outcome.status for outcome in late] == ["deferred"] * 3
    assert router.memorize("quick").status == "decided"
    assert len(engine.cancelled) >= 1
    is_over = True
    engine.wake()
    finals = [outcome.settled(timeout=10) for outcome in late]
    assert [final.decision for final in finals] == [Decision("SKIP")] * 3
    assert max(final.attempts for final in finals) >= 2 and router.num_unsettled == 0


def test_a_task_does_not_hold_up_another(make, engine):
    """However many comparisons wait, a text is decided at once."""
    router = make(budget=None)
    release = threading.Event()
    engine.say = lambda request: (
        first_choice(request) if release.is_set() or "New:" not in text_of(request) else None
    )
    comparisons = [router.submit(ArbitrateQuestion(f"fact {i}", MIA)) for i in range(20)]
    found = router.memorize("quick")
    assert found.status == "decided" and not any(future.done() for future in comparisons)
    assert sum("New:" in text_of(request) for request in engine.asked) == 4  # two candidates in each place
    release.set()
    engine.wake()
    assert {future.result(5).status for future in comparisons} == {"decided"}


def test_questions_from_many_threads_get_their_own_answers(make, engine):
    router = make(budget=None)
    engine.say = lambda request: '{"decision":"SAVE","category":"plan"}' if "7" in text_of(request) else SKIP
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda i: router.memorize(f"number {i}"), range(300)))
    assert [outcome.decision.action == "SAVE" for outcome in found] == ["7" in str(i) for i in range(300)]
    counts = router.latencies.to_json()
    assert counts["tasks"]["memorize"]["decided"] == 300 == counts["all"]["decided"]
    assert 0 < counts["all"]["p50"] <= counts["all"]["p95"] <= counts["all"]["p99"]
    assert counts["all"]["with_cold_start"]["p50"] >= counts["all"]["p50"]


def test_a_closed_router_defers_what_it_has(make, engine):
    router = make(budget=None)
    engine.say = lambda request: None
    pending = [router.submit(MemorizeQuestion(f"text {i}")) for i in range(4)]
    router.close()
    for future in pending:
        outcome = future.result(5)
        assert (outcome.status, outcome.reason) == ("deferred", "the router was closed before it decided")
        assert outcome.settled(timeout=5).status == "deferred"
    with pytest.raises(WorkError, match="the router is closed and takes no more questions"):
        router.memorize("x")
    router.close()


def test_settings_are_checked(engine, monkeypatch):
    with pytest.raises(ConfigError, match="the budget is 0 seconds; expected more than 0"):
        Router("scripted", budget=0)
    with pytest.raises(ConfigError, match="places is 0; expected 1 or more"):
        Router("scripted", places=0)
    engine.say = lambda request: ModelError("its weights are NaN")
    with pytest.raises(ModelError, match="the model scripted does not decide: its weights are NaN"):
        Router("scripted")
    assert engine.closed
    options = []
    engine.say = first_choice
    monkeypatch.setattr(router_module, "open_engine", lambda given: options.append(given) or engine)
    Router(EngineOptions("scripted", kv_bits=8), "some/adapter", places=3).close()
    assert (str(options[0].adapter), options[0].kv_bits, options[0].batch_size) == ("some/adapter", 8, 15)


def test_outcomes_as_json(make, engine):
    found = make().memorize("x" * 900).to_json()
    assert found["decision"] == {"action": "SKIP"} and found["note"].startswith("900 characters")
    assert set(found) == {"task", "status", "decision", "seconds", "attempts", "note"}


def test_a_question_that_comes_during_a_step_is_deferred_in_time(make, engine):
    router = make(budget=0.2)
    engine.say = lambda request: None
    assert router.memorize("x").status == "deferred"  # and waits in the engine, with no deadline left
    assert router.submit(MemorizeQuestion("y")).result(timeout=10).status == "deferred"
    engine.say = first_choice
    engine.wake()
