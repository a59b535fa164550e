"""The distillation loss by chunks: finite differences, its identities, and the same by MLX's operations."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smidgen.backend import mx
from smidgen.cpu_kernels import DistillationLoss, Mixing, TeacherStates, TopTargets, head, linear_losses
from smidgen.training import losses as by_mlx
from smidgen.training.losses import TrainedStates, distillation_losses, top_targets

MIXINGS = [Mixing(t, reverse, hard) for t in (1.0, 2.5) for reverse in (False, True) for hard in (0.0, 0.3)]


def case(
    tokens: int = 7, width: int = 6, words: int = 23, more: int = 0
) -> tuple[TrainedStates, mx.array, TeacherStates]:
    """Student states and head, and a teacher of another width with `more` padded words."""
    keys = mx.random.split(mx.random.key(tokens * 7919 + words), 5)
    targets = np.array(mx.random.randint(0, words, (tokens,), key=keys[2])).astype(np.int32)
    states = TrainedStates(mx.random.normal((tokens, width), key=keys[0]), targets)
    teacher = TeacherStates(
        mx.random.normal((tokens, width + 2), key=keys[3]),
        mx.random.normal((words + more, width + 2), key=keys[4]),
    )
    return states, mx.random.normal((words, width), key=keys[1]), teacher


def logs(logits: np.ndarray, temperature: float) -> np.ndarray:
    scaled = logits.astype(np.float64) / temperature
    return scaled - np.logaddexp.reduce(scaled, axis=1, keepdims=True)


def derived(logits: np.ndarray, loss: DistillationLoss) -> tuple[np.ndarray, np.ndarray]:
    """Values and derivatives of a loss for all tokens."""
    out = logits.astype(np.float32).copy()
    with np.errstate(all="ignore"):  # as in the team's threads
        values = np.stack(loss.derive(slice(0, len(out)), out))
    return values, out


@pytest.mark.parametrize("mixing", MIXINGS)
def test_it_is_the_formula(mixing: Mixing):
    states, weight, teacher = case(more=3)
    logits = np.array(states.hidden @ weight.T)
    values, _ = derived(logits, DistillationLoss(states.targets, teacher, mixing))
    theirs = np.array(teacher.hidden @ teacher.weight.T)[:, :23]
    p, q = logs(theirs, mixing.temperature), logs(logits, mixing.temperature)
    kl = (np.exp(q) * (q - p) if mixing.reverse else np.exp(p) * (p - q)).sum(axis=1)
    hard = -logs(logits, 1.0)[np.arange(7), states.targets]
    mixed = mixing.hard_weight * hard + (1 - mixing.hard_weight) * mixing.temperature**2 * kl
    np.testing.assert_allclose(values, [mixed, hard, kl], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mixing", MIXINGS)
@pytest.mark.parametrize("count", [None, 3, 23])
def test_derivatives_are_finite_differences(mixing: Mixing, count: int | None):
    states, weight, teacher = case()
    soft = teacher if count is None else top_targets(teacher, count, mixing.temperature)
    loss = DistillationLoss(states.targets, soft, mixing)
    logits = np.array(states.hidden @ weight.T)
    _, found = derived(logits, loss)
    for word in range(0, 23, 4):
        step = np.zeros_like(logits)
        step[:, word] = 0.02
        up, down = (derived(logits + sign * step, loss)[0][0] for sign in (1, -1))
        np.testing.assert_allclose(found[:, word], (up - down) / 0.04, atol=2e-3)


@pytest.mark.parametrize("mixing", MIXINGS)
def test_all_tokens_are_the_whole_distribution_and_fewer_are_a_lower_bound(mixing: Mixing):
    states, weight, teacher = case()
    logits = np.array(states.hidden @ weight.T)
    values, derivatives = derived(logits, DistillationLoss(states.targets, teacher, mixing))
    before = np.zeros(7)
    for count in (1, 2, 5, 11, 22, 23):
        top = top_targets(teacher, count, mixing.temperature)
        left_out = np.exp(top.logprobs.astype(np.float64)).sum(axis=1) + np.exp(top.rest.astype(np.float64))
        np.testing.assert_allclose(left_out, 1, atol=1e-6)
        found, of_top = derived(logits, DistillationLoss(states.targets, top, mixing))
        assert (found[2] >= before - 1e-5).all() and (found[2] <= values[2] + 1e-5).all()
        before = found[2]
    np.testing.assert_allclose(found, values, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(of_top, derivatives, rtol=1e-5, atol=1e-5)
    assert np.isneginf(top.rest).all()


@pytest.mark.parametrize("reverse", [False, True])
def test_equal_models_have_no_divergence_and_no_gradient(reverse: bool):
    states, weight, _ = case()
    teacher = TeacherStates(states.hidden, weight)
    mixing = Mixing(2.0, reverse, hard_weight=0.0)
    for soft in (teacher, top_targets(teacher, 4, 2.0)):
        values, derivatives = derived(
            np.array(states.hidden @ weight.T), DistillationLoss(states.targets, soft, mixing)
        )
        np.testing.assert_allclose(values[[0, 2]], 0, atol=1e-5)
        np.testing.assert_allclose(derivatives, 0, atol=1e-5)


def test_the_hard_loss_alone_is_cross_entropy():
    states, weight, teacher = case()
    values, _ = derived(
        np.array(states.hidden @ weight.T), DistillationLoss(states.targets, teacher, Mixing(hard_weight=1.0))
    )
    np.testing.assert_allclose(
        values[0], by_mlx.token_losses(states.hidden, weight, mx.array(states.targets)), atol=1e-5
    )


@given(
    st.integers(1, 40),
    st.integers(2, 60),
    st.integers(0, 5),
    st.sampled_from([0, 1 << 20]),
    st.integers(1, 300),
    st.sampled_from(MIXINGS),
    st.integers(0, 60),
)
def test_chunks_and_mlx_operations_agree(
    tokens: int, words: int, more: int, kept: int, room: int, mixing: Mixing, count: int
):
    states, weight, teacher = case(tokens, 5, words, more)
    count, soft = min(count, words), teacher
    shares = mx.linspace(0.5, 2, tokens)
    if count:
        soft = top_targets(TeacherStates(teacher.hidden, teacher.weight[:words]), count, mixing.temperature)

    def value_and_gradients() -> tuple:
        def total(hidden: mx.array, weight: mx.array) -> mx.array:
            return (
                distillation_losses(TrainedStates(hidden, states.targets), weight, soft, mixing)[0] * shares
            ).sum()

        values = distillation_losses(states, weight, soft, mixing)
        return values, *mx.grad(total, argnums=(0, 1))(states.hidden, weight)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(head, "LOGITS", room)
        patch.setattr(head, "KEPT", kept)
        ours = value_and_gradients()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(by_mlx.cpu_kernels, "usable", lambda *arrays: False)
        patch.setattr(by_mlx, "HEAD_CHUNK", 7)
        expected = value_and_gradients()
    for found, wanted in zip(ours, expected, strict=True):
        assert found.shape == wanted.shape
        np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=2e-4)


def test_top_targets_are_the_same_by_mlx_operations(monkeypatch: pytest.MonkeyPatch):
    _, _, teacher = case(9, 6, 40)
    ours = top_targets(teacher, 5, 1.5)
    monkeypatch.setattr(by_mlx.cpu_kernels, "usable", lambda *arrays: False)
    monkeypatch.setattr(by_mlx, "HEAD_CHUNK", 4)
    theirs = top_targets(teacher, 5, 1.5)
    for found, wanted in zip(*(map(by_id, (ours, theirs))), strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-5)


def by_id(targets: TopTargets) -> TopTargets:
    order = np.argsort(targets.ids, axis=1)
    ids, logprobs = (np.take_along_axis(array, order, axis=1) for array in targets[:2])
    return TopTargets(ids, logprobs, targets.rest)


def test_a_sure_teacher_and_an_improbable_rest_stay_finite():
    states, weight, teacher = case()
    sure = TeacherStates(100 * teacher.hidden, teacher.weight)
    for mixing in MIXINGS:
        for soft in (sure, top_targets(sure, 2, mixing.temperature)):
            loss = DistillationLoss(states.targets, soft, mixing)
            values = linear_losses(50 * states.hidden, weight, loss)
            gradient = mx.grad(lambda h, loss=loss: linear_losses(h, weight, loss)[0].sum())(
                50 * states.hidden
            )
            assert mx.isfinite(values).all() and mx.isfinite(gradient).all()
