"""What was exported and imported again is the same model, and what is not is noticed."""

import json
from pathlib import Path

import numpy as np
import pytest
from tests.tools.gguf_files import write_file

from smidgen.backend import mx
from smidgen.data.templates import load_tokenizer
from smidgen.errors import ModelError
from smidgen.export.gguf import verify_import, write_gguf
from smidgen.export.gguf.texts import varied_texts
from smidgen.gguf import import_gguf
from smidgen.models.graph import named_arrays
from smidgen.models.load import load, resolve

pytest.importorskip("xllamacpp")

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("llama", {}),
        ("llama", {"attention_bias": False, "mlp_bias": False, "rope_scaling": LLAMA3, "head_dim": 16}),
        ("mistral", {"rope_theta": 1e6}),
        ("qwen2", {"rope_scaling": {"rope_type": "linear", "factor": 4.0}}),
        ("qwen3", {"rope_scaling": YARN}),
    ],
)
def test_a_model_comes_back_to_the_bit(family: str, changes: dict, make_model, tmp_path: Path):
    source = make_model(family, **changes)
    write_gguf(str(source), tmp_path / "model.gguf", dtype="F32")
    import_gguf(tmp_path / "model.gguf", tmp_path / "out")
    before, after = load(str(source)), load(str(tmp_path / "out"))
    same_weights(before.model, after.model)
    prompt = mx.array([list(range(3, 90))])
    assert mx.array_equal(before.model(prompt), after.model(prompt))
    assert before.tokenizer.eos_token_ids <= after.tokenizer.eos_token_ids
    assert all(before.tokenizer.encode(text) == after.tokenizer.encode(text) for text in varied_texts(50))
    write_gguf(str(tmp_path / "out"), tmp_path / "again.gguf", dtype="F32")
    import_gguf(tmp_path / "again.gguf", tmp_path / "out2")
    same_weights(after.model, load(str(tmp_path / "out2")).model)


def same_weights(one, other) -> None:
    ours, theirs = named_arrays(one.parameters()), named_arrays(other.parameters())
    assert ours.keys() == theirs.keys()
    assert all(mx.array_equal(value, theirs[name]) for name, value in ours.items())


@pytest.mark.slow
def test_the_bundled_model_comes_back_with_its_template(tmp_path: Path):
    write_gguf("smidgen:nano", tmp_path / "model.gguf", dtype="F16")
    import_gguf(tmp_path / "model.gguf", tmp_path / "out")
    before, after = load_tokenizer(resolve("smidgen:nano")), load_tokenizer(tmp_path / "out")
    assert before.chat_template == after.chat_template
    assert all(before.encode(text) == after.encode(text) for text in varied_texts(200))
    found = verify_import(tmp_path / "model.gguf", tmp_path / "out")
    assert found.largest_error == 0 and found.tensors == 57 and found.logit_error < found.tolerance


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["Q4_1", "Q4_K", "Q6_K", "IQ3_XXS"])
def test_blocks_are_what_llama_cpp_takes_them_for(kind: str, tmp_path: Path):
    file = write_file(tmp_path / "model.gguf", "llama", kind=kind).path
    import_gguf(file, tmp_path / "out")
    found = verify_import(file, tmp_path / "out")
    assert 0 < found.largest_error < 0.05 and found.texts == 205 and found.logit_error < 0.06


def test_numbers_that_differ_are_noticed(tmp_path: Path):
    made = write_file(tmp_path / "model.gguf", "qwen3")
    import_gguf(made.path, tmp_path / "out")
    file = tmp_path / "out/model.safetensors"
    row = made.numbers["blk.1.attn_k.weight"][3].tobytes()
    file.write_bytes(file.read_bytes().replace(row, np.zeros(256, np.float32).tobytes()))
    with pytest.raises(
        ModelError, match=r"'blk\.1\.attn_k\.weight' of .* is another in .*; import the file ag"
    ):
        verify_import(made.path, tmp_path / "out")


def test_another_way_to_split_is_noticed(tmp_path: Path):
    made = write_file(tmp_path / "model.gguf", "qwen3")
    import_gguf(made.path, tmp_path / "out")
    file = tmp_path / "out/tokenizer.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    content["pre_tokenizer"]["pretokenizers"].pop(0)
    file.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ModelError, match=r"llama\.cpp splits .* into other tokens than the tokenizer in"):
        verify_import(made.path, tmp_path / "out")


def test_texts_are_the_same_for_the_same_seed():
    assert varied_texts(20, seed=3) == varied_texts(20, seed=3) != varied_texts(20, seed=4)
    joined = "".join(varied_texts(300))
    assert all(piece in joined for piece in ("日本", "🙂", "\r\n", "1234567890", "    ", "def f(x"))
