"""What a decision costs: the prefix of the instructions is there, and nothing is run that is forced."""

import pytest

from smidgen import Router
from smidgen.data.memories import Candidate
from smidgen.data.templates import load_tokenizer
from smidgen.inference.decoder import Decoder
from smidgen.inference.llama_server import LlamaServer
from smidgen.models.load import resolve
from smidgen.router import ArbitrateQuestion, MemorizeQuestion
from smidgen.router.questions import classify_question

MIA = (Candidate("m17", "Mia lives in Linz."), Candidate("m9", "Mia has a dog."))


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of tokens that every pass has computed, whatever the engine."""
    passes: list[int] = []
    run, complete = Decoder._run, LlamaServer.complete

    def counted_run(self, first, cached, rows, shared=0):
        passes.append(sum(map(len, rows)))
        return run(self, first, cached, rows, shared)

    def counted_complete(self, question, *on_part):
        answer = complete(self, question, *on_part)
        passes.append(answer["__verbose"]["timings"]["prompt_n"] if "__verbose" in answer else 0)
        return answer

    monkeypatch.setattr(Decoder, "_run", counted_run)
    monkeypatch.setattr(LlamaServer, "complete", counted_complete)
    return passes


@pytest.mark.parametrize("engine", ["mlx", "llama"])
def test_tasks_take_turns_without_computing_instructions_again(engine, computed, tmp_path, monkeypatch):
    monkeypatch.setenv("SMIDGEN_CACHE", str(tmp_path))
    tokenizer = load_tokenizer(resolve("smidgen:nano"))
    intents = {"weather": "what the sky does", "food": "what there is to eat"}
    with Router("smidgen:nano", engine=engine, budget=None, intents=intents) as router:
        for turn in range(3):
            for question in (
                MemorizeQuestion(f"I like tea {turn}."),
                ArbitrateQuestion(f"Mia has a cat {turn}.", MIA),
                classify_question(f"Rain {turn}?", router.intents),
            ):
                computed.clear()
                outcome = router.ask(question)
                assert outcome.decision is not None
                if outcome.decision.action == "SKIP":
                    assert len(computed) == 1  # what follows the first choice is forced
                samples, forced = question.samples(""), 16  # tokens at most that open an answer
                new = [
                    len(tokenizer.render_prompt(sample.messages))
                    - len(tokenizer.encode(sample.messages[0].content))
                    + forced
                    for sample in samples
                ]
                if engine == "llama":  # a pass of its own for every prompt
                    assert max(computed) <= max(new), outcome
                    assert len(computed) <= 3 * len(samples), "a pass for every choice and no more"
                else:
                    assert computed[0] <= sum(new) and len(computed) <= 3, outcome
