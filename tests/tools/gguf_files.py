"""Tiny GGUF files of random weights, written with the `gguf` package alone."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFWriter, TokenType
from gguf.quants import dequantize, quantize
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

TEXTS = (
    "Which is better? I'd say it's the 2nd: 3.14159 > 2,718, isn't it?\n\n\tYES, it'S! WE'LL they'Re",
    "Füße, naïve café, Łódź, Ελληνικά, Русский текст, Tiếng Việt ÉCOLE École camelCase HTTPServer",
    "日本語のテキスト、한국어 문장, 中文字符。العربية हिन्दी ไทย！（全角）１２３",
    "def f(x: int) -> str:\r\n    return f'{x!r}'  # 🙂👩‍👩‍👧 ½ ² ™\n\n\n   end   \t \n x",
    '123456 1234567890 a1b22c333 $5,000.00 {"a": [1, 2]} <=> `code` ~ ^ | a|b (x) .Foo /bar _baz',
    "  leading\n \n  \n\nx   y\u00a0z\u3000w ok…",
)
HEADS, KV_HEADS, HEAD, WIDTH, INNER, LAYERS = 4, 2, 64, 256, 256, 2
"""The shape; rows are whole blocks of every type."""
EOS, BOS = "<|im_end|>", "<|im_start|>"
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@dataclass(frozen=True)
class Words:
    """A tokenizer as the metadata of a file."""

    kind: str
    tokens: Sequence[str]
    types: Sequence[int]
    merges: Sequence[str] = ()
    scores: Sequence[float] = ()
    pre: str | None = None


@cache
def byte_level(pre: str | None = "qwen2") -> Words:
    """Byte-level BPE whose merges cross every boundary of words, so that each way to split shows."""
    codec = Tokenizer(models.BPE())
    spelling = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    codec.pre_tokenizer = spelling
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=900, initial_alphabet=alphabet, show_progress=False)
    codec.train_from_iterator([text[i : i + 9] for text in TEXTS for i in range(len(text))], trainer)
    content = json.loads(codec.to_str())["model"]
    learnt = sorted(content["vocab"], key=content["vocab"].get)
    tokens = [*learnt, "<|endoftext|>", BOS, EOS, "<think>"]
    types = [TokenType.NORMAL] * len(learnt) + [TokenType.CONTROL] * 3 + [TokenType.USER_DEFINED]
    return Words("gpt2", tokens, types, [" ".join(pair) for pair in content["merges"]], pre=pre)


@cache
def sentencepiece(controls: tuple[str, ...] = (BOS, EOS)) -> Words:
    """SentencePiece's BPE with byte fallback; a piece's score is its place."""
    codec = Tokenizer(models.BPE())
    codec.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=400, show_progress=False, limit_alphabet=120)
    codec.train_from_iterator(TEXTS, trainer)
    content = json.loads(codec.to_str())["model"]
    made = {"".join(pair): None for pair in content["merges"]}
    pieces = [*made, *sorted(set(content["vocab"]) - made.keys())]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *controls, *pieces]
    types = [TokenType.UNKNOWN, *[TokenType.CONTROL] * 2, *[TokenType.BYTE] * 256]
    types += [TokenType.CONTROL] * len(controls) + [TokenType.NORMAL] * len(pieces)
    scores = [0.0] * (len(tokens) - len(pieces)) + [-float(place) for place in range(len(pieces))]
    return Words("llama", tokens, types, scores=scores)


@dataclass(frozen=True)
class Made:
    """A file, and its tensors' numbers as float32 under llama.cpp's names."""

    path: Path
    numbers: dict[str, np.ndarray] = field(repr=False)


def write_file(
    path: Path,
    family: str = "llama",
    *,
    kind: str = "F32",
    words: Words | None = None,
    changes: Mapping[str, Any] | None = None,
    tied: bool = True,
    extra: Mapping[str, np.ndarray] | None = None,
    head: int = HEAD,
) -> Made:
    """Write a file whose matrices are of the type `kind`, and whose heads have `head` features.

    Keys of `changes` are set beside the usual ones, or left out where the value is None; so are tensors of
    `extra`, F32.
    """
    words = words or byte_level()
    keys = {
        f"{family}.block_count": LAYERS, f"{family}.context_length": 512,
        f"{family}.embedding_length": WIDTH, f"{family}.feed_forward_length": INNER,
        f"{family}.attention.head_count": HEADS, f"{family}.attention.head_count_kv": KV_HEADS,
        f"{family}.attention.layer_norm_rms_epsilon": 1e-5, f"{family}.rope.dimension_count": head,
        f"{family}.rope.freq_base": 10000.0, "general.name": "Tiny", "general.license": "mit",
        "tokenizer.ggml.model": words.kind, "tokenizer.ggml.pre": words.pre,
        "tokenizer.ggml.tokens": list(words.tokens), "tokenizer.ggml.token_type": [*map(int, words.types)],
        "tokenizer.ggml.merges": list(words.merges) or None,
        "tokenizer.ggml.scores": list(words.scores) or None,
        f"{family}.attention.key_length": None if head == HEAD else head,
        f"{family}.attention.value_length": None if head == HEAD else head,
        **special(words), "tokenizer.chat_template": TEMPLATE,
    }  # fmt: skip
    writer = GGUFWriter(path, family)
    for key, value in (keys | dict(changes or {})).items():
        add_key(writer, key, value)
    numbers = {}
    for name, shape in shapes(family, len(words.tokens), tied, head).items():
        type_ = GGMLQuantizationType["F32" if len(shape) == 1 else kind]
        content = blocks(name, shape, type_)
        with suppress(NotImplementedError):
            numbers[name] = dequantize(content, type_).reshape(shape)
        writer.add_tensor(name, content, raw_dtype=type_)
    for name, value in (extra or {}).items():
        writer.add_tensor(name, value.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return Made(path, numbers)


def special(words: Words) -> dict[str, int | None]:
    """The ids of what begins and ends a text; None where the tokens have no such."""
    names = {"bos": BOS, "eos": EOS}
    return {
        f"tokenizer.ggml.{kind}_token_id": words.tokens.index(text) if text in words.tokens else None
        for kind, text in names.items()
    }


def add_key(writer: GGUFWriter, key: str, value: Any) -> None:
    """Put a key of Python's type for it into a file; None is left out."""
    if value is None:
        return
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)


def shapes(family: str, vocab: int, tied: bool, head: int = HEAD) -> dict[str, tuple[int, ...]]:
    """The tensors of a family by llama.cpp's names."""
    found: dict[str, tuple[int, ...]] = {"token_embd.weight": (vocab, WIDTH), "output_norm.weight": (WIDTH,)}
    if not tied:
        found["output.weight"] = (vocab, WIDTH)
    rows = {"attn_q": HEADS * head, "attn_k": KV_HEADS * head, "attn_v": KV_HEADS * head}
    for layer in range(LAYERS):
        block = f"blk.{layer}."
        found |= {f"{block}{name}.weight": (size, WIDTH) for name, size in rows.items()}
        found |= {f"{block}{name}.weight": (WIDTH,) for name in ("attn_norm", "ffn_norm")}
        found |= {f"{block}{name}.weight": (INNER, WIDTH) for name in ("ffn_gate", "ffn_up")}
        found |= {
            f"{block}attn_output.weight": (WIDTH, HEADS * head),
            f"{block}ffn_down.weight": (WIDTH, INNER),
        }
        if family == "qwen2":
            found |= {f"{block}{name}.bias": (size,) for name, size in rows.items()}
        if family == "qwen3":
            found |= {f"{block}attn_{name}_norm.weight": (head,) for name in "qk"}
    return found


def blocks(name: str, shape: tuple[int, ...], kind: GGMLQuantizationType) -> np.ndarray:
    """Random numbers in the bytes of a type.

    What the package cannot quantise to is made of random bytes, each without the bits that would make a
    float16 of it large.
    """
    rng = np.random.default_rng(sum(name.encode()))
    if len(shape) == 1:
        return rng.uniform(0.5, 1.5, shape).astype(np.float32)
    values = rng.normal(0, 0.1, shape).astype(np.float32)
    try:
        return quantize(values, kind)
    except NotImplementedError:
        block, size = GGML_QUANT_SIZES[kind]
        return (rng.integers(0, 256, (shape[0], shape[1] // block * size)) & 0x0F).astype(np.uint8)
