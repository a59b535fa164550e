"""Judging by probabilities: the distribution over answers, and the verdict made of it."""

import math

import pytest

from smidgen.data.types import Request, Sample, Scored
from smidgen.errors import ConfigError
from smidgen.tasks.judge.by_logits import ByLogits, distribution, extensions
from smidgen.tasks.judge.forms import Case, Verdict
from smidgen.tasks.templates import FORMS

SAMPLE = Sample("p#ab", FORMS["verdict"]().messages(Case("q", "x", "y")))


class Certain:
    """Gives each of some texts a probability, and all others next to none; one token each."""

    def __init__(self, probabilities: dict[str, float]) -> None:
        self.probabilities = probabilities

    def score(self, samples, continuations, *, least_share):
        for sample in samples:
            logprobs = [[math.log(self.probabilities.get(text, 1e-9))] for text in continuations]
            yield sample, Scored(logprobs)


def said(name: str, probabilities: dict[str, float]) -> str:
    ((_, completion),) = ByLogits(Certain(probabilities), FORMS[name]()).complete([Request(SAMPLE)])
    return completion.text


@pytest.mark.parametrize(
    ("name", "probabilities", "verdict"),
    [
        ("verdict", {"[[A": 0.6, "[[B": 0.2}, Verdict("first", 0.75, 0.25)),
        ("verdict", {"[[C": 0.5}, Verdict("tie", 0.0, 0.0)),
        (
            "rubric",
            {"<scores>\n\\boxed{9, 2": 0.3, "<scores>\n\\boxed{7, 4": 0.1},
            Verdict("first", 8.5, 2.5),
        ),
        ("scores", {"3 5": 0.01}, Verdict("second", 3.0, 5.0)),
    ],
)
def test_shares_become_a_verdict(name: str, probabilities: dict[str, float], verdict: Verdict):
    found = FORMS[name]().parse(said(name, probabilities))
    assert found.preferred == verdict.preferred
    assert found[1:] == pytest.approx(verdict[1:], abs=1e-3)


def test_an_expected_grade():
    text = said("grade", {"[RESULT] 5": 0.3, "[RESULT] 2": 0.1})
    assert FORMS["grade"]().parse(text) == pytest.approx(4.25, abs=1e-3)


def test_a_text_that_begins_another_loses_what_is_the_others():
    texts = ["1", "10", "2"]
    shares = distribution(dict(zip(texts, map(math.log, (0.5, 0.4, 0.1)), strict=True)), extensions(texts))
    assert shares == pytest.approx({"1": 1 / 6, "10": 4 / 6, "2": 1 / 6})
    tiny = distribution({"a": -2000.0, "b": -2000.0 + math.log(3)}, extensions(["a", "b"]))
    assert tiny == pytest.approx({"a": 0.25, "b": 0.75})


def test_adapters_of_single_requests_are_refused():
    judge = ByLogits(Certain({"[[A": 0.6}), FORMS["verdict"]())
    with pytest.raises(ConfigError, match="does not support adapters per request, such as lora; open the"):
        next(judge.complete([Request(SAMPLE), Request(SAMPLE, adapter="lora")]))
