import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smidgen.backend import mx
from smidgen.data.types import Sampling
from smidgen.errors import ConfigError
from smidgen.inference.sampling import RowState, check_sampling, draw, penalise

V = 24


def random_logits(rows: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 2, (rows, V)).astype(np.float32)


def softmax(x: np.ndarray) -> np.ndarray:
    x = np.exp(x.astype(np.float64) - x.max())
    return x / x.sum()


def support(logits: np.ndarray, sampling: Sampling) -> set[int]:
    """Naive reference: which tokens survive the temperature, top-k, top-p and min-p, one after the other."""
    probabilities = softmax(logits / sampling.temperature)
    kept = np.argsort(-probabilities)[: sampling.top_k or V].tolist()
    total, mass, nucleus = probabilities[kept].sum(), 0.0, []
    for token in kept:
        if mass < sampling.top_p * total:
            nucleus.append(token)
        mass += probabilities[token]
    return {token for token in nucleus if probabilities[token] >= sampling.min_p * probabilities.max()}


def drawn(logits: np.ndarray, sampling: Sampling, times: int, xp=np) -> np.ndarray:
    """Tokens drawn for `times` samples from the same logits (V,)."""
    rows = [RowState(str(i), sampling) for i in range(times)]
    return np.array(draw(xp.array(np.repeat(logits[None], times, axis=0)), rows, xp)[0])


@pytest.mark.parametrize("xp", [np, mx])
def test_greedy_is_argmax_with_its_logprob(xp):
    logits = random_logits(5)
    tokens, logprobs = draw(xp.array(logits), [RowState(str(i), Sampling()) for i in range(5)], xp)
    assert tokens == logits.argmax(-1).tolist()
    expected = [math.log(softmax(row).max()) for row in logits]
    assert logprobs == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("xp", [np, mx])
def test_log_probabilities_that_nobody_wants_only_say_whether_logits_are_numbers(xp):
    logits = random_logits(4)
    logits[3] = np.nan
    rows = [RowState(str(i), Sampling(), scored=i == 1) for i in range(4)]
    _, logprobs = draw(xp.array(logits), rows, xp)
    assert logprobs[:3] == [0, pytest.approx(math.log(softmax(logits[1]).max()), abs=1e-5), 0]
    assert math.isnan(logprobs[3])


@pytest.mark.parametrize("xp", [np, mx])
@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(temperature=1.5),
        Sampling(temperature=2.0, top_k=5),
        Sampling(temperature=1.0, top_p=0.7),
        Sampling(temperature=0.7, top_k=6, top_p=0.9),
        Sampling(temperature=2.0, min_p=0.1),
        Sampling(temperature=2.0, top_k=10, top_p=0.95, min_p=0.05),
        Sampling(temperature=1.0, top_k=V + 10),
        Sampling(temperature=1.0, top_p=1e-6),
    ],
)
def test_draws_follow_the_cut_distribution(xp, sampling):
    logits, times = random_logits(1)[0], 4000
    tokens = drawn(logits, sampling, times, xp)
    kept = support(logits, sampling)
    assert set(tokens.tolist()) <= kept
    expected = softmax(logits / sampling.temperature) * np.isin(np.arange(V), list(kept))
    expected /= expected.sum()
    frequency = np.bincount(tokens, minlength=V) / times
    assert np.abs(frequency - expected).max() < 4 * 0.5 / math.sqrt(times)


@pytest.mark.parametrize("temperature", [0.01, 1e4])
def test_extreme_temperatures(temperature):
    logits = random_logits(1)[0]
    tokens = drawn(logits, Sampling(temperature=temperature), 500)
    assert len(set(tokens.tolist())) == (1 if temperature < 1 else V)


@given(
    st.lists(
        st.builds(
            Sampling,
            temperature=st.sampled_from([0.0, 0.5, 1.0, 2.0]),
            top_k=st.sampled_from([0, 1, 7]),
            top_p=st.sampled_from([0.3, 0.9, 1.0]),
            min_p=st.sampled_from([0.0, 0.2]),
            repetition_penalty=st.sampled_from([1.0, 1.3]),
            frequency_penalty=st.sampled_from([0.0, 0.5]),
            seed=st.integers(0, 3),
        ),
        min_size=1,
        max_size=6,
    )
)
def test_company_does_not_change_a_row(samplings):
    rows = [RowState.begin(str(i), sampling, [1, 2, 3]) for i, sampling in enumerate(samplings)]
    for row in rows:
        row.record(2)
    logits = random_logits(len(rows), seed=1)
    together = draw(logits, rows, np)
    alone = [draw(logits[i : i + 1], [row], np) for i, row in enumerate(rows)]
    assert together[0] == [tokens[0] for tokens, _ in alone]
    assert together[1] == pytest.approx([logprobs[0] for _, logprobs in alone], abs=1e-6)


def test_numpy_and_mlx_draw_the_same():
    sampling = Sampling(temperature=0.8, top_k=9, top_p=0.9, repetition_penalty=1.2, frequency_penalty=0.3)
    rows = [RowState.begin(str(i), sampling, [i % V]) for i in range(50)]
    logits = random_logits(50)
    tokens, logprobs = draw(logits, rows, np)
    mlx_tokens, mlx_logprobs = draw(mx.array(logits), rows, mx)
    assert tokens == mlx_tokens
    assert logprobs == pytest.approx(mlx_logprobs, abs=1e-5)


@pytest.mark.parametrize("xp", [np, mx])
def test_penalties_against_a_naive_reference(xp):
    samplings = [
        Sampling(repetition_penalty=1.3),
        Sampling(frequency_penalty=0.7),
        Sampling(),
        Sampling(repetition_penalty=0.8, frequency_penalty=-0.2),
    ]
    prompt, completion = [3, 5, 5, 9], [5, 7, 7]
    logits = random_logits(4)
    rows = [RowState.begin(str(i), sampling, prompt) for i, sampling in enumerate(samplings)]
    expected = logits.copy()
    for row, scores in zip(rows, expected, strict=True):
        for token in completion:
            row.record(token)
        penalty = row.sampling.repetition_penalty
        for token in set(prompt + completion):
            scores[token] = scores[token] / penalty if scores[token] > 0 else scores[token] * penalty
        for token in completion:
            scores[token] -= row.sampling.frequency_penalty
    before = logits.copy()
    assert np.array(penalise(xp.array(logits), rows, xp)) == pytest.approx(expected, abs=1e-6)
    assert (logits == before).all()


def test_logprobs_are_of_the_unmodified_distribution():
    sampling = Sampling(temperature=0.5, top_k=3, repetition_penalty=2.0)
    row = RowState.begin("a", sampling, list(range(V)))
    logits = random_logits(1)
    tokens, logprobs = draw(logits, [row], np)
    assert logprobs[0] == pytest.approx(math.log(softmax(logits[0])[tokens[0]]), abs=1e-5)


def test_uniform_depends_on_seed_sample_and_position():
    row = RowState("a", Sampling(seed=1))
    first = row.uniform()
    assert first == row.uniform() == RowState("a", Sampling(seed=1)).uniform()
    row.record(0)
    others = {
        row.uniform(),
        RowState("b", Sampling(seed=1)).uniform(),
        RowState("a", Sampling(seed=2)).uniform(),
    }
    assert len(others | {first}) == 4
    many = [RowState(str(i), Sampling()).uniform() for i in range(2000)]
    assert min(many) >= 0 and max(many) < 1
    assert np.mean(many) == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize(
    ("sampling", "fault"),
    [
        (Sampling(max_tokens=0), "max_tokens is 0, expected 1 or more"),
        (
            Sampling(temperature=-1.0),
            r"temperature is -1\.0, expected 0 for greedy decoding, or 0\.01 or more",
        ),
        (Sampling(temperature=1e-9), "temperature is 1e-09, expected 0 for greedy"),
        (Sampling(top_p=0.0), r"top_p is 0\.0, expected more than 0 and at most 1"),
        (Sampling(top_k=-1), "top_k is -1, expected 0 for no limit, or more"),
        (Sampling(min_p=1.5), r"min_p is 1\.5, expected between 0 and 1"),
        (Sampling(repetition_penalty=0.0), r"repetition_penalty is 0\.0, expected more than 0"),
        (Sampling(stop=("a", "")), r"stop is \('a', ''\), expected strings that are not empty"),
        (Sampling(top_k=-1, min_p=-1.0), r"top_k is -1.*; min_p is -1\.0"),
    ],
)
def test_sampling_out_of_range(sampling, fault):
    with pytest.raises(ConfigError, match=fault):
        check_sampling(sampling)


def test_defaults_are_in_range():
    check_sampling(Sampling())
