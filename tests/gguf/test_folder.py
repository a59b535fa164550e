"""Every kind of file becomes a folder that holds its numbers, or is refused in a sentence."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from tests.tools.gguf_files import HEAD, TEXTS, Words, byte_level, sentencepiece, shapes, write_file

from smidgen import cache
from smidgen.backend import mx
from smidgen.data.templates import load_tokenizer
from smidgen.data.types import Message
from smidgen.errors import ConfigError, ModelError
from smidgen.gguf import cached_import, folder, import_gguf, imported_facts
from smidgen.gguf.folder import ImportedFacts
from smidgen.gguf.names import graph_name
from smidgen.gguf.read import GgufFile
from smidgen.gguf.rope import Llama3Scaling
from smidgen.gguf.tensors import Target
from smidgen.models.load import fitting_graph, load, read_config
from smidgen.models.weights import read_weights

PLAIN = ("F32", "F16", "BF16")
BLOCKS = (
    "Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q3_K Q4_K Q5_K Q6_K IQ4_NL IQ4_XS IQ2_XXS IQ2_XS IQ2_S IQ3_XXS IQ3_S "
    "IQ1_S IQ1_M TQ1_0 TQ2_0 MXFP4"
).split()
ROWS_OF_PAIRS = [2 * i for i in range(HEAD // 2)] + [2 * i + 1 for i in range(HEAD // 2)]
"""Where each row of a head of the family llama stands in a file."""


def expected(name: str, numbers: np.ndarray, family: str) -> np.ndarray:
    """A tensor as the graph wants it: queries and keys of llama in the order of halves."""
    if family == "llama" and name.endswith(("attn_q.weight", "attn_k.weight")):
        return numbers.reshape(-1, HEAD, numbers.shape[1])[:, ROWS_OF_PAIRS].reshape(numbers.shape)
    return numbers


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*PLAIN, *BLOCKS])
def test_numbers_are_those_of_the_file(kind: str, tmp_path: Path):
    made = write_file(tmp_path / "model.gguf", "llama", kind=kind)
    imported = import_gguf(made.path, tmp_path / "out")
    assert imported.kinds[kind] >= 15 and imported.tensors == len(made.numbers) and imported.licence == "mit"
    weights = read_weights(tmp_path / "out")
    dtype = {"F32": mx.float32, "BF16": mx.bfloat16}.get(kind, mx.float16)
    for name, numbers in made.numbers.items():
        found = weights[graph_name(name) or ""]
        assert found.dtype == (mx.float32 if numbers.ndim == 1 else dtype)
        wanted = mx.array(expected(name, numbers, "llama")).astype(found.dtype)
        assert mx.array_equal(found, wanted), name


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("tied", [True, False])
def test_the_folder_is_a_model_that_loads(family: str, tied: bool, tmp_path: Path):
    file = write_file(tmp_path / "model.gguf", family, tied=tied).path
    import_gguf(file, tmp_path / "out")
    loaded = load(str(tmp_path / "out"))
    assert ("lm_head" in loaded.model) != tied and loaded.config["model_type"] == family
    prompt = loaded.tokenizer.render_prompt([Message("user", "Füße 12")])
    assert loaded.tokenizer.decode(prompt, keep_special=True) == (
        "<|im_start|>user\nFüße 12<|im_end|>\n<|im_start|>assistant\n"
    )
    logits = loaded.model(mx.array([prompt]))
    assert logits.shape == (1, len(prompt), loaded.config["vocab_size"]) and mx.isfinite(logits).all()


@pytest.mark.parametrize("words", [byte_level(), byte_level("smollm"), sentencepiece()], ids=lambda w: w.kind)
def test_the_tokenizer_spells_what_it_splits(words: Words, tmp_path: Path):
    import_gguf(write_file(tmp_path / "model.gguf", words=words).path, tmp_path / "out")
    tokenizer = load_tokenizer(tmp_path / "out")
    assert all(tokenizer.decode(tokenizer.encode(text)) == text for text in TEXTS)
    ends = {
        words.tokens.index(text) for text in ("<|im_end|>", "<|endoftext|>", "</s>") if text in words.tokens
    }
    assert tokenizer.eos_token_ids == ends
    assert len(tokenizer.opening) == (words.kind == "llama")


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_a_dtype_is_that_of_every_tensor(dtype: str, tmp_path: Path):
    made = write_file(tmp_path / "model.gguf", kind="Q4_1")
    imported = import_gguf(made.path, tmp_path / "out", dtype=dtype)
    kind = {"float32": mx.float32, "float16": mx.float16, "bfloat16": mx.bfloat16}[dtype]
    assert imported.dtype == dtype == read_config(tmp_path / "out")["torch_dtype"]
    for name, numbers in made.numbers.items():
        found = read_weights(tmp_path / "out")[graph_name(name) or ""]
        assert mx.array_equal(found, mx.array(expected(name, numbers, "llama")).astype(kind))
    with pytest.raises(ConfigError, match=r"no dtype 'float17'; expected one of float32, .* Did you mean"):
        import_gguf(made.path, tmp_path / "other", dtype="float17")


def test_a_tensor_is_read_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """No more than one part of a tensor for each thread is in memory, so its size does not matter."""
    monkeypatch.setattr("smidgen.gguf.tensors._CHUNK", 1 << 12)
    read = []
    original = GgufFile.packed

    def packed(self: GgufFile, name: str, start: int, stop: int) -> np.ndarray:
        read.append((stop - start) * self.tensors[name].columns)
        return original(self, name, start, stop)

    monkeypatch.setattr(GgufFile, "packed", packed)
    made = write_file(tmp_path / "model.gguf", kind="Q8_0")
    import_gguf(made.path, tmp_path / "out")
    assert max(read) == HEAD * 256 and len(read) > 200  # a head is the smallest part of queries and keys
    assert sum(read) == sum(numbers.size for numbers in made.numbers.values())


def test_parts_cover_a_tensor_once_and_keep_heads_whole():
    target = Target("a", "b", (96 * 1024, 64), "F16", 96)
    parts = list(target.parts())
    assert [start for start, _ in parts[1:]] == [stop for _, stop in parts[:-1]]
    assert parts[0][0] == 0 and parts[-1][1] == 96 * 1024
    assert all(start % 96 == 0 and (stop - start) * 64 <= 1 << 18 for start, stop in parts)


def test_the_card_names_source_and_licence(tmp_path: Path):
    changes = {"general.license.name": "some-licence", "general.license.link": "https://example.org/l"}
    file = write_file(tmp_path / "model.gguf", kind="Q4_0", changes=changes).path
    imported = import_gguf(file, tmp_path / "out")
    card = (tmp_path / "out/README.md").read_text(encoding="utf-8")
    assert imported.sha256 == cache.sha256_of(file) and imported.sha256 in card
    assert "license: mit\nlicense_name: some-licence\n" in card and "15 Q4_0" in card and "# Tiny" in card


def test_a_file_is_imported_once_for_its_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SMIDGEN_CACHE", str(tmp_path / "cache"))
    file = write_file(tmp_path / "model.gguf").path
    first = cached_import(file)
    monkeypatch.setattr(folder, "import_gguf", lambda *_: pytest.fail("it was imported again"))
    assert cached_import(file.rename(tmp_path / "other.gguf")) == first
    assert fitting_graph(first, read_config(first))
    assert imported_facts() == ImportedFacts(first.parent, 1, sum(f.stat().st_size for f in first.rglob("*")))
    with pytest.raises(ModelError, match=r"there is no file .*none\.gguf; check the path"):
        cached_import(tmp_path / "none.gguf")


def test_a_folder_that_another_process_made_meanwhile_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("SMIDGEN_CACHE", str(tmp_path / "cache"))
    file = write_file(tmp_path / "model.gguf").path

    def overtaken(file: Path, out: Path) -> None:
        import_gguf(file, out)
        import_gguf(file, out)

    monkeypatch.setattr(folder, "import_gguf", overtaken)
    assert (cached_import(file) / "config.json").exists()


@pytest.mark.parametrize("theta", [10_000.0, 500_000.0])
@pytest.mark.parametrize("settings", [(8.0, 1.0, 4.0, 8192), (32.0, 1.0, 4.0, 8192), (4.0, 1.0, 8.0, 64)])
def test_divisors_become_the_settings_that_they_were_made_of(settings: tuple, theta: float, tmp_path: Path):
    scaling = Llama3Scaling(*settings)
    extra = {"rope_freqs.weight": scaling.divisors(theta, HEAD)}
    changes = {"llama.rope.freq_base": theta}
    import_gguf(write_file(tmp_path / "model.gguf", extra=extra, changes=changes).path, tmp_path / "out")
    assert read_config(tmp_path / "out")["rope_scaling"] == scaling.settings()


def test_divisors_of_one_scale_nothing(tmp_path: Path):
    extra = {"rope_freqs.weight": np.ones(HEAD // 2)}
    import_gguf(write_file(tmp_path / "model.gguf", extra=extra).path, tmp_path / "out")
    assert "rope_scaling" not in read_config(tmp_path / "out")


@pytest.mark.parametrize(
    ("changes", "scaling"),
    [
        ({"rope.scaling.type": "linear", "rope.scaling.factor": 4.0}, {"rope_type": "linear", "factor": 4.0}),
        ({"rope.scale_linear": 2.0}, {"rope_type": "linear", "factor": 2.0}),
        ({"rope.scaling.type": "none", "rope.scaling.factor": 4.0}, None),
        (
            {
                "rope.scaling.type": "yarn",
                "rope.scaling.factor": 4.0,
                "rope.scaling.original_context_length": 128,
            },
            {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128},
        ),
    ],
)
def test_scaling_of_positions_is_kept(changes: dict, scaling: dict | None, tmp_path: Path):
    changes = {f"qwen2.{key}": value for key, value in changes.items()}
    import_gguf(write_file(tmp_path / "model.gguf", "qwen2", changes=changes).path, tmp_path / "out")
    assert read_config(tmp_path / "out").get("rope_scaling") == scaling


UNKNOWN = "cannot be honoured as llama: "
REFUSED = {
    "an architecture": ({"family": "mamba"}, "architecture 'mamba'; expected one of llama, qwen2, qwen3"),
    "experts": ({"llama.expert_count": 8}, f"{UNKNOWN}'expert_count' is 8, only 0 is supported"),
    "a key": ({"llama.attention.frobnicate": 3}, f"{UNKNOWN}unknown key 'attention.frobnicate' = 3"),
    "windows": ({"llama.attention.sliding_window": 64}, "'attention.sliding_window' is 64, only 0"),
    "no layers": ({"llama.block_count": None}, "has None as llama.block_count; expected a whole number"),
    "odd layers": ({"llama.attention.head_count_kv": [1, 2]}, r"has \[1, 2\] as llama.attention"),
    "partial rotation": ({"llama.rope.dimension_count": 32}, "rope.dimension_count 32 beside heads of 64"),
    "longrope": ({"llama.rope.scaling.type": "longrope"}, "scales positions by 'longrope' of this kind; exp"),
    "half of yarn": ({"llama.rope.scaling.type": "yarn"}, "by 'yarn' without rope.scaling.original_context"),
    "divisors": ({"extra": {"rope_freqs.weight": np.linspace(1, 7, 32)}}, "is not the scaling of Llama"),
    "a tensor": ({"extra": {"blk.0.moe.weight": np.ones(3)}}, "that a llama has no place for: blk.0.moe.wei"),
    "another shape": ({"llama.feed_forward_length": 512}, r"ffn_gate.weight' has shape \(256, 256\), e"),
    "a missing layer": ({"llama.block_count": 3}, "missing 'model.layers.2.self_attn.q_proj.weight'"),
    "more layers": ({"llama.block_count": 1}, "do not fit its metadata: unexpected 'blk.1."),
    "integers": ({"kind": "I8"}, "numbers of the type I8, which cannot be read here; use a file of F16"),
    "numbers without end": ({"extra": {"output_norm.weight": np.full(256, np.nan)}}, "not finite as F32"),
    "WordPiece": ({"tokenizer.ggml.model": "bert"}, "is of the kind bert; expected llama, or gpt2"),
    "Unigram": ({"tokenizer.ggml.model": "t5"}, "is of the kind t5; expected llama, or gpt2 with"),
    "a way to split": ({"tokenizer.ggml.pre": "kimi-k2"}, "is of the kind gpt2 kimi-k2; expected"),
    "no merges": ({"tokenizer.ggml.merges": None}, "names no merges of its tokenizer; it is damaged"),
    "no tokens": ({"tokenizer.ggml.tokens": None}, "names no tokens of its tokenizer; it is damaged"),
    "no scores": ({"tokenizer.ggml.model": "llama"}, "names no scores of its tokenizer; it is damaged"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_imported_is_refused_in_a_sentence(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    changes, message = REFUSED[case]
    changes = dict(changes)
    family, kind, extra = changes.pop("family", "llama"), changes.pop("kind", "F32"), changes.pop("extra", {})
    if overwritten := extra.keys() & shapes("llama", 1, True).keys():
        monkeypatch.setattr(
            "tests.tools.gguf_files.shapes",
            lambda *given: {n: s for n, s in shapes(*given).items() if n not in overwritten},
        )
    file = write_file(tmp_path / "model.gguf", family, kind=kind, changes=changes, extra=extra).path
    with pytest.raises(ModelError, match=message):
        import_gguf(file, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["model.gguf"]


def test_pieces_of_bytes_are_needed_for_sentencepiece(tmp_path: Path):
    words = sentencepiece()
    tokens = [token.replace("<0x4", "<x4") for token in words.tokens]
    file = write_file(
        tmp_path / "model.gguf", words=Words("llama", tokens, words.types, scores=words.scores)
    ).path
    with pytest.raises(
        ModelError, match=r"no token for the byte <0x40>, and 16 of 256 are missing; expected"
    ):
        import_gguf(file, tmp_path / "out")


def test_numbers_that_float16_does_not_reach_are_refused(tmp_path: Path):
    extra = {"output_norm.weight": np.full(256, 1e6)}
    made = write_file(tmp_path / "model.gguf")
    content = made.path.read_bytes().replace(
        made.numbers["output_norm.weight"].tobytes(), extra["output_norm.weight"].astype(np.float32).tobytes()
    )
    made.path.write_bytes(content)
    with pytest.raises(
        ModelError, match=r"'output_norm.weight' holds numbers that are not finite as F16; fetch"
    ):
        import_gguf(made.path, tmp_path / "out", dtype="float16")
    assert import_gguf(made.path, tmp_path / "out", dtype="bfloat16").dtype == "bfloat16"


def test_more_tokens_than_rows_are_refused(tmp_path: Path):
    words = byte_level()
    changes = {
        "tokenizer.ggml.tokens": [*words.tokens, "more"],
        "tokenizer.ggml.token_type": [*map(int, words.types), 1],
    }
    file = write_file(tmp_path / "model.gguf", changes=changes).path
    with pytest.raises(ModelError, match=r"has 905 tokens, the model 904; fetch the file again"):
        import_gguf(file, tmp_path / "out")


def test_a_qwen2_of_wide_heads_is_refused(tmp_path: Path):
    changes = {
        "qwen2.attention.key_length": 32,
        "qwen2.attention.value_length": 32,
        "qwen2.rope.dimension_count": 32,
    }
    file = write_file(tmp_path / "model.gguf", "qwen2", changes=changes).path
    with pytest.raises(
        ModelError, match=r"is a qwen2 of 4 heads of 32 in a width of 256; expected heads of 64"
    ):
        import_gguf(file, tmp_path / "out")


def test_a_file_that_is_cut_short_is_refused(tmp_path: Path):
    file = write_file(tmp_path / "model.gguf").path
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(ModelError, match=re.escape(f"{file} is not a complete GGUF file")):
        import_gguf(file, tmp_path / "out")


def test_token_ids_stand_in_the_config(tmp_path: Path):
    words = byte_level()
    import_gguf(write_file(tmp_path / "model.gguf").path, tmp_path / "out")
    config = json.loads((tmp_path / "out/config.json").read_text(encoding="utf-8"))
    ends = [words.tokens.index("<|endoftext|>"), words.tokens.index("<|im_end|>")]
    assert config["eos_token_id"] == ends and config["bos_token_id"] == words.tokens.index("<|im_start|>")
    assert json.loads((tmp_path / "out/generation_config.json").read_text())["eos_token_id"] == ends
