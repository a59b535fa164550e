"""Encode control tokens spelled inside messages as ordinary text, so that content cannot inject chat turns.

An answer under judgement may spell `<|im_end|>`. Encoded together with the template's own text it would close
the turn, and what follows could impersonate any role. So such spellings are hidden from the template, and the
rendered text is encoded by a copy of the tokenizer whose control tokens have names that occur in no message.
BPE merges across a spelling as across any other text.
"""

import json
import re
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

from tokenizers import Tokenizer as Codec

KNOWN_ENDS = frozenset(
    "<|im_end|> <|endoftext|> <|eot_id|> <|eom_id|> <|end_of_text|> <|end|> </s> <end_of_turn> <EOT>".split()
)
"""Special tokens that end a completion in every model that has them; llama.cpp has the same list."""
KNOWN_CONTROLS = KNOWN_ENDS | frozenset(
    "<s> <bos> <eos> <BOS> <EOS> <pad> <start_of_turn> <sop> <eop> [gMASK] [INST] [/INST] [SYSTEM_PROMPT] "
    "[/SYSTEM_PROMPT] [AVAILABLE_TOOLS] [/AVAILABLE_TOOLS] [TOOL_CALLS] [TOOL_RESULTS] [/TOOL_RESULTS] "
    "<<SYS>> <</SYS>> <BOS_TOKEN> <EOS_TOKEN>".split()
)
"""Control tokens of published models that do not have the shape `<|…|>`."""
WORD_JOINER = "\u2060"
"""A zero-width character: a spelling that contains it looks the same but is not the token."""

_SHAPE = r"<[|｜][^\s<>|｜]{1,64}[|｜]>"
_KNOWN = "|".join(re.escape(text) for text in sorted(KNOWN_CONTROLS, key=len, reverse=True))
_CONTROL = re.compile(f"{_SHAPE}|{_KNOWN}")
_FIRST_MARK = 0xF0000  # first supplementary private-use plane: its characters have no assigned meaning


def looks_like_control(text: str) -> bool:
    """Whether a token's text looks like a control token, whether or not its tokenizer marks it as special."""
    return _CONTROL.fullmatch(text) is not None


def spells_control(text: str) -> bool:
    """Whether a text contains the spelling of a control token."""
    return _CONTROL.search(text) is not None


def defused(text: str) -> str:
    """Insert a word joiner into every spelling that a server's tokenizer may read as a control token.

    Warns once if it changes the text.
    """
    changed = _CONTROL.sub(lambda found: found[0][0] + WORD_JOINER + found[0][1:], text)
    if changed != text:
        warnings.warn(
            "messages contain control tokens of a chat template, such as <|im_end|>; they are sent to the "
            "server with a word joiner (U+2060) after the first character, so that they remain text",
            stacklevel=2,
        )
    return changed


class ControlTokens:
    """Encodes text that spells the control tokens of a tokenizer.

    Args:
        codec: the tokenizer.
        tokens: ids of its control tokens by their texts.
    """

    def __init__(self, codec: Codec, tokens: Mapping[str, int]):
        self._codec = codec
        self._tokens = dict(tokens)
        self._names = sorted(tokens, key=len, reverse=True)  # the longest match wins, as in the codec
        self._numbers = {name: number for number, name in enumerate(self._names)}
        self._spelling = "|".join(map(re.escape, self._names))
        self._pattern = re.compile(self._spelling) if tokens else None
        self._normalised = self._pattern_of_normalised()
        self._codecs: dict[str, Codec] = {}

    def mark_for(self, texts: Iterable[str], template: str = "") -> str:
        """Return a character that occurs in no text and not in `template`; empty if none needs escaping."""
        texts = list(texts)
        if not any(map(self._is_spelt, texts)):
            return ""
        number = _FIRST_MARK
        while any(chr(number) in text for text in (*texts, template)):
            number += 1
        return chr(number)

    def hide(self, text: str, mark: str) -> str:
        """Replace every spelling of a control token by an escape that only `encode` reads."""
        if not mark or self._pattern is None:
            return text
        return self._pattern.sub(lambda found: f"{mark}{self._numbers[found[0]]};", text)

    def encode(self, text: str, mark: str) -> list[int]:
        """Encode a text; only the spellings that are not escaped become control tokens."""
        if not mark:
            return self._codec.encode(text, add_special_tokens=False).ids

        def named(found: re.Match[str]) -> str:
            hidden = found["hidden"]
            return self._names[int(hidden)] if hidden else self._alias(found[0], mark)

        known_by_alias = re.sub(f"{mark}(?P<hidden>\\d+);|{self._spelling}", named, text)
        if mark not in self._codecs:
            self._codecs[mark] = self._renamed(mark)
        return self._codecs[mark].encode(known_by_alias, add_special_tokens=False).ids

    def _is_spelt(self, text: str) -> bool:
        if self._pattern is None:
            return False
        if self._pattern.search(text):
            return True
        normaliser = self._codec.normalizer
        return (
            self._normalised is not None
            and self._normalised.search(normaliser.normalize_str(text)) is not None
        )

    def _pattern_of_normalised(self) -> re.Pattern[str] | None:
        """A pattern of the tokens that the codec matches in normalised text; None if there are none."""
        normaliser = self._codec.normalizer
        added = self._codec.get_added_tokens_decoder().values()
        names = [token.content for token in added if token.normalized and token.content in self._tokens]
        texts = [text for name in names if normaliser and (text := normaliser.normalize_str(name))]
        return re.compile("|".join(map(re.escape, texts))) if texts else None

    def _alias(self, name: str, mark: str) -> str:
        return f"{mark}{self._numbers[name]}{mark}"

    def _renamed(self, mark: str) -> Codec:
        """Copy the codec with its control tokens renamed, so that no text spells one."""
        names = {name: self._alias(name, mark) for name in self._names}
        content = json.loads(self._codec.to_str())
        for token in content["added_tokens"]:
            token["content"] = names.get(token["content"], token["content"])
        content["post_processor"] = None  # it refers to the old names and is not needed
        _rename_in_model(content["model"], names)
        codec = Codec.from_str(json.dumps(content))
        codec.encode_special_tokens = False
        found = {name: codec.token_to_id(alias) for name, alias in names.items()}
        assert found == self._tokens, "renaming tokens changed their ids"
        return codec


def _rename_in_model(model: dict[str, Any], names: Mapping[str, str]) -> None:
    """Rename tokens in the vocabulary and remove merges that build them."""
    vocabulary = model.get("vocab")
    if isinstance(vocabulary, dict):
        model["vocab"] = {names.get(piece, piece): number for piece, number in vocabulary.items()}
    elif isinstance(vocabulary, list):
        model["vocab"] = [[names.get(piece, piece), score] for piece, score in vocabulary]
    if "merges" in model:
        pairs = [pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"]]
        model["merges"] = [pair for pair in pairs if names.keys().isdisjoint((*pair, "".join(pair)))]
    if model.get("unk_token") in names:
        model["unk_token"] = names[model["unk_token"]]
