"""The same steps in PyTorch: transformers' model, its cross-entropy and torch's AdamW, one row at a time."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from smidgen.config import SftConfig
from smidgen.models.load import load
from smidgen.models.save import save_model
from smidgen.training.batches import RowBatches, TrainRow
from smidgen.training.loop import train
from smidgen.training.objectives.likelihood import Likelihood

pytestmark = [
    pytest.mark.oracle,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


def test_training_is_that_of_torch(
    tiny_model_dir: Path, tmp_path: Path, make_rows: Callable[..., list[TrainRow]]
):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    loaded = load(str(tiny_model_dir))
    rows = make_rows(24)
    config = SftConfig(
        batch_size=4, gradient_accumulation=2, epochs=3, learning_rate=3e-3, weight_decay=0.1, warmup=0.3
    )
    arguments = {"batch_size": 4, "gradient_accumulation": 2, "epochs": 3}
    steps = RowBatches(rows, **arguments)
    ours = list(train(loaded.model, Likelihood(), RowBatches(rows, **arguments), config))
    save_model(tmp_path / "end", loaded.model, loaded.config, tiny_model_dir)

    model = transformers.AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32)
    groups = [
        {"params": [p for p in model.parameters() if p.ndim >= 2], "weight_decay": 0.1},
        {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, betas=config.betas, eps=config.eps)
    for result in ours:
        batches = steps.next_step()
        total = sum(batch.trained_tokens for batch in batches)
        loss = 0.0
        optimizer.zero_grad()
        for batch in batches:
            labels = np.full(batch.inputs.size, -100)
            learnt = batch.positions[: batch.trained_tokens]
            labels[learnt] = batch.targets[: batch.trained_tokens]
            logits = model(input_ids=torch.tensor(batch.inputs)).logits.reshape(labels.size, -1)
            part = torch.nn.functional.cross_entropy(logits, torch.tensor(labels), reduction="sum") / total
            part.backward()
            loss += part.item()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), config.gradient_clip)
        for group in optimizer.param_groups:
            group["lr"] = result.learning_rate
        optimizer.step()
        assert result.loss == pytest.approx(loss, rel=2e-4)
        assert result.grad_norm == pytest.approx(norm.item(), rel=2e-3)

    end = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "end", dtype=torch.float32)
    wanted = model.state_dict()
    for name, value in end.state_dict().items():
        np.testing.assert_allclose(value.numpy(), wanted[name].numpy(), atol=1e-3, err_msg=name)
