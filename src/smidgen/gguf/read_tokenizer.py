"""The tokenizer that a GGUF file's metadata describe, as the files that transformers reads.

Two kinds can be told: byte-level BPE (`tokenizer.ggml.model` is `gpt2`), whose way to split text into words
is named, and SentencePiece's BPE (`llama`), whose merges follow from the scores of its pieces.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gguf import TokenType
from tokenizers import AddedToken, decoders, models, normalizers, processors
from tokenizers import Tokenizer as Codec

from smidgen.data.templates import KNOWN_ENDS
from smidgen.data.token_ids import known_ids
from smidgen.errors import ModelError
from smidgen.files import write_json
from smidgen.gguf.pre_tokenizers import PRE_TOKENIZERS, Splitting, pre_tokenizer

FORMAT = 4
"""Counts changes of what is written here; what a cache holds of an older format is no longer used."""

_SPACE = "▁"
_AS_A_WHOLE = (TokenType.UNKNOWN, TokenType.CONTROL, TokenType.USER_DEFINED)
"""Types of the tokens that llama.cpp finds in a text before it splits the rest."""
_SENTENCEPIECE_IDS = {"bos": 1, "eos": 2, "unknown": 0}
"""Special tokens of a SentencePiece file that names none."""


def write_tokenizer(folder: Path, file: Path, metadata: dict[str, Any]) -> None:
    """Write `tokenizer.json`, the chat template and what ends an answer.

    Args:
        folder: where they go.
        file: the GGUF file, for messages.
        metadata: what it says, by key.

    Raises:
        ModelError: it describes no tokenizer, or none of a kind that can be told.
    """
    codec_of(file, metadata).save(str(folder / "tokenizer.json"))
    settings: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
    }
    tokens = metadata["tokenizer.ggml.tokens"]
    named = {"bos": "bos", "eos": "eos", "pad": "padding", "unk": "unknown"}
    for kind, key in named.items():
        if (token := special_token(file, metadata, key)) is not None:
            settings[f"{kind}_token"] = tokens[token]
    write_json(folder / "tokenizer_config.json", settings)
    write_json(folder / "generation_config.json", {"eos_token_id": end_tokens(file, metadata)})
    if template := metadata.get("tokenizer.chat_template"):
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")


def end_tokens(file: Path, metadata: dict[str, Any]) -> list[int]:
    """Return every token that ends a completion: those that a file names and those known by their text."""
    ends = {i for kind in ("eos", "eot", "eom") if (i := special_token(file, metadata, kind)) is not None}
    ends |= {i for i, text in enumerate(metadata["tokenizer.ggml.tokens"]) if text in KNOWN_ENDS}
    return sorted(ends)


def special_token(file: Path, metadata: dict[str, Any], kind: str) -> int | None:
    """Return the id of a special token that a file names, if it has a token of that id."""
    is_sentencepiece = metadata.get("tokenizer.ggml.model") == "llama"
    default = _SENTENCEPIECE_IDS.get(kind) if is_sentencepiece else None
    value = metadata.get(f"tokenizer.ggml.{kind}_token_id", default)
    known = range(len(metadata["tokenizer.ggml.tokens"])).__contains__
    return None if value is None else next(iter(known_ids([value], known, f"{kind} token", file)), None)


def codec_of(file: Path, metadata: dict[str, Any]) -> Codec:
    """Return the tokenizer that a file's metadata describe; `write_tokenizer` says what is refused."""
    kind, pre = metadata.get("tokenizer.ggml.model"), metadata.get("tokenizer.ggml.pre", "default")
    if not metadata.get("tokenizer.ggml.tokens") and kind in ("gpt2", "llama"):
        raise ModelError(f"{file} names no tokens of its tokenizer; it is damaged, so make or fetch it again")
    if kind == "gpt2" and pre in PRE_TOKENIZERS:
        codec, opens = _byte_level(file, metadata, PRE_TOKENIZERS[pre]), PRE_TOKENIZERS[pre].opens
    elif kind == "llama":
        codec, opens = _sentencepiece(file, metadata), True
    else:
        shown = f"gpt2 {pre}" if kind == "gpt2" else kind
        raise ModelError(
            f"the tokenizer in {file} is of the kind {shown}; expected llama, or gpt2 with one of "
            f"{', '.join(PRE_TOKENIZERS)}, or the model's tokenizer.json and tokenizer_config.json beside "
            "the file"
        )
    tokens = metadata["tokenizer.ggml.tokens"]
    bos = special_token(file, metadata, "bos")
    if metadata.get("tokenizer.ggml.add_bos_token", opens) and bos is not None:
        codec.post_processor = processors.TemplateProcessing(
            single=f"{tokens[bos]} $A", special_tokens=[(tokens[bos], bos)]
        )
    types = metadata.get("tokenizer.ggml.token_type", [TokenType.NORMAL] * len(tokens))
    codec.add_tokens(
        [
            AddedToken(text, special=kind != TokenType.USER_DEFINED, normalized=False)
            for text, kind in zip(tokens, types, strict=True)
            if kind in _AS_A_WHOLE
        ]
    )
    return codec


def _byte_level(file: Path, metadata: dict[str, Any], way: Splitting) -> Codec:
    if "tokenizer.ggml.merges" not in metadata:
        raise ModelError(f"{file} names no merges of its tokenizer; it is damaged, so make or fetch it again")
    codec = Codec(
        models.BPE(
            vocab={text: i for i, text in enumerate(metadata["tokenizer.ggml.tokens"])},
            merges=[tuple(pair.split(" ")) for pair in metadata["tokenizer.ggml.merges"]],
            ignore_merges=way.whole_words,
        )
    )
    # as Qwen's tokenizer.json has it; llama.cpp takes text as it comes
    is_qwen = metadata.get("tokenizer.ggml.pre", "").startswith("qwen")
    codec.normalizer = normalizers.NFC() if is_qwen else None
    codec.pre_tokenizer = pre_tokenizer(way.steps)
    codec.decoder = decoders.ByteLevel()
    return codec


def _sentencepiece(file: Path, metadata: dict[str, Any]) -> Codec:
    """BPE over characters, with bytes for what is no piece.

    llama.cpp puts a space before a text and behind every token that is found as a whole, as this does.
    """
    tokens, scores = metadata["tokenizer.ggml.tokens"], metadata.get("tokenizer.ggml.scores")
    if not scores:
        raise ModelError(f"{file} names no scores of its tokenizer; it is damaged, so make or fetch it again")
    if missing := sorted({f"<0x{byte:02X}>" for byte in range(256)}.difference(tokens)):
        raise ModelError(
            f"the tokenizer in {file} has no token for the byte {missing[0]}, and {len(missing)} of 256 are "
            "missing; expected a SentencePiece tokenizer with byte fallback"
        )
    types = metadata.get("tokenizer.ggml.token_type", [TokenType.NORMAL] * len(tokens))
    vocabulary = {text: i for i, text in enumerate(tokens)}
    unknown = special_token(file, metadata, "unknown")
    codec = Codec(
        models.BPE(
            vocab=vocabulary,
            merges=list(_merges(vocabulary, scores, types)),
            unk_token=None if unknown is None else tokens[unknown],
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    spaces: list[Any] = [normalizers.Replace(" ", _SPACE)]
    to_text: list[Any] = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if metadata.get("tokenizer.ggml.add_space_prefix", True):
        spaces.insert(0, normalizers.Prepend(_SPACE))
        to_text.append(decoders.Strip(" ", 1, 0))
    codec.normalizer = normalizers.Sequence(spaces)
    codec.decoder = decoders.Sequence(to_text)
    return codec


def _merges(vocabulary: dict[str, int], scores: list[float], types: list[int]) -> Iterator[tuple[str, str]]:
    """Every pair of pieces that makes a piece; the best piece first, as SentencePiece merges."""
    pieces = [
        text for text, i in vocabulary.items() if types[i] in (TokenType.NORMAL, TokenType.USER_DEFINED)
    ]
    for piece in sorted(pieces, key=lambda text: -scores[vocabulary[text]]):
        for cut in range(1, len(piece)):
            pair = (piece[:cut], piece[cut:])
            if pair[0] in vocabulary and pair[1] in vocabulary:
                yield pair
