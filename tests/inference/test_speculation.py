"""Drafts change the number of passes, and nothing else: answers are those of one token a pass."""

from collections.abc import Sequence
from random import Random

import pytest

from smidgen.data.types import Completion, Constraint, Message, Request, Sample, Sampling
from smidgen.inference.acceptance import MOST_DRAFT, Acceptance, Windows
from smidgen.inference.drafting import Drafting
from smidgen.inference.drafts import Draft
from smidgen.inference.mlx import MlxEngine
from smidgen.inference.pass_costs import PassCosts
from smidgen.inference.row import DecodeRow
from smidgen.inference.speculation import Speculation

WORDS = ("the", "better", "answer", "is", "first", "second", "which", "why")
FREE = PassCosts({1: 1.0, 64: 1.0})
"""Passes of which any number of tokens takes as long: whatever may be accepted is worth a try."""
SCHEMA = {
    "type": "object",
    "properties": {"verdict": {"enum": ["first", "second"]}, "why": {"type": "string", "maxLength": 12}},
    "required": ["verdict", "why"],
    "additionalProperties": False,
}
KINDS: dict[str, dict] = {
    "greedy": {},
    "sampled": {"temperature": 0.8, "top_p": 0.9},
    "penalised": {"repetition_penalty": 1.3, "frequency_penalty": 0.2},
    "stopped": {"stop": ("e", "st")},
    "ended": {"stop_after": ("r", "an")},
}


def requests_of(count: int, constraint: Constraint | None = None, **sampling) -> list[Request]:
    """Requests whose prompts and answers differ in length."""
    texts = ["judge: " + " ".join(WORDS[: i % 5]) + str(i) for i in range(count)]
    return [
        Request(
            Sample(str(i), (Message("user", text),)),
            Sampling(**({"max_tokens": 20 + 7 * (i % 4)} | sampling)),
            constraint,
        )
        for i, text in enumerate(texts)
    ]


def answers(engine: MlxEngine, requests: Sequence[Request]) -> dict[str, Completion]:
    return {request.sample.id: completion for request, completion in engine.complete(requests)}


def assert_same(drafted: dict[str, Completion], plain: dict[str, Completion]) -> None:
    assert drafted.keys() == plain.keys()
    for name, completion in plain.items():
        other = drafted[name]
        assert other.token_ids == completion.token_ids
        assert (other.text, other.finish_reason) == (completion.text, completion.finish_reason)
        assert other.logprobs == pytest.approx(completion.logprobs, abs=1e-4)
        assert other.passes is not None and sum(other.passes.committed) == len(completion.token_ids)


class Prompter:
    """A drafter that knows the answers, and is wrong at random places."""

    def __init__(self, known: dict[str, Completion], seed: int, wrong: float):
        self.known, self.random, self.wrong = known, Random(seed), wrong
        self.rows: set[DecodeRow] = set()

    def propose(self, rows: Sequence[DecodeRow], most: Sequence[int]) -> list[Draft]:
        return [self.guess(row, count) for row, count in zip(rows, most, strict=True)]

    def guess(self, row: DecodeRow, most: int) -> Draft:
        at = len(row.token_ids) + len(row.forced)
        right = [*self.known[row.request.sample.id].token_ids, 7, 8, 9][
            at : at + self.random.randint(0, most)
        ]
        return Draft.of("known", [(token + (self.random.random() < self.wrong)) % 300 for token in right])

    def learn(self, row: DecodeRow, choices: Sequence[int]) -> None:
        self.rows.add(row)

    def forget(self, row: DecodeRow) -> None:
        self.rows.discard(row)


def prompted(engine: MlxEngine, drafter: Prompter, width: int = MOST_DRAFT) -> MlxEngine:
    """Let an engine draft with a prompter."""
    forward = engine._decoders.base
    speculation = Speculation(
        drafter,
        Acceptance(),
        Windows(0),
        lambda: FREE,
        end_tokens=engine._builder.tokenizer.eos_token_ids,
        xp=forward.xp,
        epsilon=forward.epsilon,
        width=width,
    )
    engine._speculations = type("One", (), {"open": lambda self, adapter: speculation})()
    return engine


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("drafting", [Drafting("lookup", costs=FREE), Drafting("jacobi", width=5)])
def test_answers_are_those_of_one_token_a_pass(loaded, kind, batch_size, drafting):
    requests = requests_of(6, **KINDS[kind])
    plain = answers(MlxEngine(loaded, batch_size=batch_size), requests)
    assert all(completion.passes is None for completion in plain.values())
    assert_same(answers(MlxEngine(loaded, batch_size=batch_size, drafting=drafting), requests), plain)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(4))
def test_any_mixture_of_right_and_wrong_drafts(loaded, kind, seed):
    requests = requests_of(7, **KINDS[kind])
    plain = answers(MlxEngine(loaded, batch_size=3), requests)
    drafter = Prompter(plain, seed, wrong=(0.0, 0.1, 0.3, 1.0)[seed])
    engine = prompted(MlxEngine(loaded, batch_size=3), drafter, width=(64, 3, 8, 5)[seed])
    found = answers(engine, requests)
    assert_same(found, plain)
    assert not drafter.rows  # all have left
    passes = [completion.passes for completion in found.values() if completion.passes]
    assert (max(max(each.committed) for each in passes) > 1) == (seed < 3)
    assert all(each.drafted for each in passes if sum(each.committed) > 4)
    if seed == 3:
        assert all(set(each.committed) == {1} for each in passes)
