"""Killed at twenty random moments and resumed, a training ends as if nothing had happened."""

from pathlib import Path

import pytest
from tests.tools.kill import kill_and_compare

SFT = """
name = "sft"
task = "judge"
[model]
base = "{base}"
[data]
train_limit = 20
validation_limit = 4
test_limit = 4
[train]
epochs = 4.0
batch_size = 4
max_length = 512
learning_rate = 1e-3
validate_every = 4
checkpoint_every = 5
[train.lora]
rank = 4
dropout = 0.05
num_layers = 1
"""
PRETRAIN = """
name = "pretrain"
[model.architecture]
hidden_size = 32
num_hidden_layers = 1
num_attention_heads = 2
num_key_value_heads = 1
head_dim = 16
intermediate_size = 32
vocab_size = 400
[data]
validation_limit = 2
[train]
method = "pretrain"
total_tokens = 4_000
batch_size = 2
max_length = 64
validate_every = 10
checkpoint_every = 7
"""
GRPO = """
name = "grpo"
task = "answers"
[model]
base = "{base}"
[data]
train_limit = 20
validation_limit = 4
test_limit = 4
[train]
method = "grpo"
steps = 24
batch_size = 8
num_generations = 4
num_iterations = 2
max_length = 256
max_completion_length = 12
learning_rate = 1e-3
metric_every = 6
checkpoint_every = 5
[[train.rewards]]
name = "{folder}/own.py:letters"
[train.lora]
rank = 4
"""
OWN = """
def letters(sample, completion):
    return len(set(completion.text)) / 10
"""


@pytest.mark.long
@pytest.mark.parametrize("recipe", [SFT, PRETRAIN, GRPO], ids=["sft", "pretrain", "grpo"])
def test_killed_at_random_moments_a_training_ends_the_same(recipe: str, tiny_model_dir: Path, tmp_path: Path):
    path = tmp_path / "recipe.toml"
    (tmp_path / "own.py").write_text(OWN)
    path.write_text(recipe.format(base=tiny_model_dir, folder=tmp_path))
    report = kill_and_compare(path, tmp_path, times=20)
    assert report.differences == []
    assert len(report.kills) == 20 and report.runs >= 1
    assert any(0 < step < report.steps for step in report.kills)  # some came in the midst of training
