"""A byte-level BPE tokenizer as the metadata of a GGUF file.

llama.cpp has built-in pre-tokenizers that a file selects by name, so the name must match the regular
expression in `tokenizer.json`; others cannot be exported. llama.cpp does not normalise text: for a tokenizer
with NFC, the ids agree only for text that is already in NFC.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gguf import GGUFWriter, TokenType
from tokenizers import Tokenizer as Codec

from smidgen.data.templates import KNOWN_ENDS, Tokenizer, load_tokenizer
from smidgen.data.token_ids import NO_PAD, known_ids
from smidgen.errors import ModelError
from smidgen.gguf.pre_tokenizers import DIGITS, GPT2, WRITTEN

_IDENTITIES = ("NFC", None)


@dataclass(frozen=True)
class Vocabulary:
    """The tokenizer metadata of a GGUF file.

    Attributes:
        tokens: text of each token, as `tokenizer.json` spells it; padding up to the embedding's rows.
        types: `gguf.TokenType` of each.
        merges: pairs in their order, with a space between.
        pre: llama.cpp's name of the pre-tokenizer.
        bos: beginning-of-text token, if there is one.
        eos: tokens that end a completion, the tokenizer's own first.
        pad: padding token, if there is one.
        add_bos: whether `bos` is prepended when a text is tokenized.
        chat_template: Jinja template, if there is one.
    """

    tokens: list[str]
    types: list[int]
    merges: list[str]
    pre: str
    bos: int | None
    eos: tuple[int, ...]
    pad: int | None
    add_bos: bool
    chat_template: str | None


def read_vocabulary(path: Path, config: dict[str, Any]) -> Vocabulary:
    """Read the tokenizer of a model folder.

    Raises:
        ModelError: there is none, it is not byte-level BPE, llama.cpp has no such pre-tokenizer, or it has
            more tokens than the model.
    """
    tokenizer = load_tokenizer(path)
    content = _tokenizer_json(path)
    size = config["vocab_size"]
    if tokenizer.vocab_size > size:
        raise ModelError(
            f"the tokenizer in {path} has {tokenizer.vocab_size} tokens, but the model has {size}; "
            "use the tokenizer that the model was trained with"
        )
    codec = Codec.from_file(str(path / "tokenizer.json"))
    tokens, types = _tokens(codec, size)
    prefix = tokenizer.opening
    if len(prefix) > 1:
        raise ModelError(
            f"the tokenizer in {path} prepends {len(prefix)} tokens to every text, "
            "but a GGUF file can name only one; run the model with MLX instead"
        )
    settings = _settings(path)
    named = {kind: codec.token_to_id(text) for kind in ("bos", "pad") if (text := settings(f"{kind}_token"))}
    bos = prefix[0] if prefix else named.get("bos")
    return Vocabulary(
        tokens=tokens,
        types=types,
        merges=[_merge(pair) for pair in content["model"]["merges"]],
        pre=_pre_tokenizer(content, path),
        bos=bos if bos is not None else _configured(config, "bos", tokenizer),
        eos=_end_tokens(tokenizer, codec, settings("eos_token")),
        pad=named["pad"] if "pad" in named else _configured(config, "pad", tokenizer),
        add_bos=bool(prefix),
        chat_template=tokenizer.chat_template,
    )


def add_vocabulary(writer: GGUFWriter, vocabulary: Vocabulary) -> None:
    """Add a vocabulary to the metadata of a file.

    llama.cpp ends a completion at the tokens named as eos, eot and eom and at a built-in list of token texts.

    Raises:
        ModelError: the model has more end tokens than the metadata can name.
    """
    eos, *others = [*vocabulary.eos]
    untold = [token for token in others if vocabulary.tokens[token] not in KNOWN_ENDS]
    if len(untold) > 2:
        shown = ", ".join(vocabulary.tokens[token] for token in untold)
        raise ModelError(f"a GGUF file can name two end tokens besides eos, but this model has {shown}")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.types)
    writer.add_token_merges(vocabulary.merges)
    writer.add_add_bos_token(vocabulary.add_bos)
    writer.add_add_eos_token(False)
    if vocabulary.bos is not None:
        writer.add_bos_token_id(vocabulary.bos)
    if vocabulary.pad is not None:
        writer.add_pad_token_id(vocabulary.pad)
    keys = (writer.add_eos_token_id, writer.add_eot_token_id, writer.add_eom_token_id)
    for add, token in zip(keys, (eos, *untold), strict=False):
        add(token)
    if vocabulary.chat_template is not None:
        writer.add_chat_template(vocabulary.chat_template)


def _tokenizer_json(path: Path) -> dict[str, Any]:
    file = path / "tokenizer.json"
    if not file.is_file():
        raise ModelError(
            f"{file} does not exist, but GGUF export needs it; convert the tokenizer with transformers"
        )
    content = json.loads(file.read_text(encoding="utf-8"))
    kind = content["model"].get("type")
    if kind != "BPE" or content["model"].get("byte_fallback"):
        shown = "BPE with byte fallback (SentencePiece)" if kind == "BPE" else kind
        raise ModelError(f"the tokenizer in {path} is {shown}; only byte-level BPE can be exported to GGUF")
    if (content.get("normalizer") or {}).get("type") not in _IDENTITIES:
        raise ModelError(
            f"the tokenizer in {path} normalises text with {content['normalizer']['type']}, "
            "which llama.cpp does not support; run the model with MLX instead"
        )
    return content


def _tokens(codec: Codec, size: int) -> tuple[list[str], list[int]]:
    """Return text and type of each of `size` ids.

    Added tokens have the codec's ids, which may differ from those in `tokenizer.json`.
    """
    tokens = [f"[PAD{i}]" for i in range(size)]
    types = [int(TokenType.UNUSED)] * size
    for text, i in codec.get_vocab(with_added_tokens=False).items():
        tokens[i], types[i] = text, int(TokenType.NORMAL)
    for i, added in codec.get_added_tokens_decoder().items():
        kind = TokenType.CONTROL if added.special else TokenType.USER_DEFINED
        tokens[i], types[i] = added.content, int(kind)
    return tokens, types


def _merge(pair: str | list[str]) -> str:
    """Return a merge in GGUF's form; `tokenizer.json` has lists since tokenizers 0.20."""
    return pair if isinstance(pair, str) else " ".join(pair)


def _pre_tokenizer(content: dict[str, Any], path: Path) -> str:
    """Return llama.cpp's name of the pre-tokenizer."""
    outer = content.get("pre_tokenizer") or {}
    steps: list[str] = []
    for step in outer.get("pretokenizers", [outer]):
        if step.get("type") == "Split" and step.get("behavior") == "Isolated" and not step.get("invert"):
            steps.append(step["pattern"].get("Regex", ""))
        elif step.get("type") == "Digits" and step.get("individual_digits"):
            steps.append(DIGITS)
        elif step.get("type") == "ByteLevel" and not step.get("add_prefix_space"):
            steps += [GPT2] if step.get("use_regex", True) else []
        else:
            steps.append(str(step))
    name = WRITTEN.get((tuple(steps), bool(content["model"].get("ignore_merges"))))
    if name is None:
        raise ModelError(
            f"the tokenizer in {path} splits text by {' '.join(steps) or 'nothing'}, "
            "which matches no supported pre-tokenizer of llama.cpp"
        )
    return name


def _end_tokens(tokenizer: Tokenizer, codec: Codec, eos: str | None) -> tuple[int, ...]:
    """Return every token that ends a completion, the tokenizer's own first."""
    first = codec.token_to_id(eos) if eos else None
    if not tokenizer.eos_token_ids:
        raise ModelError(
            f"the tokenizer in {tokenizer.path} has no end token; set eos_token in its tokenizer_config.json"
        )
    return tuple(sorted(tokenizer.eos_token_ids, key=lambda token: (token != first, token)))


def _settings(path: Path) -> Callable[[str], str | None]:
    """Return a function that looks up the text of a token in `tokenizer_config.json`."""
    file = path / "tokenizer_config.json"
    settings = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}

    def text(key: str) -> str | None:
        value = settings.get(key)
        return value.get("content") if isinstance(value, dict) else value

    return text


def _configured(config: dict[str, Any], kind: str, tokenizer: Tokenizer) -> int | None:
    """Return the id of a special token that config.json names, if the vocabulary has it."""
    value = config.get(f"{kind}_token_id")
    if type(value) is not int or (kind == "pad" and value == NO_PAD):
        return None
    return next(iter(known_ids([value], tokenizer.has_id, f"{kind} token", tokenizer.path)), None)
