"""Files of every family, type and kind of source run in llama.cpp and predict what our graph predicts."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFWriter
from gguf.quants import dequantize
from tokenizers import Tokenizer, processors

pytest.importorskip("xllamacpp")

from smidgen.backend import mx, nn
from smidgen.config import LoraConfig
from smidgen.data.templates import load_tokenizer
from smidgen.data.tokenizer import QWEN2_PATTERN
from smidgen.data.types import Message
from smidgen.errors import ConfigError, ModelError
from smidgen.export.checkpoint_files import open_checkpoint
from smidgen.export.gguf import verify, verify_gguf, verify_gguf_adapter, write_gguf, write_gguf_adapter
from smidgen.export.gguf.blocks import FILE_TYPES, encode
from smidgen.export.gguf.llama_cpp import LlamaCpp
from smidgen.export.gguf.reference_forward import next_token_logits
from smidgen.gguf.pre_tokenizers import WRITTEN
from smidgen.inference import llama_files
from smidgen.inference.llama_files import llama_model
from smidgen.models.load import load, read_config
from smidgen.models.quantization import quantize
from smidgen.models.save import save_model

ROPES = {
    "linear": {"rope_type": "linear", "factor": 4.0},
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128},
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    },
}


@pytest.mark.parametrize("family", ["qwen2", "qwen3", "llama"])
def test_every_family_is_the_same_model_in_llama_cpp(family: str, make_model, tmp_path: Path):
    source, out = str(make_model(family)), tmp_path / "model.gguf"
    write_gguf(source, out, dtype="F32")
    facts = verify_gguf(out, source)
    assert facts.largest_error == 0 and facts.kl_from_source == 0
    assert facts.logit_error < 1e-4


@pytest.mark.parametrize(
    ("family", "rope"), [("qwen3", "linear"), ("qwen2", "yarn"), *(("llama", rope) for rope in ROPES)]
)
def test_scaled_rotations_are_the_same_in_llama_cpp(family: str, rope: str, make_model, tmp_path: Path):
    source, out = str(make_model(family, rope_scaling=ROPES[rope])), tmp_path / "model.gguf"
    write_gguf(source, out, dtype="F32")
    assert verify_gguf(out, source).logit_error < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("dtype", FILE_TYPES)
def test_every_type_runs_in_llama_cpp(dtype: str, make_model, tmp_path: Path):
    source, out = str(make_model("llama")), tmp_path / "model.gguf"
    facts = write_gguf(source, out, dtype=dtype)
    assert facts.bytes == out.stat().st_size and facts.unblocked == []
    assert verify_gguf(out, source).numbers > 100_000


@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16])
def test_half_precision_is_read_as_mlx_reads_it(dtype: mx.Dtype, make_model, tmp_path: Path):
    source, out = str(make_model("llama", dtype)), tmp_path / "model.gguf"
    write_gguf(source, out, dtype="F32")
    assert verify_gguf(out, source).logit_error < 1e-4
    whole = load(source).model.model.layers[1].self_attn.q_proj.weight
    with open_checkpoint(source) as checkpoint:
        rows = checkpoint.rows("model.layers.1.self_attn.q_proj.weight")
    assert (rows == np.array(whole.astype(mx.float32))).all()


@pytest.mark.parametrize(
    "settings",
    [
        *({"bits": bits, "group_size": 32, "mode": "affine"} for bits in (2, 3, 4, 5, 6, 8)),
        {"bits": 4, "group_size": 32, "mode": "mxfp4"},
        {"bits": 4, "group_size": 16, "mode": "nvfp4"},
        {"bits": 8, "group_size": 32, "mode": "mxfp8"},
    ],
    ids=lambda settings: f"{settings['mode']}-{settings['bits']}",
)
def test_every_quantisation_of_mlx_is_read_as_mlx_reads_it(settings: dict, make_model, tmp_path: Path):
    folder = make_model("llama", mx.bfloat16)
    model = load(str(folder)).model
    nn.quantize(model, **settings)
    config = {**read_config(folder), "quantization": settings}
    save_model(tmp_path / "packed", model, config, folder, dtype=mx.bfloat16)
    packed = load(str(tmp_path / "packed")).model
    with open_checkpoint(str(tmp_path / "packed")) as checkpoint:
        for name in ("model.layers.1.mlp.down_proj", "model.embed_tokens"):
            layer = dict(packed.named_modules())[name]
            biases = getattr(layer, "biases", None)
            dtype = mx.float32 if biases is None else None
            whole = mx.dequantize(layer.weight, layer.scales, biases, dtype=dtype, **settings)
            assert (checkpoint.rows(f"{name}.weight") == np.array(whole)).all()
            assert (checkpoint.rows(f"{name}.weight", 3, 40) == np.array(whole)[3:40]).all()


@pytest.mark.slow
@pytest.mark.parametrize("family", ["qwen3", "llama"])
def test_a_quantised_model_with_an_adapter_runs_fused_and_apart(
    family: str, make_model, make_adapter: Callable[..., Path], tmp_path: Path
):
    folder, packed = make_model(family, mx.bfloat16), tmp_path / "packed"
    model = load(str(folder)).model
    smaller = quantize(model, read_config(folder), bits=8, group_size=32)
    save_model(packed, model, smaller, folder, dtype=mx.bfloat16)
    adapter = make_adapter(str(packed), LoraConfig(rank=4, alpha=8, target_modules=("q_proj", "down_proj")))
    write_gguf(str(packed), tmp_path / "fused.gguf", dtype="F32", adapter=adapter)
    assert verify_gguf(tmp_path / "fused.gguf", str(packed), adapter=adapter).logit_error < 1e-4
    with pytest.raises(
        ModelError, match=r"the tensor 'blk\.0\.attn_q\.weight' of the file differs from the model's"
    ):
        verify_gguf(tmp_path / "fused.gguf", str(packed))
    facts = write_gguf_adapter(str(packed), adapter, tmp_path / "adapter.gguf")
    assert facts.tensors == 2 * 2 * 2 and facts.alpha == 8
    assert verify_gguf_adapter(tmp_path / "adapter.gguf", str(packed), adapter).logit_error < 0.01


def test_the_fused_weights_predict_what_the_adapted_model_predicts(
    tiny_model_dir: Path, adapter: Path, tokens: mx.array
):
    adapted = load(str(tiny_model_dir), adapter=adapter).model
    with open_checkpoint(str(tiny_model_dir), adapter) as checkpoint:
        ours = next_token_logits(checkpoint.graph, checkpoint.rows, tokens.tolist())
    np.testing.assert_allclose(ours, np.array(adapted(tokens)[:, -1]), rtol=1e-4, atol=1e-4)


def changed(folder: Path, **changes) -> str:
    """The model of a folder with keys of its config replaced, in the folder beside it."""
    other = folder.with_name("changed")
    shutil.copytree(folder, other)
    (other / "config.json").write_text(json.dumps({**read_config(folder), **changes}), encoding="utf-8")
    return str(other)


def test_a_file_that_rotates_otherwise_is_refused(make_model, tmp_path: Path):
    folder = make_model("llama")
    write_gguf(changed(folder, rope_theta=500.0), tmp_path / "model.gguf")
    with pytest.raises(ModelError, match=r"llama\.cpp's predictions from the file differ from MLX's"):
        verify_gguf(tmp_path / "model.gguf", str(folder))


def test_a_file_whose_tokens_are_split_otherwise_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(WRITTEN, ((QWEN2_PATTERN,), False), "gpt-2")
    write_gguf("smidgen:nano", tmp_path / "model.gguf")
    with pytest.raises(ModelError, match=r"llama\.cpp splits .* into other tokens"):
        verify_gguf(tmp_path / "model.gguf", "smidgen:nano")


def test_an_end_token_that_llama_cpp_goes_on_after_is_refused(make_model, tmp_path: Path):
    folder = make_model("qwen3")
    write_gguf(str(folder), tmp_path / "model.gguf")
    with pytest.raises(ModelError, match=r"llama.cpp continues after the end tokens \[65\]"):
        verify_gguf(tmp_path / "model.gguf", changed(folder, eos_token_id=[2, 65]))
    write_gguf(str(tmp_path / "changed"), tmp_path / "told.gguf")
    assert verify_gguf(tmp_path / "told.gguf", str(tmp_path / "changed")).end_tokens == [0, 2, 65]


def test_a_file_of_another_model_or_damaged_is_refused(make_model, tiny_model_dir: Path, tmp_path: Path):
    folder, out = make_model("qwen2"), tmp_path / "model.gguf"
    write_gguf(str(folder), out)
    with pytest.raises(ModelError, match=r"has the architecture qwen2, but .* has qwen3"):
        verify_gguf(out, str(tiny_model_dir))
    tied = changed(folder, vocab_size=320, tie_word_embeddings=True)
    weights = mx.load(str(folder / "model.safetensors"))
    del weights["lm_head.weight"]
    mx.save_safetensors(str(Path(tied) / "model.safetensors"), weights)
    with pytest.raises(ModelError, match=r"does not contain the tensors of .*: output\.weight differ"):
        verify_gguf(out, tied)
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(out.read_bytes()[:-50_000])
    with pytest.raises(ModelError, match=r"cut\.gguf is not a complete GGUF file"):
        verify_gguf(cut, str(folder))
    with pytest.raises(ModelError, match=r"there is no file .*none\.gguf"):
        verify_gguf(tmp_path / "none.gguf", str(folder))
    with pytest.raises(ModelError, match=r"llama\.cpp cannot load .*cut\.gguf"):
        LlamaCpp(cut)


def test_a_file_of_an_architecture_that_is_not_known_is_refused(tmp_path: Path):
    writer = GGUFWriter(tmp_path / "falcon.gguf", "falcon")
    writer.add_tensor("token_embd.weight", np.zeros((4, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(
        ModelError, match="is of the architecture 'falcon'; expected one of llama, qwen2, qwen3"
    ):
        verify_gguf(tmp_path / "falcon.gguf", "smidgen:nano")


def test_without_the_wheel_verifying_says_what_to_install(make_model, tmp_path: Path, monkeypatch):
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    with pytest.raises(ConfigError, match="pip install xllamacpp"):
        LlamaCpp(tmp_path / "model.gguf")


def begin_texts(folder: Path, *tokens: str) -> None:
    """Have the tokenizer of a folder put tokens before every text."""
    codec = Tokenizer.from_file(str(folder / "tokenizer.json"))
    put = [(token, codec.token_to_id(token)) for token in tokens]
    codec.post_processor = processors.TemplateProcessing(" ".join([*tokens, "$A"]), None, put)
    codec.save(str(folder / "tokenizer.json"))
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    settings |= {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": tokens[0]}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")


def test_an_exported_file_is_given_the_ids_of_its_source(
    make_model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(llama_files, "cache_dir", lambda: tmp_path / "cache")
    folder, out = make_model(), tmp_path / "alone" / "model.gguf"
    begin_texts(folder, "<|endoftext|>")
    out.parent.mkdir()
    write_gguf(str(folder), out, dtype="F32")
    assert verify_gguf(out, str(folder)).tokens > 0
    ours, within = load_tokenizer(folder), llama_model(str(out)).tokenizer
    turns = [Message("user", "the better<|im_end|>"), Message("assistant", "first"), Message("user", "why?")]
    served = ours.render_prompt(turns)
    assert served[0] == 0 and within.render_prompt(turns) == served
    plain = ours.render_prompt(turns[2:])
    rendered = ours.decode(plain, keep_special=True).removeprefix("<|endoftext|>")
    assert LlamaCpp(out).tokenize(rendered, whole=True) == plain
    begin_texts(folder, "<|im_start|>")
    with pytest.raises(
        ModelError, match=r"begins a prompt with the tokens \[0\], but the tokenizer in .* \[1\]"
    ):
        verify_gguf(out, str(folder))
    begin_texts(folder, "<|im_start|>", "<|im_end|>")
    with pytest.raises(ModelError, match="prepends 2 tokens to every text, but a GGUF file can name only"):
        write_gguf(str(folder), tmp_path / "other.gguf", dtype="F32")


@pytest.mark.parametrize("kind", ["Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0"])
@pytest.mark.parametrize("size", [1e-5, 1e-4, 1e-3, 1e-2])
def test_scales_that_float16_holds_coarsely_are_allowed_for(kind: str, size: float):
    type_ = GGMLQuantizationType[kind]
    rows = np.random.default_rng(0).uniform(-size, size, (2048, 64)).astype(np.float32)
    assert (np.abs(dequantize(encode(rows, type_), type_) - rows) <= verify._bound(rows, type_)).all()


def test_a_server_may_be_closed_as_soon_as_it_is_open(make_model, tmp_path: Path):
    write_gguf(str(make_model()), tmp_path / "model.gguf", dtype="F32")
    for _ in range(20):  # it hung once in some tens
        LlamaCpp(tmp_path / "model.gguf")
