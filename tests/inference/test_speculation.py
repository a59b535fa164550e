"""Drafts change the number of passes, and nothing else: answers are those of one token a pass."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from random import Random

import numpy as np
import pytest
from scipy.stats import chisquare
from tests.models.test_lora import CONFIG, adapted

from smidgen.backend import nn
from smidgen.data.types import Completion, Constraint, Message, Passes, Request, Sample, Sampling
from smidgen.inference.acceptance import MOST_DRAFT, Acceptance, Windows
from smidgen.inference.decoder import Decoder
from smidgen.inference.drafting import Drafting
from smidgen.inference.drafts import Draft
from smidgen.inference.forward import MlxForward
from smidgen.inference.mlx import MlxEngine
from smidgen.inference.pass_costs import PassCosts
from smidgen.inference.row import DecodeRow
from smidgen.inference.speculation import Speculation
from smidgen.models.graph import named_arrays
from smidgen.models.load import load
from smidgen.models.lora import save_adapter

WORDS = ("the", "better", "answer", "is", "first", "second", "which", "why")
FREE = PassCosts({1: 1.0, 64: 1.0})
"""Passes of which any number of tokens takes as long: whatever may be accepted is worth a try."""
SETTINGS: tuple[dict, ...] = (
    {},
    {"temperature": 0.8, "top_p": 0.9},
    {"repetition_penalty": 1.3, "frequency_penalty": 0.2},
    {"stop": ("e", "st")},
    {"stop_after": ("r", "an")},
    {"temperature": 1.5, "max_tokens": 60},  # random enough to choose an end token
)
SCHEMA = {
    "type": "object",
    "properties": {"verdict": {"enum": ["first", "second"]}, "why": {"type": "string", "maxLength": 12}},
    "required": ["verdict", "why"],
    "additionalProperties": False,
}
CONSTRAINTS = (
    Constraint("json_schema", json.dumps(SCHEMA)),
    Constraint("regex", "(the first|the second) answer( is better)*[.!]"),
    Constraint("choices", json.dumps(["first", "first and second", "second"])),
)


def requests_of(
    settings: Sequence[dict], constraints: Sequence[Constraint | None] = (None,)
) -> list[Request]:
    """Two requests for each setting and constraint; prompts and answers differ in length."""
    cases = [(one, constraint, i) for one in settings for constraint in constraints for i in range(2)]
    return [
        Request(
            Sample(str(number), (Message("user", "judge: " + " ".join(WORDS[: number % 5]) + str(i)),)),
            Sampling(**({"max_tokens": 17 + 7 * (number % 4)} | one)),
            constraint,
        )
        for number, (one, constraint, i) in enumerate(cases)
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
        assert completion.passes is None
        assert other.passes is not None and sum(other.passes.committed) == len(completion.token_ids)


def longest_pass(found: dict[str, Completion]) -> int:
    return max(max(one.passes.committed) for one in found.values() if one.passes)


class Prompter:
    """A drafter that knows the answers, and is wrong at random places."""

    refines = False

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

    def learn(self, row: DecodeRow, choices: Sequence[int], logprobs: Sequence[float]) -> None:
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
        FREE if width is None else None,
        end_tokens=engine._builder.tokenizer.eos_token_ids,
        xp=forward.xp,
        epsilon=forward.epsilon,
        width=width,
    )
    engine._speculations = type("One", (), {"open": lambda self, adapter: speculation})()
    return engine


@pytest.fixture(scope="module")
def free(loaded) -> tuple[list[Request], dict[str, Completion]]:
    """Requests without constraints, and their answers of one token a pass."""
    requests = requests_of(SETTINGS)
    found = answers(MlxEngine(loaded, batch_size=4), requests)
    ends = loaded.tokenizer.eos_token_ids
    assert any(one.token_ids[-1] in ends for one in found.values())
    assert {one.finish_reason for one in found.values()} == {"stop", "length"}
    return requests, found


@pytest.fixture(scope="module")
def bound(loaded) -> tuple[list[Request], dict[str, Completion]]:
    """Requests with constraints, and their answers of one token a pass."""
    requests = requests_of([{"max_tokens": 40}, {"temperature": 1.0, "max_tokens": 12}], CONSTRAINTS)
    return requests, answers(MlxEngine(loaded, batch_size=4), requests)


@pytest.mark.parametrize("case", ["free", "bound"])
@pytest.mark.parametrize(
    ("batch_size", "drafting"),
    [
        (1, Drafting("lookup", costs=FREE)),
        (3, Drafting("lookup", width=3)),
        (1, Drafting("jacobi", width=5)),
        (4, Drafting("jacobi", costs=FREE)),
        (3, Drafting("jacobi", width=9, pool_size=0)),
    ],
)
def test_answers_are_those_of_one_token_a_pass(loaded, request, case, batch_size, drafting):
    requests, plain = request.getfixturevalue(case)
    found = answers(MlxEngine(loaded, batch_size=batch_size, drafting=drafting), requests)
    assert_same(found, plain)
    assert longest_pass(found) > 1


@pytest.mark.parametrize("case", ["free", "bound"])
@pytest.mark.parametrize(("wrong", "width"), [(0.0, 64), (0.1, 3), (0.3, 8), (1.0, 5)])
def test_any_mixture_of_right_and_wrong_drafts(loaded, request, case, wrong, width):
    requests, plain = request.getfixturevalue(case)
    drafter = Prompter(plain, seed=width, wrong=wrong)
    found = answers(prompted(MlxEngine(loaded, batch_size=3), drafter, width), requests)
    assert_same(found, plain)
    assert not drafter.rows  # all have left
    if case == "free":  # a constraint forces tokens in any case
        assert (longest_pass(found) > 1) == (wrong < 1)


@pytest.mark.parametrize("case", ["free", "bound"])
def test_the_path_of_other_devices(loaded, request, case):
    requests, plain = request.getfixturevalue(case)
    engine = MlxEngine(loaded, batch_size=4)
    engine._decoders.base = MlxForward(loaded.model)
    assert_same(answers(prompted(engine, Prompter(plain, 1, wrong=0.2), 6), requests), plain)


def test_right_drafts_are_counted(loaded):
    requests = [replace(one, sampling=Sampling(max_tokens=16)) for one in requests_of([{}])]
    plain = answers(MlxEngine(loaded), requests)
    assert all(len(completion.token_ids) == 16 for completion in plain.values())

    class Known(Prompter):
        def guess(self, row: DecodeRow, most: int) -> Draft:
            right = self.known[row.request.sample.id].token_ids
            return Draft.of("known", right[len(row.token_ids) :][:most])

    for found in answers(prompted(MlxEngine(loaded), Known(plain, 0, 0.0), 4), requests).values():
        # The prompt's pass drafts too, and the last token is never drafted.
        assert found.passes == Passes((5, 5, 5, 1), drafted=12)
        assert found.passes.tokens_per_pass == 4


def test_the_cache_is_trimmed_to_the_tokens(loaded, free):
    requests, plain = free
    engine = prompted(MlxEngine(loaded, batch_size=5), Prompter(plain, 3, wrong=0.3), 6)
    session = engine.session()
    for request in requests[:5]:
        session.submit(request)
    for _ in range(4):
        session.step()
    (lane,) = session._lanes
    decoder, rows = lane._decoder, lane.rows
    assert len(rows) > 1 and len({len(row.token_ids) for row in rows}) > 1  # at different places
    texts = [(row.prompt + row.token_ids)[:-1] for row in rows]
    assert decoder.lengths == tuple(map(len, texts))
    fresh = Decoder(engine._decoders.base)
    fresh.add(texts)
    for mine, other in zip(decoder._caches, fresh._caches, strict=True):
        for i, text in enumerate(texts, start=1):
            for name in ("keys", "values"):
                left, right = (np.array(getattr(cache, name)[i, :, : len(text)]) for cache in (mine, other))
                assert left == pytest.approx(right, abs=1e-4)
    session.close()


@pytest.mark.parametrize("stop", [(), ("st", "e")])
def test_streamed_pieces_come_as_they_are_accepted(loaded, stop):
    request = requests_of([{"max_tokens": 40, "stop": stop}])[0]
    plain = {"0": MlxEngine(loaded).stream(request)}
    pieces = list(plain["0"])
    assert plain["0"].completion is not None
    known = {"0": plain["0"].completion}
    stream = prompted(MlxEngine(loaded), Prompter(known, 0, wrong=0.1)).stream(request)
    drafted = list(stream)
    assert "".join(drafted) == "".join(pieces) == known["0"].text
    assert stream.completion is not None and stream.completion.token_ids == known["0"].token_ids
    assert len(drafted) < len(pieces) or len(pieces) == 1


def test_quantised_weights_adapters_and_caches(tiny_model_dir, tmp_path):
    loaded = load(str(tiny_model_dir))
    graph = adapted(loaded.model)
    graph.load_weights(
        [(n, v * 3) for n, v in named_arrays(graph.trainable_parameters()).items()], strict=False
    )
    save_adapter(tmp_path / "adapter", graph, CONFIG)
    loaded = load(str(tiny_model_dir))
    nn.quantize(loaded.model, group_size=32, bits=4)
    base = requests_of(SETTINGS[:3])
    requests = base + [
        replace(one, sample=replace(one.sample, id="adapted " + one.sample.id), adapter=tmp_path / "adapter")
        for one in base
    ]
    plain = answers(MlxEngine(loaded, batch_size=3), requests)
    assert any(
        plain[name].token_ids != plain["adapted " + name].token_ids for name in plain if name[0] != "a"
    )
    for drafting in (Drafting("jacobi", width=4), Drafting("lookup", costs=FREE)):
        assert_same(answers(MlxEngine(loaded, batch_size=3, drafting=drafting), requests), plain)


def test_ties_within_the_noise_are_counted(loaded):
    requests = requests_of([{"max_tokens": 20}, {"max_tokens": 20, "temperature": 1.0}])
    engine = MlxEngine(loaded, drafting=Drafting("lookup", width=2))
    found = [one.passes.near_ties for one in answers(engine, requests).values() if one.passes]
    assert found == [0] * 4
    rough = MlxEngine(loaded, drafting=Drafting("lookup", width=2))
    rough._decoders.base.epsilon = 1.0  # type: ignore[misc]
    counted = [one.passes for one in answers(rough, requests).values() if one.passes]
    assert [one.near_ties for one in counted[:2]] == [sum(one.committed) for one in counted[:2]]
    assert [one.near_ties for one in counted[2:]] == [0, 0]  # drawn by a random number, not by a margin


def test_weights_that_changed_are_read_again(tiny_model_dir):
    own = load(str(tiny_model_dir))
    engine = MlxEngine(own, drafting=Drafting("jacobi", width=3))
    requests = requests_of([{}])
    answers(engine, requests)
    own.model.update({"model": {"norm": {"weight": own.model.model.norm.weight * 0.3}}})
    engine.refresh()
    assert_same(answers(engine, requests), answers(MlxEngine(own), requests))


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["jacobi", "lookup"])
def test_drawn_tokens_have_the_distribution_of_the_model(loaded, full_logits, mode):
    number, sampling = 600, Sampling(max_tokens=6, temperature=1.2, top_k=2, seed=4)
    messages = requests_of([{}])[1].sample.messages
    engine = MlxEngine(loaded, batch_size=50, drafting=Drafting(mode, width=4))
    requests = [Request(Sample(str(i), messages), sampling, logprobs=False) for i in range(number)]
    found = answers(engine, requests)
    assert longest_pass(found) > 1
    prompt = engine._builder.prompt(requests[0].sample)
    tree: dict[tuple[int, ...], float] = {(): 1.0}
    for _ in range(3):
        grown = {}
        for tokens, share in tree.items():
            logits = full_logits([*prompt, *tokens])[-1].astype(np.float64)
            best = np.argsort(-logits)[: sampling.top_k]
            weights = np.exp(logits[best] / sampling.temperature)
            for token, weight in zip(best.tolist(), weights / weights.sum(), strict=True):
                grown[*tokens, token] = share * weight
        tree = grown
    seen = Counter(completion.token_ids[:3] for completion in found.values())
    assert seen.keys() <= tree.keys() and len(tree) == 8
    expected = [number * share for share in tree.values()]
    assert chisquare([seen[tokens] for tokens in tree], expected).pvalue > 0.01
