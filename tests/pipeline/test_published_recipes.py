"""The recipes with published settings, planned for the published shapes; nothing of them is trained here."""

import json
import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from smidgen.config import ArchitectureConfig, parse_recipe
from smidgen.models.graph import huggingface_config
from smidgen.pipeline import RunContext
from smidgen.pipeline.budgets import Budgets
from smidgen.pipeline.forecast import Forecast, forecast
from smidgen.runs import Run

RECIPES = Path(__file__).parents[2] / "recipes"
SHAPES = {
    140_248_512: {},
    359_431_168: {
        "hidden_size": 1024,
        "num_attention_heads": 16,
        "num_key_value_heads": 4,
        "intermediate_size": 4096,
    },
    949_685_760: {
        "hidden_size": 1536,
        "num_hidden_layers": 22,
        "num_attention_heads": 24,
        "num_key_value_heads": 6,
        "intermediate_size": 6144,
    },
}
"""Parameters of MobileLLM-R1's models, and what differs from the shape of the smallest."""
LLAMA_8B = {
    "model_type": "llama",
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "vocab_size": 128256,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500_000.0,
    "max_position_embeddings": 131_072,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}
QWEN_7B = {
    "model_type": "qwen2",
    "hidden_size": 3584,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "intermediate_size": 18944,
    "vocab_size": 152064,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "max_position_embeddings": 32768,
    "tie_word_embeddings": False,
    "quantization": {"group_size": 64, "bits": 4},
}

QWEN3_17B = {
    "model_type": "qwen3",
    "hidden_size": 2048,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "intermediate_size": 6144,
    "vocab_size": 151936,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "max_position_embeddings": 40960,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
}


@pytest.fixture
def described(tmp_path: Path, tiny_tokenizer_dir: Path) -> Callable[[dict[str, Any], str], str]:
    """A function that writes a model's folder without its weights, which a plan does not read."""

    def write(config: dict[str, Any], name: str) -> str:
        shutil.copytree(tiny_tokenizer_dir, tmp_path / name)
        (tmp_path / name / "config.json").write_text(json.dumps(config))
        return str(tmp_path / name)

    return write


def table_of(name: str) -> dict[str, Any]:
    return tomllib.loads((RECIPES / f"{name}.toml").read_text(encoding="utf-8"))


def planned(table: dict[str, Any], folder: Path) -> Forecast:
    context = RunContext(parse_recipe(table, source="test"), Run(folder / "run"))
    return forecast(Budgets(context), available=10**12, rate=1e6)


@pytest.mark.slow
@pytest.mark.parametrize("parameters", SHAPES)
def test_mobilellm_is_pretrained_and_taught(parameters: int, tmp_path: Path, described: Any):
    first = table_of("mobilellm-pretrain")
    shape = first["model"]["architecture"] | SHAPES[parameters]
    first["model"]["architecture"] = shape
    pretraining = planned(first, tmp_path)
    assert pretraining.parameters == pretraining.trained_parameters == parameters
    assert (pretraining.batch["rows"], pretraining.batch["length"]) == (16, 2048)
    assert pretraining.time is not None and pretraining.time.tokens == 2 * 500_000 * 128 * 16 * 2048

    second = table_of("mobilellm-midtrain")
    second["model"]["base"] = described(huggingface_config(ArchitectureConfig(**shape)), "base")
    second["train"]["teacher"]["model"] = described(LLAMA_8B, "teacher")
    taught = planned(second, tmp_path)
    assert taught.parameters == parameters and taught.batch["length"] == 4096
    assert taught.training["step"]["teacher"] > 2 * 8.0e9, "8 G weights of two bytes at least"
    assert taught.time is not None and taught.time.tokens == 2 * 50_000 * 128 * 4 * 4096


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mobilellm-sft", "mobilellm-reasoning"])
def test_mobilellm_is_fine_tuned(name: str, tmp_path: Path, described: Any):
    table = table_of(name)
    shape = huggingface_config(ArchitectureConfig(**table_of("mobilellm-pretrain")["model"]["architecture"]))
    table["model"]["base"] = described(shape | {"max_position_embeddings": 32_768}, "base")
    rows = [{"prompt": f"{number} beans", "completion": "a bean " * 50} for number in range(40)]
    file = tmp_path / "chats.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    for task in table.get("tasks", [table]):
        task["data"] |= {"train": str(file), "test": str(file)}
    plan = planned(table, tmp_path)
    assert plan.parameters == plan.trained_parameters == min(SHAPES)
    assert {"before", "train", "after"} <= {stage.name.partition("-")[0] for stage in plan.stages}


@pytest.mark.slow
def test_a_judge_of_seven_billion_parameters_is_trained_in_32_gb(tmp_path: Path, described: Any):
    table = table_of("judgelm-sft")
    table["model"]["base"] = described(QWEN_7B, "qwen")
    rows = [
        {
            "question_id": number,
            "question_body": f"{number} beans",
            "answer1_body": "x " * 400,
            "answer2_body": "y " * 300,
            "score": [8, 3],
            "score_w_reference": [9, 2],
            "reference": {"text": "r"},
        }
        for number in range(40)
    ]
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    table["data"] |= {"train": str(file), "test": str(file)}
    plan = planned(table, tmp_path)
    assert plan.parameters == 7_615_616_512 and plan.trained_parameters == 20_185_088
    assert plan.training["step"]["weights"] == pytest.approx(4.5 / 8 * plan.parameters, rel=0.15)
    assert sum(plan.training["step"].values()) < 0.8 * 32e9


@pytest.mark.slow
@pytest.mark.parametrize("name", ["j1-rft", "j1"])
def test_a_judge_of_self_proposed_principles_is_planned(name: str, tmp_path: Path, described: Any):
    table = table_of(name)
    folder = described(QWEN3_17B, "qwen3")
    rows = [
        {"prompt": f"{number} beans?", "a": "x " * 200, "b": "y " * 200, "better": "ab"[number % 2]}
        for number in range(40)
    ]
    file = tmp_path / "preferences.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    table["model"]["base"] = folder
    table["data"] |= {"train": str(file), "test": str(file)}
    table["train"]["lora"].pop("start", None)
    if "teacher" in table:
        table["teacher"]["model"] = folder
    plan = planned(table, tmp_path)
    assert plan.parameters == 1_720_574_976 and plan.trained_parameters == 17_432_576
    if name == "j1":
        assert plan.batch["rows"] == 8 and plan.batch["trained"] == 8 * 2048
        assert plan.time is not None and plan.time.tokens > 500 * 128 * 2048
