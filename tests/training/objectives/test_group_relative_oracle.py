"""The loss of every kind, its gradient and the advantages are those of TRL's GRPO on a fixed batch."""

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from smidgen.backend import mx
from smidgen.config import GrpoConfig
from smidgen.training.batches import collated
from smidgen.training.objectives.group_relative import GroupRelative
from smidgen.training.rollout_batches import Answer, divisor, rollout_batch
from smidgen.training.rollouts import Rollout, advantages_of, sampled_row

pytestmark = [
    pytest.mark.oracle,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]
LENGTHS, LONGEST, PROMPT = (5, 3, 7, 4, 6, 2), 8, 3
RNG = np.random.default_rng(5)
NOW, OLD, BASE, SAMPLED = (
    [RNG.normal(-1.5, spread, length).astype(np.float32) for length in LENGTHS]
    for spread in (0.5, 0.5, 0.7, 0.5)
)
REWARDS = [[1.0, 0.0, 0.5], [0.2, 0.9, 0.1]]
TRUNCATED = (False, False, True, False, False, False)


def padded(parts: list[np.ndarray]) -> np.ndarray:
    return np.stack([np.pad(part, (0, max(LENGTHS) - len(part))) for part in parts])


def trl_loss(torch: Any, trainer: Any, config: GrpoConfig, advantages: np.ndarray, corrected: bool) -> tuple:
    """TRL's loss of the batch, and its gradient by the log-probabilities of every token."""
    mask = np.array([[float(i < length) for i in range(max(LENGTHS))] for length in LENGTHS])
    if config.mask_truncated_completions:
        mask *= 1 - np.array(TRUNCATED, float)[:, None]
    logps = torch.tensor(padded(NOW), requires_grad=True)
    ids = torch.zeros((len(LENGTHS), PROMPT), dtype=torch.long)
    inputs = {
        "prompt_ids": ids,
        "prompt_mask": torch.ones_like(ids),
        "completion_ids": torch.zeros(logps.shape, dtype=torch.long),
        "completion_mask": torch.tensor(mask),
        "advantages": torch.tensor(advantages),
        "num_items_in_batch": torch.tensor(mask.sum()),
        "ref_per_token_logps": torch.tensor(padded(BASE)),
    }
    if config.num_iterations > 1:
        inputs["old_per_token_logps"] = torch.tensor(padded(OLD))
    if corrected:
        gap = padded(OLD if config.num_iterations > 1 else NOW) - padded(SAMPLED)
        inputs["importance_sampling_ratio"] = torch.clamp(torch.exp(torch.tensor(gap)), max=3.0)
    low, high = config.clip_range
    it = trainer.__new__(trainer)
    it.__dict__.update(
        aux_loss_enabled=False, top_entropy_quantile=1.0, off_policy_mask_threshold=None, beta=config.beta,
        importance_sampling_level="token", loss_type=config.loss_type,
        epsilon_low=1 - low, epsilon_high=high - 1,
        use_vllm=corrected, vllm_importance_sampling_correction=corrected,
        current_gradient_accumulation_steps=1,
        max_completion_length=LONGEST, _entropy_bonus_enabled=False, _metrics={"train": defaultdict(list)},
        args=SimpleNamespace(delta=None, use_bias_correction_kl=False, steps_per_generation=1),
        model=SimpleNamespace(training=True),
        accelerator=SimpleNamespace(num_processes=1, gather=lambda x: x, reduce=lambda x, reduction: x),
        _get_per_token_logps_and_entropies=lambda *_, **__: (logps, torch.zeros_like(logps), None),
    )  # fmt: skip
    loss = it._compute_loss(None, inputs)
    loss.backward()
    return loss.item(), logps.grad.numpy()


@pytest.mark.parametrize("loss_type", ["grpo", "dr_grpo", "dapo"])
@pytest.mark.parametrize("beta", [0.0, 0.3])
@pytest.mark.parametrize("num_iterations", [1, 2])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("corrected", [False, True])
def test_loss_and_gradient_are_those_of_trl(
    loss_type: str, beta: float, num_iterations: int, masked: bool, corrected: bool
):
    torch = pytest.importorskip("torch")
    trainer = pytest.importorskip("trl").GRPOTrainer
    config = GrpoConfig(
        method="grpo", loss_type=loss_type, num_iterations=num_iterations, num_generations=3, batch_size=6,
        max_completion_length=LONGEST, epsilon=0.2, epsilon_high=0.28, mask_truncated_completions=masked,
    ).model_copy(update={"beta": beta})  # fmt: skip
    advantages = np.concatenate(advantages_of(REWARDS, "group"))
    wanted, gradient = trl_loss(torch, trainer, config, advantages, corrected)

    answers = []
    for i, length in enumerate(LENGTHS):
        old = OLD[i] if num_iterations > 1 else NOW[i]
        row = sampled_row(str(i), [1] * (PROMPT + length), PROMPT)
        rollout = Rollout(row, SAMPLED[i], 0.0, TRUNCATED[i], old=old, gap=old - SAMPLED[i])
        answers.append(Answer(rollout, float(advantages[i])))
    learnt = [one for one in answers if not (masked and one.rollout.truncated)]
    tokens = sum(one.rollout.row.trained_tokens for one in learnt)
    batch = rollout_batch(
        learnt,
        collated(None)([one.rollout.row for one in learnt]),
        weight=divisor(config, len(answers), tokens),
        by_answer=loss_type == "grpo",
        is_first=num_iterations == 1,
    )
    kept = [i for i in range(len(LENGTHS)) if not (masked and TRUNCATED[i])]
    reference = mx.array(np.concatenate([BASE[i] for i in kept])) if beta else None
    objective = GroupRelative(config.clip_range, beta, cap=3.0 if corrected else None)

    def ours(logprobs: mx.array) -> mx.array:
        return objective.of_logprobs(logprobs, batch, reference, logprobs).loss / objective.weight(batch)

    loss, found = mx.value_and_grad(ours)(mx.array(np.concatenate([NOW[i] for i in kept])))
    assert float(loss) == pytest.approx(wanted, rel=1e-5, abs=1e-6)
    flat = np.concatenate([gradient[i, : LENGTHS[i]] for i in kept])
    np.testing.assert_allclose(found, flat, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_advantages_divide_by_the_deviation_of_trl(scale: str):
    torch = pytest.importorskip("torch")
    nanstd = pytest.importorskip("trl.trainer.utils").nanstd
    rewards = torch.tensor(REWARDS)
    deviation = {
        "group": nanstd(rewards, dim=1)[:, None], "batch": nanstd(rewards), "none": torch.tensor(1 - 1e-4),
    }[scale]  # fmt: skip
    wanted = (rewards - rewards.mean(dim=1, keepdim=True)) / (deviation + 1e-4)
    np.testing.assert_allclose(advantages_of(REWARDS, scale), wanted.numpy(), rtol=1e-5)
