"""Identities of the loss: REINFORCE at the first step, clipping, the divergence, and how batches are made."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from smidgen.backend import mx, nn
from smidgen.config import LoraConfig
from smidgen.models.graph import named_arrays
from smidgen.models.lora import add_lora, without_adapter
from smidgen.training.batches import TrainBatch, TrainRow, pad
from smidgen.training.objectives.group_relative import GroupRelative, answer_token_logprobs
from smidgen.training.rollout_batches import Answer, RolloutBatch, rollout_batch
from smidgen.training.rollouts import Rollout
from smidgen.training.shared_prefix import prompt_tokens, share_prefixes

LORA = LoraConfig(rank=4)


@pytest.fixture
def policy(tiny: nn.Module) -> nn.Module:
    """A model with an adapter that does something."""
    add_lora(tiny, LORA, 0)
    for number, (name, value) in enumerate(named_arrays(tiny.trainable_parameters()).items()):
        noise = 0.3 * mx.random.normal(value.shape, key=mx.random.key(number))
        tiny.load_weights([(name, noise)], strict=False)
    tiny.eval()
    return tiny


def answers_of(rows: list[TrainRow], model: nn.Module, *, off: float = 0.0) -> list[Answer]:
    """Answers with an advantage each, sampled by the model, or by one that differs by noise of size `off`."""
    rng, found = np.random.default_rng(0), []
    for row in rows:
        now = np.array(answer_token_logprobs(model, pad([row])))
        old = (now + off * rng.normal(size=now.shape)).astype(np.float32)
        rollout = Rollout(row, old, 0.0, truncated=False, old=old, gap=np.zeros_like(old))
        found.append(Answer(rollout, float(rng.normal())))
    return found


def batch_of(
    answers: list[Answer], collate: Callable[..., TrainBatch] = pad, **settings: Any
) -> RolloutBatch:
    settings = {"weight": 1.0, "by_answer": False, "is_first": False, **settings}
    return rollout_batch(answers, collate([one.rollout.row for one in answers]), **settings)


def gradient(model: nn.Module, objective: GroupRelative, *batches: RolloutBatch) -> dict[str, np.ndarray]:
    """The gradient of the sum over the batches, by name."""

    def loss(*given: RolloutBatch) -> mx.array:
        return sum((objective.loss(model, batch).loss for batch in given), mx.array(0.0))

    _, found = nn.value_and_grad(model, loss)(*batches)
    return {name: np.array(value) for name, value in named_arrays(found).items()}


def assert_close(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-3, atol=1e-5 * (1 + abs(value).max()))


def test_the_first_step_is_reinforce_with_the_group_as_baseline(
    policy: nn.Module, make_rows: Callable[..., list[TrainRow]]
):
    answers = answers_of(make_rows(5), policy)
    batch = batch_of(answers, is_first=True)

    def reinforce(model: nn.Module) -> mx.array:
        return -(answer_token_logprobs(model, batch.answers) * mx.array(batch.advantages)).sum()

    _, wanted = nn.value_and_grad(policy, reinforce)(policy)
    found = gradient(policy, GroupRelative(), batch)
    assert_close(found, {name: np.array(value) for name, value in named_arrays(wanted).items()})
    assert any(abs(value).max() > 1e-3 for value in found.values())


def with_shared_prompts(rows: list[TrainRow]) -> list[TrainRow]:
    """Rows whose first and third, and second and fourth, have the same prompt."""
    ids = [row.token_ids.copy() for row in rows]
    sizes = [prompt_tokens(row) for row in rows]
    for to, source in ((2, 0), (3, 1)):
        ids[to] = np.concatenate([ids[source][: sizes[source]], ids[to][sizes[to] :]])
        sizes[to] = sizes[source]
    return [TrainRow(one, np.arange(len(one)) >= size) for one, size in zip(ids, sizes, strict=True)]


@pytest.mark.parametrize("by_answer", [False, True])
def test_sharing_prompts_and_splitting_change_nothing(
    policy: nn.Module, make_rows: Callable[..., list[TrainRow]], by_answer: bool
):
    answers = answers_of(with_shared_prompts(make_rows(6)), policy, off=0.1)
    objective = GroupRelative(beta=0.2, reference=without_adapter(policy))
    whole = gradient(policy, objective, batch_of(answers, by_answer=by_answer))
    sharing = batch_of(answers, share_prefixes, by_answer=by_answer)
    assert len(sharing.inputs) == 4, "six answers to four prompts"
    shared = gradient(policy, objective, sharing)
    split = [batch_of(part, by_answer=by_answer) for part in (answers[:2], answers[2:])]
    assert_close(shared, whole)
    assert_close(gradient(policy, objective, *split), whole)


def test_a_clipped_token_has_no_gradient(policy: nn.Module, make_rows: Callable[..., list[TrainRow]]):
    (row,) = make_rows(1, shortest=30)
    now = np.array(answer_token_logprobs(policy, pad([row])))
    for shift, advantage, learns in (
        (-1.0, 1.0, False),
        (1.0, -1.0, False),
        (1.0, 1.0, True),
        (-1.0, -1.0, True),
    ):
        old = now + shift * np.float32(1.0)  # a ratio of e^-shift
        rollout = Rollout(row, old, 0.0, truncated=False, old=old, gap=np.zeros_like(old))
        batch = batch_of([Answer(rollout, advantage)])
        found = gradient(policy, GroupRelative(), batch)
        assert any(value.any() for value in found.values()) == learns
        share = GroupRelative().loss(policy, batch).metrics["clip_ratio"]
        assert float(share.total) / share.weight == float(not learns)


def test_equal_policies_have_no_divergence(tiny: nn.Module, make_rows: Callable[..., list[TrainRow]]):
    add_lora(tiny, LORA, 0)
    tiny.eval()
    batch = batch_of(answers_of(make_rows(3), tiny), is_first=True)
    objective = GroupRelative(beta=1.0, reference=without_adapter(tiny))
    kl = objective.loss(tiny, batch).metrics["kl"]
    assert float(kl.total) == pytest.approx(0.0, abs=1e-5)
    assert_close(gradient(tiny, objective, batch), gradient(tiny, GroupRelative(), batch))


def test_the_divergence_holds_the_policy_to_the_base(
    policy: nn.Module, make_rows: Callable[..., list[TrainRow]]
):
    batch = batch_of([one._replace(advantage=0.0) for one in answers_of(make_rows(3), policy)])
    objective = GroupRelative(beta=1.0, reference=without_adapter(policy))
    before = float(objective.loss(policy, batch).loss)
    assert before > 0.1
    for name, step in gradient(policy, objective, batch).items():
        value = named_arrays(policy.trainable_parameters())[name]
        policy.load_weights([(name, value - 1e-4 * mx.array(step))], strict=False)
    assert float(objective.loss(policy, batch).loss) < before


def test_a_difference_to_the_sampling_is_measured_and_corrected_up_to_a_cap(
    policy: nn.Module, make_rows: Callable[..., list[TrainRow]]
):
    (answer,) = answers_of(make_rows(1, shortest=20), policy)
    now = answer.rollout.logprobs
    sampled = now - np.linspace(0, 4, len(now)).astype(np.float32)
    shifted = answer._replace(
        rollout=Rollout(answer.rollout.row, sampled, 0.0, truncated=False), advantage=1.0
    )
    batch = batch_of([shifted], is_first=True)
    losses = GroupRelative(cap=3.0).loss(policy, batch)
    gap = losses.metrics["engine_gap"]
    assert float(gap.total) / gap.weight == pytest.approx(2.0, rel=1e-3)
    wanted = np.minimum(np.exp(np.linspace(0, 4, len(now))), 3.0).sum()
    assert float(losses.loss) == pytest.approx(-wanted, rel=1e-3)
    assert float(GroupRelative(cap=None).loss(policy, batch).loss) == pytest.approx(-len(now), rel=1e-5)


def test_probabilities_are_those_at_the_temperature(
    policy: nn.Module, make_rows: Callable[..., list[TrainRow]]
):
    (row,) = make_rows(1, shortest=20)
    batch = pad([row])
    logits = policy(mx.array(batch.inputs)) / 0.5
    logs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
    places = np.flatnonzero(row.loss_mask[1:])
    wanted = np.array(logs)[0, places, row.token_ids[1:][places]]
    np.testing.assert_allclose(answer_token_logprobs(policy, batch, 0.5), wanted, rtol=1e-4, atol=1e-4)


def test_the_rows_of_a_batch_can_be_run_alone(policy: nn.Module, make_rows: Callable[..., list[TrainRow]]):
    batch = batch_of(answers_of(make_rows(4), policy, off=0.1), share_prefixes)
    objective = GroupRelative()
    alone = sum(float(objective.loss(policy, one).loss) for _, one in batch.singly())
    assert alone == pytest.approx(float(objective.loss(policy, batch).loss), rel=1e-4)


def test_at_another_temperature_the_gap_is_still_that_of_the_plain_probabilities(
    policy: nn.Module, make_rows: Callable[..., list[TrainRow]]
):
    rows = make_rows(3, shortest=10)
    answers = [
        one._replace(rollout=Rollout(one.rollout.row, one.rollout.logprobs, 0.0, truncated=False))
        for one in answers_of(rows, policy)
    ]
    gap = GroupRelative(temperature=0.6).loss(policy, batch_of(answers, is_first=True)).metrics["engine_gap"]
    assert float(gap.total) / gap.weight < 1e-5


def test_rows_of_shared_prompts_are_not_longer_than_masks_allow(
    monkeypatch: pytest.MonkeyPatch, make_rows: Callable[..., list[TrainRow]]
):
    rows = [make_rows(1, seed=3, shortest=20)[0]] * 5
    tokens = len(rows[0]) - prompt_tokens(rows[0])
    monkeypatch.setattr("smidgen.training.shared_prefix.LONGEST_ROW", prompt_tokens(rows[0]) - 1 + 2 * tokens)
    batch = share_prefixes(rows)
    assert len(batch.inputs) == 3 and len(batch.rows) == 5
    assert batch.tokens == 3 * (prompt_tokens(rows[0]) - 1) + 5 * tokens
