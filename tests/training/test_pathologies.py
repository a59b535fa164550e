"""Every planted fault of a training on rewards is named."""

import re
from typing import Any

import pytest

from smidgen.config import GrpoConfig
from smidgen.data.types import StepResult
from smidgen.errors import WorkError
from smidgen.training.pathologies import WINDOW, Pathologies

CONFIG = GrpoConfig(method="grpo", max_completion_length=64)
HEALTHY = {
    "reward": 0.5, "reward_std": 0.4, "frac_reward_zero_std": 0.2, "completions/clipped_ratio": 0.1,
    "entropy": 0.8, "kl": 0.01, "engine_gap": 1e-6,
}  # fmt: skip


def result(step: int, **figures: float) -> StepResult:
    return StepResult(step, 0.1, 0.0, 10, 20, 1e-4, 0.5, 1.0, metrics=HEALTHY | figures)


def told(**figures: Any) -> list[str]:
    watch = Pathologies(CONFIG)
    return [said for step in range(2 * WINDOW) for said in watch.of_step(result(step + 1, **figures))]


def test_a_healthy_training_is_not_commented_on():
    assert told() == []


@pytest.mark.parametrize(
    ("figures", "name"),
    [
        (
            {"reward_std": 0.0, "reward": 0.25, "frac_reward_zero_std": 1.0},
            r"constant reward: .* got 0.25,.*",
        ),
        ({"frac_reward_zero_std": 0.95}, "groups without variance: in 95% of the groups .*"),
        ({"completions/clipped_ratio": 0.6}, "truncated answers: 60% .* cut off at 64 tokens; .*"),
        ({"entropy": 4.5}, "exploded entropy: 4.5 nats per token .* close to noise; .*"),
        ({"entropy": 0.002}, "collapsed entropy: 0.002 nats per token .*"),
    ],
)
def test_a_fault_that_lasts_is_named_once(figures: dict[str, float], name: str):
    (sentence,) = told(**figures)
    assert re.fullmatch(name, sentence)


def test_a_fault_that_comes_back_is_told_again():
    watch, said = Pathologies(CONFIG), list[str]()
    for step in range(6 * WINDOW):
        bad = (step // (2 * WINDOW)) % 2 == 0
        said += watch.of_step(result(step + 1, entropy=0.001 if bad else 1.0))
    assert len(said) == 2


def test_an_exploding_divergence_ends_the_training():
    with pytest.raises(WorkError, match=r"step 3: the divergence has exploded: it is 12 .*--from-checkpoint"):
        Pathologies(CONFIG).of_step(result(3, kl=12.0))


def test_answers_that_are_not_the_models_own_end_the_training():
    with pytest.raises(WorkError, match=r"step 2: .* differ from those at sampling by 0.3 nats per token"):
        Pathologies(CONFIG).of_step(result(2, engine_gap=0.3))
