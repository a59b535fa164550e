"""Advantages, the divisor of each loss, resampling, and that a resumed run samples the same answers."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from smidgen.backend import nn
from smidgen.config import GrpoConfig, LoraConfig
from smidgen.errors import WorkError
from smidgen.models.graph import named_arrays
from smidgen.models.lora import add_lora
from smidgen.training.batches import TrainBatch
from smidgen.training.loop import Output, train
from smidgen.training.objectives.group_relative import GroupRelative, answer_token_logprobs
from smidgen.training.rollout_batches import RolloutBatches
from smidgen.training.rollouts import Rollout, Sampled, advantages_of, sampled_row

LORA = LoraConfig(rank=2, alpha=4.0)
SETTINGS: dict[str, Any] = {
    "method": "grpo", "batch_size": 8, "num_generations": 4, "steps": 6, "max_length": 48, "lora": LORA,
    "max_completion_length": 16, "learning_rate": 0.05, "checkpoint_every": 2, "metric_every": 0,
    "choose": "loss",
}  # fmt: skip


def config_of(**settings: Any) -> GrpoConfig:
    return GrpoConfig(**{**SETTINGS, **settings})


class ToyRoller:
    """Answers that depend on the weights and the seed, as a model's do, but cost nothing to sample."""

    num_prompts = 5

    def __init__(self, model: nn.Module | None = None, rewards: Callable[[int, int], float] | None = None):
        self.model, self.asked = model, list[tuple[tuple[int, ...], int]]()
        self._reward = rewards

    def sample(self, prompts: Sequence[int], seed: int, step: int) -> Sampled:
        self.asked.append((tuple(prompts), seed))
        weights = 0.0
        if self.model is not None:
            weights = sum(float(w.sum()) for w in named_arrays(self.model.trainable_parameters()).values())
        rng = np.random.default_rng([seed, abs(hash(round(weights, 6))) % 2**32])
        groups = [[self._answer(rng, prompt, i) for i in range(4)] for prompt in prompts]
        return Sampled(groups, {"reward": float(np.mean([one.reward for g in groups for one in g]))})

    def _answer(self, rng: np.random.Generator, prompt: int, i: int) -> Rollout:
        length = int(rng.integers(3, 9))
        ids = [prompt + 1, prompt + 2, *rng.integers(0, 97, length).tolist()]
        reward = float(rng.random()) if self._reward is None else self._reward(prompt, i)
        logprobs = rng.normal(-2.0, 0.1, length).astype(np.float32)
        return Rollout(sampled_row(f"{prompt}/{i}", ids, 2), logprobs, reward, truncated=i == 3)

    def logprobs(self, batch: TrainBatch) -> np.ndarray:
        if self.model is None:
            return np.zeros((2, batch.trained_tokens), np.float32)
        return np.stack([np.array(answer_token_logprobs(self.model, batch))] * 2)


def test_advantages_are_rewards_against_their_group():
    rewards = [[1.0, 0.0, 1.0, 2.0], [5.0, 5.0, 5.0, 5.0]]
    plain, scaled, whole = (advantages_of(rewards, scale) for scale in ("none", "group", "batch"))
    np.testing.assert_allclose(plain[0], [0, -1, 0, 1])
    np.testing.assert_allclose(scaled[0], np.array([0, -1, 0, 1]) / (np.std(rewards[0], ddof=1) + 1e-4))
    np.testing.assert_allclose(whole[0], np.array([0, -1, 0, 1]) / (np.std(rewards, ddof=1) + 1e-4))
    assert not scaled[1].any(), "no variance, no advantage, and no division by zero"


def test_a_rollout_survives_json():
    (group,), _ = ToyRoller().sample([3], 1, 1)
    again = Rollout.from_json(json.loads(json.dumps(group[0].to_json())))
    np.testing.assert_array_equal(again.logprobs, group[0].logprobs)
    np.testing.assert_array_equal(again.row.loss_mask, group[0].row.loss_mask)
    assert (again.reward, again.truncated, again.old) == (group[0].reward, False, None)


@pytest.mark.parametrize("loss_type", ["grpo", "dr_grpo", "dapo"])
def test_the_divisor_counts_every_answer(loss_type: str):
    batches = RolloutBatches(ToyRoller(), config_of(loss_type=loss_type)).next_step()
    tokens = sum(batch.trained_tokens for batch in batches)
    wanted = {"grpo": 8, "dr_grpo": 8 * 16, "dapo": tokens}[loss_type]
    assert sum(batch.weight for batch in batches) == pytest.approx(wanted)
    (batch,) = batches
    by_answer = np.split(batch.weights, np.cumsum([row.trained_tokens for row in batch.answers.rows])[:-1])
    assert [part.sum() for part in by_answer] == pytest.approx(
        [1.0 if loss_type == "grpo" else len(part) for part in by_answer]
    )


def test_answers_that_teach_nothing_take_no_pass_but_count():
    useful, _ = np.random.default_rng([0, 0]).permutation(5)[:2]  # the prompts of the first step
    flat = ToyRoller(rewards=lambda prompt, i: i * (prompt == useful) + 1.0)
    source = RolloutBatches(flat, config_of(loss_type="grpo"))
    batches = source.next_step()
    advantages = (float(i) - 1.5 for i in range(4))
    assert sum(len(batch.answers.rows) for batch in batches) == sum(map(bool, advantages))
    assert sum(batch.weight for batch in batches) == 8
    kept = RolloutBatches(flat, config_of(loss_type="grpo", beta=0.1)).next_step()
    assert sum(len(batch.answers.rows) for batch in kept) == 8, (
        "the divergence of every answer is learnt from"
    )


def test_a_step_without_any_advantage_still_has_a_batch():
    (batch,) = RolloutBatches(ToyRoller(rewards=lambda prompt, i: 1.0), config_of()).next_step()
    assert batch.weight > 0 and not batch.advantages.any()


def test_truncated_answers_can_be_masked():
    source = RolloutBatches(ToyRoller(), config_of(mask_truncated_completions=True, loss_type="grpo"))
    rows = [row.id for batch in source.next_step() for row in batch.answers.rows]
    assert len(rows) == 6 and not any(name.endswith("/3") for name in rows)
    (batch,) = RolloutBatches(
        ToyRoller(), config_of(mask_truncated_completions=True, loss_type="grpo")
    ).next_step()
    assert batch.weight == 8, "as in TRL, masked answers count in the mean over answers"


def test_answers_that_are_all_masked_change_nothing(make_tiny: Callable[[], nn.Module]):
    roller = ToyRoller()
    sample = roller.sample
    roller.sample = lambda prompts, seed, step: Sampled(  # type: ignore[method-assign]
        [[replace(one, truncated=True) for one in group] for group in sample(prompts, seed, step).groups], {}
    )
    model = make_tiny()
    config = config_of(mask_truncated_completions=True)
    (batch,) = RolloutBatches(roller, config).next_step()
    assert batch.advantages.any() and not batch.weights.any()
    assert float(GroupRelative().loss(model, batch).loss) == 0.0


def test_groups_without_variance_are_resampled_from_the_next_prompts():
    roller = ToyRoller(rewards=lambda prompt, i: float(i) if prompt == 4 else 1.0)
    source = RolloutBatches(roller, config_of(resample=8))
    source.next_step()
    assert source.figures()["resampled_groups"] >= 1
    assert any(4 in prompts for prompts, _ in roller.asked)
    assert source.epoch() == sum(len(prompts) for prompts, _ in roller.asked) / 5


def test_every_prompt_is_asked_once_an_epoch():
    roller = ToyRoller()
    source = RolloutBatches(roller, config_of(steps=5))
    for _ in range(5):
        source.next_step()
    asked = [prompt for prompts, _ in roller.asked for prompt in prompts]
    assert sorted(asked[:5]) == sorted(asked[5:]) == [0, 1, 2, 3, 4] and asked[:5] != asked[5:]
    assert len({seed for _, seed in roller.asked}) == 5


def run(make: Callable[[], nn.Module], folder: Path | None, stop: int | None, **settings: Any) -> list[dict]:
    model, config = make(), config_of(**settings)
    add_lora(model, LORA, 0)
    model.eval()
    source = RolloutBatches(ToyRoller(model), config, share=True)
    output = None if folder is None else Output(folder)
    results = train(model, GroupRelative(), source, config, output=output, stop_after=stop)
    return [{**result.to_json(), "seconds": 0} for result in results]


@pytest.mark.parametrize("settings", [{}, {"num_iterations": 3}, {"temperature": 0.7, "resample": 1}])
@pytest.mark.parametrize("stop", [2, 3])
def test_a_resumed_run_is_the_uninterrupted_one(
    make_tiny: Callable[[], nn.Module], tmp_path: Path, settings: dict[str, Any], stop: int
):
    whole = run(make_tiny, None, None, **settings)
    begun = run(make_tiny, tmp_path, stop, **settings)
    assert begun + run(make_tiny, tmp_path, None, **settings) == whole


def test_weights_that_are_not_numbers_end_the_training(make_tiny: Callable[[], nn.Module]):
    model = make_tiny()
    add_lora(model, LORA, 0)
    name, value = next(iter(named_arrays(model.trainable_parameters()).items()))
    model.load_weights([(name, value * float("nan"))], strict=False)
    with pytest.raises(WorkError, match=r"step 1: the loss is nan .* all 8 rows give that, so the weights"):
        list(train(model, GroupRelative(), RolloutBatches(ToyRoller(), config_of()), config_of()))


def test_later_steps_on_the_same_answers_compare_with_the_first(make_tiny: Callable[[], nn.Module]):
    results = run(make_tiny, None, None, num_iterations=3)
    kl = [result["metrics"].get("kl") for result in results]
    assert kl[0] is kl[3] is None, "the first step on new answers"
    assert min(kl[1], kl[2], kl[4], kl[5]) > 1e-5
    assert [result["metrics"]["reward"] for result in results[:3]] == [results[0]["metrics"]["reward"]] * 3
