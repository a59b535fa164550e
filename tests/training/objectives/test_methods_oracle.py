"""Distillation and preferences in PyTorch: its autograd, and TRL's own losses where TRL is installed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from smidgen.backend import mx, nn
from smidgen.config import LoraConfig
from smidgen.cpu_kernels import Mixing, TeacherStates
from smidgen.export.peft_adapter import export_peft
from smidgen.models.graph import named_arrays
from smidgen.models.load import load
from smidgen.models.lora import add_lora, save_adapter, without_adapter
from smidgen.training.batches import TrainRow, collated
from smidgen.training.losses import TrainedStates, distillation_losses, top_targets
from smidgen.training.objectives.preference import DirectPreference, PreferencePair, Reference, pair_batch

pytestmark = [
    pytest.mark.oracle,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]
RANKED = LoraConfig(rank=4, rslora=True)


def states() -> tuple[TrainedStates, mx.array, TeacherStates]:
    keys = mx.random.split(mx.random.key(3), 4)
    normal = [
        mx.random.normal(shape, key=key)
        for shape, key in zip(((9, 6), (31, 6), (9, 8), (31, 8)), keys, strict=True)
    ]
    return (
        TrainedStates(normal[0], np.arange(9, dtype=np.int32)),
        normal[1],
        TeacherStates(normal[2], normal[3]),
    )


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("count", [None, 4])
def test_distillation_is_that_of_torch(reverse: bool, count: int | None):
    torch = pytest.importorskip("torch")
    student, weight, teacher = states()
    mixing = Mixing(2.0, reverse, 0.3)
    soft = teacher if count is None else top_targets(teacher, count, 2.0)

    def ours(hidden: mx.array, weight: mx.array) -> mx.array:
        return distillation_losses(TrainedStates(hidden, student.targets), weight, soft, mixing)[0].sum()

    loss, gradients = mx.value_and_grad(ours, argnums=(0, 1))(student.hidden, weight)
    hidden, head = (torch.tensor(np.array(array), requires_grad=True) for array in (student.hidden, weight))
    logits = hidden @ head.T
    theirs = torch.tensor(np.array(teacher.hidden @ teacher.weight.T))
    q, p = (torch.log_softmax(array / 2.0, dim=-1) for array in (logits, theirs))
    if count is not None:  # one outcome for all other tokens
        top = p.topk(count).indices
        others = torch.ones_like(p, dtype=torch.bool).scatter(1, top, False)
        q, p = (
            torch.cat([x.gather(1, top), x.masked_fill(~others, -torch.inf).logsumexp(1, keepdim=True)], 1)
            for x in (q, p)
        )
    first, second = (p, q) if reverse else (q, p)
    divergence = torch.nn.functional.kl_div(first, second, log_target=True, reduction="sum")
    hard = torch.nn.functional.cross_entropy(logits, torch.arange(9), reduction="sum")
    wanted = 0.3 * hard + 0.7 * 4 * divergence
    wanted.backward()
    assert float(loss) == pytest.approx(wanted.item(), rel=1e-5)
    for found, expected in zip(gradients, (hidden.grad, head.grad), strict=True):
        np.testing.assert_allclose(found, expected.numpy(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("reverse", [False, True])
def test_the_divergence_is_that_of_trl(reverse: bool):
    torch = pytest.importorskip("torch")
    gkd = pytest.importorskip("trl.experimental.gkd")
    student, weight, teacher = states()
    found = distillation_losses(student, weight, teacher, Mixing(1.5, reverse))[2].sum()
    logits = [
        torch.tensor(np.array(hidden @ head.T))[None]
        for hidden, head in ((student.hidden, weight), (teacher.hidden, teacher.weight))
    ]
    wanted = gkd.GKDTrainer.generalized_jsd_loss(
        *logits, beta=float(reverse), temperature=1.5, reduction="sum"
    )
    assert float(found) == pytest.approx(wanted.item(), rel=1e-5)


@pytest.fixture
def pairs(make_rows: Callable[..., list[TrainRow]]) -> list[PreferencePair]:
    found = []
    for chosen, rejected in zip(make_rows(5, seed=1), make_rows(5, seed=2), strict=True):
        half = len(chosen) // 2
        ids = np.concatenate([chosen.token_ids[:half], rejected.token_ids[len(rejected) // 2 :]])
        found.append(PreferencePair(chosen, TrainRow(ids, np.arange(len(ids)) >= half)))
    return found


def policy(folder: Path) -> nn.Module:
    """A model with an adapter that does something."""
    model = load(str(folder)).model
    add_lora(model, RANKED, 0)
    for number, (name, value) in enumerate(named_arrays(model.trainable_parameters()).items()):
        model.load_weights(
            [(name, 0.1 * mx.random.normal(value.shape, key=mx.random.key(number)))], strict=False
        )
    return model


SETTINGS = [
    {"beta": 0.1},
    {"beta": 0.4, "label_smoothing": 0.2},
    {"beta": 0.3, "kind": "ipo"},
]


@pytest.mark.parametrize("settings", SETTINGS)
def test_preferences_are_those_of_torch_and_trl(
    tiny_model_dir: Path, tmp_path: Path, pairs: list[PreferencePair], settings: dict[str, Any]
):
    torch = pytest.importorskip("torch")
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    model = policy(tiny_model_dir)
    save_adapter(tmp_path / "ours", model, RANKED)
    export_peft(tmp_path / "ours", str(tiny_model_dir), tmp_path / "peft")
    batch = pair_batch(pairs, collated(None))
    objective = DirectPreference(Reference(without_adapter(model)), **settings)
    (loss, metrics), gradients = nn.value_and_grad(model, lambda batch: objective.loss(model, batch))(batch)
    found = {name: np.array(value) / len(pairs) for name, value in named_arrays(gradients).items()}

    base = transformers.AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32)
    adapted = peft.PeftModel.from_pretrained(base, tmp_path / "peft", is_trainable=True)
    ratios = []
    for row in (row for pair in pairs for row in (pair.chosen, pair.rejected)):
        with adapted.disable_adapter(), torch.no_grad():
            reference = logprob(torch, adapted, row)
        ratios.append(logprob(torch, adapted, row) - reference)
    chosen, rejected = torch.stack(ratios[::2]), torch.stack(ratios[1::2])
    beta, smoothing = settings["beta"], settings.get("label_smoothing", 0.0)
    margins = beta * (chosen - rejected)
    assert float(metrics["margin"]) / len(pairs) == pytest.approx(margins.mean().item(), rel=1e-3)
    log_sigmoid = torch.nn.functional.logsigmoid
    each = -(1 - smoothing) * log_sigmoid(margins) - smoothing * log_sigmoid(-margins)
    if settings.get("kind") == "ipo":
        sizes = [
            torch.tensor([float(getattr(pair, side).trained_tokens) for pair in pairs])
            for side in ("chosen", "rejected")
        ]
        each = (chosen / sizes[0] - rejected / sizes[1] - 1 / (2 * beta)) ** 2
    each.mean().backward()
    assert float(loss) / len(pairs) == pytest.approx(each.mean().item(), rel=1e-4)
    same_gradients(found, adapted)
    against_trl(tiny_model_dir, tmp_path / "peft", pairs, settings, float(loss) / len(pairs), found)


def logprob(torch: Any, model: Any, row: TrainRow) -> Any:
    ids = torch.tensor(row.token_ids)[None].long()
    logs = torch.log_softmax(model(input_ids=ids).logits[0, :-1], dim=-1).gather(1, ids[0, 1:, None])[:, 0]
    return logs[torch.tensor(row.loss_mask[1:])].sum()


def same_gradients(found: dict[str, np.ndarray], adapted: Any) -> None:
    theirs = {
        name.removeprefix("base_model.model.").replace(".default.weight", "").lower(): value.grad.numpy().T
        for name, value in adapted.named_parameters()
        if value.requires_grad
    }
    assert theirs.keys() == found.keys()
    largest = max(np.abs(value).max() for value in theirs.values())
    for name, value in theirs.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-3, atol=1e-4 * largest, err_msg=name)


def against_trl(
    folder: Path,
    adapter: Path,
    pairs: list[PreferencePair],
    settings: dict[str, Any],
    loss: float,
    found: dict,
) -> None:
    """The same by TRL's trainer, if it is installed; it has no DPO with smoothed labels."""
    try:
        from datasets import Dataset
        from trl import DPOConfig, DPOTrainer
    except ImportError:
        return
    if "label_smoothing" in settings:
        return
    import peft
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    config = peft.PeftConfig.from_pretrained(adapter)
    config.inference_mode = False
    trainer = DPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(folder, dtype="float32"),
        args=DPOConfig(
            str(adapter.parent / "trl"), beta=settings["beta"], loss_type=[settings.get("kind", "sigmoid")],
            use_cpu=True, report_to=[], bf16=False, gradient_checkpointing=False,
        ),
        train_dataset=Dataset.from_list([{"prompt": "a", "chosen": "b", "rejected": "c"}] * 2),
        processing_class=AutoTokenizer.from_pretrained(folder),
        peft_config=config,
    )  # fmt: skip
    peft.set_peft_model_state_dict(trainer.model, load_file(adapter / "adapter_model.safetensors"))
    examples = []
    for pair in pairs:
        half = int((~pair.chosen.loss_mask).sum())
        ids = pair.chosen.token_ids.tolist(), pair.rejected.token_ids.tolist()
        examples.append(
            {"prompt_ids": ids[0][:half], "chosen_ids": ids[0][half:], "rejected_ids": ids[1][half:]}
        )
    theirs = trainer.compute_loss(trainer.model, trainer.data_collator(examples))
    assert theirs.item() == pytest.approx(loss, rel=1e-4)
    theirs.backward()
    same_gradients(found, trainer.model)
