"""Train a tokenizer: byte-level BPE with Qwen2's pre-tokenizer and Qwen3's special tokens and chat markers.

Every runtime that supports Qwen3 can load the result. The pattern of the pre-tokenizer and the names of the
special tokens are part of that format; the chat template is our own and covers plain conversations with an
optional thinking block.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from smidgen.data.types import Message

# From the tokenizer.json of Qwen2 and Qwen3: contractions, words, single digits, punctuation, whitespace.
QWEN2_PATTERN = "|".join(
    (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)",
        r"[^\r\n\p{L}\p{N}]?\p{L}+",
        r"\p{N}",
        r" ?[^\s\p{L}\p{N}]+[\r\n]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    )
)
END_OF_TEXT, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
SPECIAL_TOKENS = (END_OF_TEXT, TURN_START, TURN_END)
THINKING_TOKENS = ("<think>", "</think>")

CHAT_TEMPLATE = """\
{%- for message in messages -%}
{{- '<|im_start|>' + message.role + '\\n' -}}
{%- if message.role == 'assistant' and loop.last and '</think>' not in message.content -%}
{{- '<think>\\n\\n</think>\\n\\n' -}}
{%- endif -%}
{{- message.content + '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|im_start|>assistant\\n' -}}
{%- if enable_thinking is not defined or not enable_thinking -%}
{{- '<think>\\n\\n</think>\\n\\n' -}}
{%- endif -%}
{%- endif -%}
"""


def chat_text(messages: Sequence[Message]) -> str:
    """Render a finished conversation as `CHAT_TEMPLATE` does, but faster; a test keeps the two equal."""
    text = ""
    for index, message in enumerate(messages):
        empty_thought = (
            message.role == "assistant" and index == len(messages) - 1 and "</think>" not in message.content
        )
        thought = "<think>\n\n</think>\n\n" if empty_thought else ""
        text += f"{TURN_START}{message.role}\n{thought}{message.content}{TURN_END}\n"
    return text


def train_tokenizer(documents: Iterable[str], vocab_size: int) -> Tokenizer:
    """Train a tokenizer with `vocab_size` entries, special tokens included, on the documents."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN2_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    markers = len(SPECIAL_TOKENS) + len(THINKING_TOKENS)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - markers,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_without_markers(documents), trainer)
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS]
    )
    # Not special: decoding drops special tokens, and parsers need the thinking tags.
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in THINKING_TOKENS])
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path, *, context: int) -> None:
    """Write the tokenizer files that other runtimes read; `context` is the context length in tokens."""
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "Qwen2Tokenizer",
        "add_prefix_space": False,
        "bos_token": None,
        "eos_token": TURN_END,
        "pad_token": END_OF_TEXT,
        "model_max_length": context,
        "clean_up_tokenization_spaces": False,
        "additional_special_tokens": [TURN_START, TURN_END],
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")


def _without_markers(documents: Iterable[str]) -> Iterable[str]:
    """Replace special tokens by line breaks, so that no merge is learned across them."""
    for document in documents:
        for marker in (*SPECIAL_TOKENS, *THINKING_TOKENS):
            document = document.replace(marker, "\n")
        yield document
