"""Models and tokenizers small enough to be made for every test run; nothing is downloaded."""

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
from hypothesis import settings
from safetensors.numpy import save_file
from tests.tools.hub import FakeHub
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

settings.register_profile("fast", max_examples=40, deadline=None, derandomize=True)
settings.load_profile("fast")

QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# Like Qwen3's: without thinking an empty block opens the answer, and earlier turns lose theirs.
QWEN3_TEMPLATE = """\
{%- for m in messages %}
    {{- '<|im_start|>' + m.role + '\\n' }}
    {%- if loop.last and m.role == 'assistant' %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
    {{- m.content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and not enable_thinking %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}
"""
TINY_CONFIG = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 64,
    "vocab_size": 320,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "max_position_embeddings": 512,
    "tie_word_embeddings": True,
    "attention_bias": False,
    "hidden_act": "silu",
    "eos_token_id": 2,
    "dtype": "float32",
}


def write_tokenizer(
    path: Path, template: str | None = QWEN3_TEMPLATE, eos: str | None = "<|im_end|>"
) -> Path:
    """Write a byte-level BPE of about 300 tokens, with Qwen's pre-tokenizer and special tokens, to `path`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN_SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["the better answer is the first", "user system assistant"] * 4, trainer)
    tokenizer.add_tokens([AddedToken(tag, special=False) for tag in ("<think>", "</think>")])
    path.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(path / "tokenizer.json"))
    settings = {"tokenizer_class": "Qwen2Tokenizer", "pad_token": "<|endoftext|>", "model_max_length": 512}
    optional = {"chat_template": template, "eos_token": eos}
    settings |= {key: value for key, value in optional.items() if value is not None}
    (path / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return path


def random_qwen3(config: dict, seed: int = 0) -> dict[str, np.ndarray]:
    """Weights of a Qwen3 model, large enough that its distributions are far from uniform."""
    rng = np.random.default_rng(seed)
    width, inner, head = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    queries, keys = config["num_attention_heads"] * head, config["num_key_value_heads"] * head
    shapes = {"model.embed_tokens.weight": (config["vocab_size"], width)}
    norms = {"model.norm.weight": width}
    for layer in range(config["num_hidden_layers"]):
        block = f"model.layers.{layer}."
        for name, size in (("q", queries), ("k", keys), ("v", keys)):
            shapes[f"{block}self_attn.{name}_proj.weight"] = (size, width)
        shapes[f"{block}self_attn.o_proj.weight"] = (width, queries)
        shapes[f"{block}mlp.gate_proj.weight"] = shapes[f"{block}mlp.up_proj.weight"] = (inner, width)
        shapes[f"{block}mlp.down_proj.weight"] = (width, inner)
        norms |= {f"{block}{n}_layernorm.weight": width for n in ("input", "post_attention")}
        norms |= {f"{block}self_attn.{n}_norm.weight": head for n in ("q", "k")}
    weights = {name: rng.normal(0, 0.3, shape) for name, shape in shapes.items()}
    weights |= {name: rng.uniform(0.5, 1.5, size) for name, size in norms.items()}
    return {name: value.astype(np.float32) for name, value in weights.items()}


@pytest.fixture(scope="session")
def tiny_tokenizer_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer whose chat template has Qwen3's thinking switch; do not write into the folder."""
    return write_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def two_threads() -> Iterator[None]:
    """At least two threads share the work of our own kernels, unless OPENBLAS_NUM_THREADS says how many.

    A worker beside others has OpenBLAS with one thread, and what divides work would have nothing to divide.
    """
    from smidgen import backend
    from smidgen.cpu_kernels.team import team

    library, given = backend.blas_library(), backend.blas().threads
    with pytest.MonkeyPatch.context() as patch:
        if library is not None and "SMIDGEN_TEST_THREADS" in os.environ:
            patch.setattr(backend, "_FACTS", replace(backend.blas(), threads=max(2, given)))
        team.cache_clear()
        yield
    team.cache_clear()
    if library is not None:
        library.openblas_set_num_threads(given)


@pytest.fixture
def make_tokenizer_dir(tmp_path: Path) -> Callable[..., Path]:
    """A function that writes the tokenizer into a fresh folder, with another `template` or `eos` token."""
    return partial(write_tokenizer, tmp_path / "made")


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Qwen3 model folder of random float32 weights (2 layers of width 32); do not write into it."""
    path = write_tokenizer(tmp_path_factory.mktemp("models") / "tiny")
    (path / "config.json").write_text(json.dumps(TINY_CONFIG), encoding="utf-8")
    (path / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 0]}), encoding="utf-8")
    save_file(random_qwen3(TINY_CONFIG), path / "model.safetensors", metadata={"format": "pt"})
    return path


@pytest.fixture(autouse=True)
def unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    """`auto` takes MLX for folders: what is faster on a machine decides no test."""
    monkeypatch.setattr("smidgen.inference.choice.candidates", lambda path, config, num_weights: ["mlx"])


@pytest.fixture(autouse=True, scope="session")
def undurable() -> Iterator[None]:
    """No file waits until it is on the disk: milliseconds each, and no test cuts the power."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A hub on this machine that HF_ENDPOINT names, and a token for it."""
    server = FakeHub()
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    # large files would go to a store of another protocol
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()
