"""The artefacts of a run are evaluated as what they are, however large the model is."""

from pathlib import Path
from typing import Any

import pytest

from smidgen import config
from smidgen.cli import stages
from smidgen.cli.exports import artefacts
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
