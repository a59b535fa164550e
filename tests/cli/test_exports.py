"""The artefacts of a run are evaluated as what they are, however large the model is."""

import json
from pathlib import Path
from typing import Any

import pytest
from smidgen.cli.exports import artefacts

from smidgen import config
from smidgen.cli import reporting, stages
from smidgen.runs import Run


def test_an_artefact_is_opened_by_the_engine_that_reads_its_format(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    recipe = config.Recipe.model_validate(
        {
            "name": "large", "task": "judge", "model": {"base": "owner/large"},
            "data": {"train": "world", "test": "world"}, "train": {"method": "sft", "lora": {}},
            "quantize": {"bits": 4}, "export": {"formats": ("peft", "fused", "gguf")},
        }
    )  # fmt: skip
    opened: dict[str, Any] = {}

    def evaluate(_: stages.Life, name: str, *, engine: str = "auto", **__: Any) -> None:
        opened[name] = engine

    monkeypatch.setattr(stages, "_evaluate", evaluate)
    life = stages.Life(recipe, Run(tmp_path))
    stages.quantized(life)
    for artefact in artefacts(recipe):
        stages.exported(life, artefact)
    assert opened == {
        "quantized": "mlx", "mlx-4bit": "mlx", "peft": "mlx", "fused": "mlx", "gguf-q8_0": "llama"
    }  # fmt: skip


def test_the_drift_of_an_artefact_comes_into_the_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    recipe = config.Recipe.model_validate(
        {
            "name": "small", "task": "judge", "model": {"base": "smidgen:nano"},
            "data": {"train": "world", "test": "world"}, "train": {"method": "sft"},
            "export": {"formats": ("fused",)},
        }
    )  # fmt: skip
    life = stages.Life(recipe, Run(tmp_path))
    (tmp_path / "data").mkdir()
    (tmp_path / "data/validation.jsonl").write_text(json.dumps({"prompt": "Which is better?"}) + "\n")
    monkeypatch.setattr(stages.Life, "trained", lambda _: {"model": "smidgen:nano", "adapter": None})
    (artefact,) = artefacts(recipe)
    stages.make(life, artefact)
    empty: dict[str, Any] = {"metrics": {}, "speed": {}, "difference": None, "p_value": None}
    monkeypatch.setattr(stages, "evaluation", lambda *_: empty)
    monkeypatch.setattr(stages, "comparison", lambda *_: empty)
    drift = reporting._export(life, artefact)["drift"]
    assert (drift["asked"], drift["prompts"]) == ("prompts that the run validated on", 1)
    assert drift["mean_kl"] < 1e-6 and drift["same_top"] == 1.0
