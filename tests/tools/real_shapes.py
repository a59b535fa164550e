"""Models of real shapes with random weights, for tests and benchmarks where nothing can be downloaded.

    python tests/tools/real_shapes.py Qwen3-0.6B /tmp/qwen3-0.6b

The shapes are those that the model's publishers give in `config.json`. The tokenizer is the bundled model's,
filled up with tokens that no text has, so that every id the model may draw can be decoded.
"""

import argparse
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NANO = Path(__file__).parents[2] / "src/smidgen/nano"
STD = 0.02
"""Standard deviation of every weight that is no norm."""

_QWEN3 = {
    "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_act": "silu", "head_dim": 128,
    "num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 8, "vocab_size": 151936,
    "rms_norm_eps": 1e-6, "rope_theta": 1000000.0, "max_position_embeddings": 40960, "attention_bias": False,
    "tie_word_embeddings": True,
}  # fmt: skip
_MOBILELLM = {
    "architectures": ["Llama4ForCausalLM"], "model_type": "llama4_text", "hidden_act": "silu", "head_dim": 64,
    "num_hidden_layers": 15, "vocab_size": 128256, "rms_norm_eps": 1e-5, "rope_theta": 8000000.0,
    "max_position_embeddings": 32768, "attention_bias": False, "tie_word_embeddings": True,
    "use_qk_norm": True, "no_rope_layers": [1] * 15, "attn_temperature_tuning": False,
    "attention_chunk_size": 32768, "moe_layers": [], "intermediate_size": 8192,
}  # fmt: skip
SHAPES: dict[str, dict[str, Any]] = {
    "Qwen3-0.6B": _QWEN3 | {"hidden_size": 1024, "intermediate_size": 3072},
    "Qwen3-1.7B": _QWEN3 | {"hidden_size": 2048, "intermediate_size": 6144},
    "Qwen2.5-7B": {
        "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_act": "silu",
        "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28,
        "num_key_value_heads": 4, "vocab_size": 152064, "rms_norm_eps": 1e-6, "rope_theta": 1000000.0,
        "max_position_embeddings": 131072, "tie_word_embeddings": False,
    },
    "MobileLLM-R1-140M": _MOBILELLM | {
        "hidden_size": 576, "intermediate_size_mlp": 2048, "num_attention_heads": 9,
        "num_key_value_heads": 3,
    },
    "MobileLLM-R1-360M": _MOBILELLM | {
        "hidden_size": 1024, "intermediate_size_mlp": 4096, "num_attention_heads": 16,
        "num_key_value_heads": 4,
    },
    "MobileLLM-R1-950M": _MOBILELLM | {
        "hidden_size": 1536, "intermediate_size_mlp": 6144, "num_attention_heads": 24,
        "num_key_value_heads": 6, "num_hidden_layers": 22, "no_rope_layers": [1] * 22,
    },
}  # fmt: skip


def tensors(config: dict[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name and shape of every tensor of a checkpoint of the families qwen2, qwen3, llama and llama4_text."""
    width, vocabulary = config["hidden_size"], config["vocab_size"]
    mobile = config["model_type"] == "llama4_text"
    mlp, inner = ("feed_forward", "intermediate_size_mlp") if mobile else ("mlp", "intermediate_size")
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    head = config.get("head_dim") or width // heads
    yield "model.embed_tokens.weight", (vocabulary, width)
    for layer in range(config["num_hidden_layers"]):
        at = f"model.layers.{layer}"
        yield f"{at}.input_layernorm.weight", (width,)
        for name, size in (("q", heads), ("k", kv_heads), ("v", kv_heads)):
            yield f"{at}.self_attn.{name}_proj.weight", (size * head, width)
            if config["model_type"] == "qwen2":
                yield f"{at}.self_attn.{name}_proj.bias", (size * head,)
        if config["model_type"] == "qwen3":
            yield f"{at}.self_attn.q_norm.weight", (head,)
            yield f"{at}.self_attn.k_norm.weight", (head,)
        yield f"{at}.self_attn.o_proj.weight", (width, heads * head)
        yield f"{at}.post_attention_layernorm.weight", (width,)
        for name in ("gate", "up"):
            yield f"{at}.{mlp}.{name}_proj.weight", (config[inner], width)
        yield f"{at}.{mlp}.down_proj.weight", (width, config[inner])
    yield "model.norm.weight", (width,)
    if not config["tie_word_embeddings"]:
        yield "lm_head.weight", (vocabulary, width)


def write_model(folder: Path, config: dict[str, Any], *, dtype: str = "bfloat16", seed: int = 0) -> Path:
    """Write a model folder with random weights.

    Args:
        folder: made if it is not there.
        config: the content of `config.json`.
        dtype: of the weights.
        seed: of the weights.
    """
    from smidgen.backend import mx

    folder.mkdir(parents=True, exist_ok=True)
    keys = iter(mx.random.split(mx.random.key(seed), 1 + sum(1 for _ in tensors(config))))
    kind = getattr(mx, dtype)
    weights = {
        name: mx.ones(shape, kind)
        if name.endswith("norm.weight")
        else (STD * mx.random.normal(shape, key=next(keys))).astype(kind)
        for name, shape in tensors(config)
    }
    mx.save_safetensors(str(folder / "model.safetensors"), weights, metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config | {"torch_dtype": dtype}, indent=1))
    write_tokenizer(folder, config["vocab_size"])
    return folder


def write_tokenizer(folder: Path, size: int) -> None:
    """Write the bundled tokenizer with `size` tokens."""
    content = json.loads((NANO / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = content["model"]["vocab"]
    known = max(*vocabulary.values(), *(token["id"] for token in content["added_tokens"])) + 1
    vocabulary |= {f"\u27e8{n}\u27e9": n for n in range(known, size)}
    (folder / "tokenizer.json").write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    for name in ("tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(NANO / name, folder / name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="bfloat16")
    parser.add_argument("--layers", type=int, help="only so many layers")
    arguments = parser.parse_args()
    config = SHAPES[arguments.shape]
    if arguments.layers:
        config = config | {"num_hidden_layers": arguments.layers}
    write_model(arguments.folder, config, dtype=arguments.dtype)


if __name__ == "__main__":
    main()
