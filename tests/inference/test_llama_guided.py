"""Constrained answers of llama.cpp: a request for every choice, none for what is forced."""

import json
from dataclasses import replace

import pytest

from smidgen.data.types import Completion, Constraint, Message, Request, Sample, Sampling
from smidgen.inference import llama_files, llama_guided
from smidgen.inference.llama import LlamaEngine
from smidgen.inference.llama_files import llama_model
from smidgen.inference.llama_server import LlamaServer
from smidgen.inference.mlx import MlxEngine
from smidgen.models.load import load

SKIP = '{"decision":"SKIP"}'
DECISIONS = Constraint("choices", json.dumps([SKIP, '{"decision":"SAVE","category":"fact"}']))
SCHEMA = {
    "type": "object",
    "properties": {"winner": {"enum": ["A", "B"]}, "score": {"type": "integer", "minimum": 1, "maximum": 5}},
    "required": ["winner", "score"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setattr(llama_files, "cache_dir", lambda: folder)
        patch.setenv("SMIDGEN_CACHE", str(folder))
        engine = LlamaEngine(llama_model("smidgen:nano", dtype="F32"), batch_size=2)
        yield engine
        engine.close()


@pytest.fixture(scope="module")
def mlx():
    return MlxEngine(load("smidgen:nano"))


@pytest.fixture
def questions(monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    """The questions that llama.cpp gets."""
    asked, complete = [], LlamaServer.complete
    monkeypatch.setattr(
        LlamaServer,
        "complete",
        lambda server, question, *on: asked.append(question) or complete(server, question, *on),
    )
    return asked


def ask(constraint: Constraint, name: str = "q", *, logprobs: bool = False, **sampling) -> Request:
    settings = replace(Sampling(max_tokens=40), **sampling)
    return Request(Sample(name, (Message("user", "hello there"),)), settings, constraint, logprobs=logprobs)


def one(engine: LlamaEngine | MlxEngine, request: Request) -> Completion:
    ((_, completion),) = engine.complete([request])
    return completion


def said(completion: Completion) -> tuple:
    return completion.text, completion.token_ids, completion.finish_reason


@pytest.mark.parametrize(
    ("constraint", "requests"),
    [
        (DECISIONS, 1),
        (Constraint("choices", '["aé😀日x"]'), 0),
        (Constraint("regex", "[xy]/{2}z"), 1),
        (Constraint("json_schema", json.dumps(SCHEMA)), 2),
    ],
)
def test_a_request_for_every_choice(llama, mlx, questions, constraint, requests):
    found = one(llama, ask(constraint))
    assert said(found) == said(one(mlx, ask(constraint)))
    assert len(questions) == requests and all(question["max_tokens"] == 1 for question in questions)
    assert found.timing is not None and found.timing.completion_tokens == len(found.token_ids)
    assert found.logprobs == () and (found.timing.seconds > 0) == (requests > 0)


def test_a_wide_choice_is_left_to_llama_cpp(llama, mlx, questions):
    letters = Constraint("regex", "(yes|no)[a-z]{6}")
    assert one(llama, ask(letters)).text == one(mlx, ask(letters)).text
    assert "grammar" not in questions[0] and "grammar" in questions[-1]
    questions.clear()
    one(llama, ask(letters, "again"))
    assert len(questions) == 1  # it is known to be wide


@pytest.mark.parametrize(
    "request_",
    [ask(DECISIONS, logprobs=True), ask(DECISIONS, repetition_penalty=1.3)],
    ids=["log-probabilities", "repetition penalty"],
)
def test_what_a_bias_cannot_do_is_left_to_llama_cpp(llama, questions, request_):
    assert json.loads(one(llama, request_).text)["decision"] in ("SAVE", "SKIP")
    assert ["grammar" in question for question in questions] == [True]


def test_draws_of_one_answer_are_independent(llama):
    pairs = Constraint("choices", json.dumps(["xx", "xy", "yx", "yy"]))
    texts = {one(llama, ask(pairs, f"{i}", temperature=9.0)).text for i in range(24)}
    assert texts == {"xx", "xy", "yx", "yy"}  # a random number for both letters would never give all


def test_an_answer_is_cut_at_its_maximum_length(llama, mlx):
    for most in (1, 3, 8, 12):
        assert said(one(llama, ask(DECISIONS, max_tokens=most))) == said(
            one(mlx, ask(DECISIONS, max_tokens=most))
        )


def test_a_tokenizer_that_has_no_guides_is_left_to_llama_cpp(llama, questions, monkeypatch):
    monkeypatch.setattr(llama_guided, "begin_guide", lambda row, guides: None)
    monkeypatch.setattr("smidgen.inference.llama_lane.begin_guide", lambda row, guides: None)
    assert json.loads(one(llama, ask(DECISIONS)).text)["decision"] in ("SAVE", "SKIP")
    assert "grammar" in questions[0]
