import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from smidgen.backend import mx, nn
from smidgen.models import check as check_module
from smidgen.models.check import check_model, statistics_of
from smidgen.models.load import load, read_config
from smidgen.models.quantization import quantize
from smidgen.models.save import save_model


@pytest.fixture
def changed(tiny_model_dir: Path, tmp_path: Path) -> Callable[..., Path]:
    """A function that copies the tiny model with tensors and keys of its config replaced; None leaves out."""

    def write(tensors: dict[str, np.ndarray | None] | None = None, **config) -> Path:
        folder = tmp_path / "changed"
        shutil.copytree(tiny_model_dir, folder)
        weights = load_file(folder / "model.safetensors") | (tensors or {})
        kept = {name: value for name, value in weights.items() if value is not None}
        save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
        (folder / "config.json").write_text(json.dumps(read_config(folder) | config))
        return folder

    return write


def check(folder: Path):
    return check_model(folder, read_config(folder))


def test_a_whole_model_has_no_faults_and_every_tensor_is_told(tiny_model_dir: Path):
    found, weights = check(tiny_model_dir), load_file(tiny_model_dir / "model.safetensors")
    assert (found.mlp, found.tied_head, found.ignored) == ("swiglu", True, [])
    assert found.faults == found.notes == []
    assert {"eos_token_id", "architectures"} <= set(found.ignored_keys)
    assert {tensor.name: tensor.shape for tensor in found.tensors} == {n: v.shape for n, v in weights.items()}
    for tensor in found.tensors:
        value, said = weights[tensor.name].astype(np.float64), tensor.statistics
        assert (said.minimum, said.maximum) == (value.min(), value.max())
        assert said.mean == pytest.approx(value.mean(), abs=1e-9)
        assert said.deviation == pytest.approx(value.std())
        assert tensor.is_read and tensor.dtype == "float32"


def test_a_config_that_says_no_dtype_is_not_held_against_the_file(changed: Callable[..., Path]):
    assert check(changed(dtype=None)).notes == []


def test_ids_beyond_the_vocabulary_are_faults(changed: Callable[..., Path]):
    folder = changed(bos_token_id=99_999, pad_token_id=-1)
    (folder / "generation_config.json").write_text('{"eos_token_id": [2, 151645]}')
    assert check(folder).faults == [
        "bos_token_id in config.json is 99999, which is not in the vocabulary",
        "eos_token_id in generation_config.json is 151645, which is not in the vocabulary",
    ]


def test_statistics_of_parts_are_those_of_the_whole(tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch):
    whole = check(tiny_model_dir).tensors
    monkeypatch.setattr(check_module, "PART", 100)
    for part, tensor in zip(check(tiny_model_dir).tensors, whole, strict=True):
        assert vars(part.statistics) == pytest.approx(vars(tensor.statistics), abs=1e-9)


def test_statistics_leave_out_what_is_not_finite():
    said = statistics_of(iter([np.float32([1, np.nan, 3]), np.float32([np.inf])]))
    assert vars(said) == {"minimum": 1, "maximum": 3, "mean": 2, "deviation": 1, "non_finite": 2}
    nothing = statistics_of(iter([np.float32([np.nan])]))
    assert vars(nothing) == dict.fromkeys(vars(nothing)) | {"non_finite": 1}


def test_packed_weights_count_as_what_they_stand_for(tiny_model_dir: Path, tmp_path: Path, monkeypatch):
    loaded = load(str(tiny_model_dir))
    config = quantize(loaded.model, loaded.config, bits=4, group_size=32)
    save_model(tmp_path / "small", loaded.model, config, tiny_model_dir)
    layer: nn.QuantizedLinear = loaded.model.model.layers[1].mlp.up_proj
    values = np.array(mx.dequantize(layer.weight, layer.scales, layer.biases, group_size=32, bits=4))
    monkeypatch.setattr(check_module, "PART", 1000)
    found = check(tmp_path / "small")
    (tensor,) = (tensor for tensor in found.tensors if tensor.name == "model.layers.1.mlp.up_proj.weight")
    assert found.faults == [] and tensor.dtype == "uint32"
    assert (tensor.statistics.minimum, tensor.statistics.maximum) == (values.min(), values.max())
    assert tensor.statistics.deviation == pytest.approx(values.std())


@pytest.mark.parametrize(
    ("lost", "settings"), [("biases", {}), (None, {"bits": 8}), (None, {"mode": "nvfp4", "group_size": 16})]
)
def test_weights_that_cannot_be_unpacked_are_a_fault(
    tiny_model_dir: Path, tmp_path: Path, lost: str | None, settings: dict
):
    loaded = load(str(tiny_model_dir))
    config = quantize(loaded.model, loaded.config, bits=4, group_size=32)
    save_model(tmp_path / "small", loaded.model, config, tiny_model_dir)
    weights = load_file(tmp_path / "small/model.safetensors")
    weights.pop(f"model.embed_tokens.{lost}", None)
    save_file(weights, tmp_path / "small/model.safetensors")
    config = read_config(tmp_path / "small")
    config["quantization"] |= settings
    found = check_model(tmp_path / "small", config)
    assert any("model.embed_tokens" in fault for fault in found.faults)


@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        (lambda file: file.write_text(file.read_text()[:1000]), "the tokenizer in .* cannot be read: "),
        (lambda file: file.unlink(), "there is no tokenizer in "),
        (
            lambda file: file.write_text(more_tokens(file.read_text())),
            "the token id 900, but the model's vocab_size is 320",
        ),
    ],
)
def test_a_tokenizer_that_does_not_serve_is_a_fault(
    changed: Callable[..., Path], damage: Callable[[Path], None], fault: str
):
    folder = changed()
    damage(folder / "tokenizer.json")
    (found,) = check(folder).faults
    assert re.search(fault, found)


def more_tokens(text: str) -> str:
    """A tokenizer.json with one token far behind the others."""
    tokenizer = json.loads(text)
    tokenizer["model"]["vocab"]["beyond"] = 900
    return json.dumps(tokenizer)


NORM = "model.norm.weight"
UP = "model.layers.0.mlp.up_proj.weight"
ONES = np.ones((320, 32), np.float32)


@pytest.mark.parametrize(
    ("tensors", "fault"),
    [
        ({NORM: None}, f"missing '{NORM}' (32,)"),
        ({"model.extra": ONES}, "unexpected 'model.extra' (320, 32)"),
        ({UP: ONES}, f"'{UP}' has shape (320, 32), expected (64, 32)"),
        ({NORM: np.ones(32, np.int32)}, f"'{NORM}' is stored as int32, expected float32"),
        ({NORM: np.full(32, np.nan, np.float32)}, f"'{NORM}' has 32 values that are not finite"),
        (
            {"lm_head.weight": ONES},
            "'lm_head.weight' is ignored because config.json ties the head, "
            "but it differs from the embedding",
        ),
    ],
)
def test_faults_of_tensors_are_named(changed, tensors: dict, fault: str):
    found = check(changed(tensors))
    assert found.faults == [fault]


def test_a_stray_head_that_is_the_embedding_is_left_out(changed, tiny_model_dir: Path):
    embedding = load_file(tiny_model_dir / "model.safetensors")["model.embed_tokens.weight"]
    found = check(changed({"lm_head.weight": embedding}))
    assert (found.ignored, found.faults, found.tied_head) == (["lm_head.weight"], [], True)
    assert [tensor.name for tensor in found.tensors if not tensor.is_read] == ["lm_head.weight"]


def test_an_untied_head_that_is_not_there(changed):
    found = check(changed(tie_word_embeddings=False))
    assert found.tied_head is False
    assert found.faults == ["missing 'lm_head.weight' (320, 32)"]


def test_a_config_that_cannot_be_honoured_is_a_fault_and_tensors_are_read_all_the_same(changed):
    found = check(changed(use_magic=3))
    (fault,) = found.faults
    assert "unknown key 'use_magic' = 3" in fault
    assert found.tied_head is None and len(found.tensors) == 24


def test_what_is_odd_is_noted(changed):
    found = check(changed({UP: np.zeros((64, 32), np.float32)}, dtype="bfloat16"))
    assert found.faults == []
    assert found.notes == [
        "24 of 24 tensors are stored in float32, but config.json declares bfloat16",
        f"every value of '{UP}' is 0",
    ]


def test_tensors_stand_in_the_order_of_layers(changed):
    extra = {f"model.layers.{i}.a": np.ones(2, np.float32) for i in (10, 9)}
    names = [tensor.name for tensor in check(changed(extra)).tensors]
    assert names.index("model.layers.9.a") < names.index("model.layers.10.a")
