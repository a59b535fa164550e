"""What methods share: loading for training, and a teacher of the same vocabulary."""

import json
import shutil
from pathlib import Path

import pytest

from smidgen.config import TeacherConfig, TopTeacherConfig
from smidgen.data.templates import load_tokenizer
from smidgen.errors import ConfigError
from smidgen.pipeline.training_job import load_for_training, load_teacher


def test_a_teacher_needs_the_same_vocabulary(tiny_model_dir: Path, tmp_path: Path):
    tokenizer = load_tokenizer(tiny_model_dir)
    teacher = load_teacher(TopTeacherConfig(model=str(tiny_model_dir), top_k=10**6), tokenizer, 64)
    assert teacher.top_k == tokenizer.vocab_size and not teacher.model.trainable_parameters().get("lm_head")
    assert load_teacher(TeacherConfig(model=str(tiny_model_dir)), tokenizer, 64).top_k is None
    with pytest.raises(
        ConfigError, match=r"the teacher smidgen:nano has \d+ tokens and the model to train \d+, and '"
    ):
        load_teacher(TeacherConfig(model="smidgen:nano"), tokenizer, 64)
    shutil.copytree(tiny_model_dir, tmp_path / "other")
    file = tmp_path / "other" / "tokenizer.json"
    content = json.loads(file.read_text())
    vocabulary = content["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    file.write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=r"and '[ab]' is \d+ there and \d+ here; logit distillation needs"):
        load_teacher(TeacherConfig(model=str(tmp_path / "other")), tokenizer, 64)


def test_rows_longer_than_the_context_are_refused(tiny_model_dir: Path):
    with pytest.raises(ConfigError, match=r"train.max_length is 513, but the context of .* has 512 tokens"):
        load_for_training(str(tiny_model_dir), 513)
