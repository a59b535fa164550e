"""Render messages as token ids with the chat template of the checkpoint.

Training and inference share one rule: a training row is the generation prompt, the verbatim completion and
the end token, in that order. So a prompt at inference is, token for token, the one seen in training.
Templates that render a finished turn differently from the prompt before it (Qwen3 drops the thinking block of
earlier turns) cannot break the rule, because the last turn is never rendered by the template.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile
from operator import itemgetter
from pathlib import Path
from typing import Any, Literal

os.environ["TRANSFORMERS_NO_ADVISORY_WARNINGS"] = "1"  # otherwise it recommends installing PyTorch

from tokenizers import Tokenizer as Codec
from transformers import AutoTokenizer

from smidgen.data.chat import ChatTemplate
from smidgen.data.control_tokens import KNOWN_ENDS, ControlTokens, looks_like_control
from smidgen.data.stream_decoder import StreamDecoder
from smidgen.data.token_ids import known_ends
from smidgen.data.types import Message
from smidgen.errors import DataError, ModelError

TEXT = "text"
"""Role of a message that is the raw prompt: control tokens spelled in it are encoded as such."""


@dataclass(frozen=True)
class Rendered:
    """Token ids of a conversation and its loss mask, two lists of equal length."""

    token_ids: list[int]
    loss_mask: list[bool]


class Tokenizer:
    """A checkpoint's tokenizer with its chat template and end tokens; see `load_tokenizer`."""

    def __init__(self, path: Path, backend: Any):
        self.path = path
        self._backend = backend
        self._codec = plain(backend.backend_tokenizer)  # the Rust tokenizer avoids Python work per token
        self._template = ChatTemplate(path, backend)

    @property
    def vocab_size(self) -> int:
        """Number of tokens, added ones included; a model's embedding may be padded to more."""
        return len(self._backend)

    @cached_property
    def opening(self) -> list[int]:
        """Ids of the special tokens, such as BOS, that the tokenizer puts before every text."""
        probe = self._codec.encode("a")
        return [
            i for i, _ in takewhile(itemgetter(1), zip(probe.ids, probe.special_tokens_mask, strict=True))
        ]

    @property
    def vocabulary(self) -> dict[str, int]:
        """The id of every token by its text in tokenizer.json, added tokens included."""
        return self._codec.get_vocab(with_added_tokens=True)

    def has_id(self, token_id: int) -> bool:
        """Whether a number is the id of a token."""
        return 0 <= token_id < 2**32 and self._codec.id_to_token(token_id) is not None

    @property
    def has_template(self) -> bool:
        """Whether messages can be rendered."""
        return bool(self._backend.chat_template)

    @property
    def chat_template(self) -> str | None:
        """The Jinja source of the chat template, or None."""
        return self._template.text

    @property
    def has_thinking_switch(self) -> bool:
        """Whether the chat template reads the variable `enable_thinking`."""
        return self._template.has_thinking_switch

    @cached_property
    def eos_token_ids(self) -> frozenset[int]:
        """Every token that ends a completion, from the tokenizer, config files, template or known texts.

        Ids that are not in the vocabulary are ignored with a warning.
        """
        ids = {self._backend.eos_token_id, *_configured_eos(self.path)}
        ids |= {
            i
            for i, token in self._backend.added_tokens_decoder.items()
            if token.special and token.content in KNOWN_ENDS
        }
        if self.has_template:
            ids.add(self._end_of_turn)
        return known_ends(ids - {None}, self.has_id, self.path)

    def special_token_ids(self, *roles: str) -> dict[str, int | None]:
        """Return the `…_token_id` of roles such as `eos` and `pad` as the tokenizer declares them."""
        return {f"{role}_token_id": getattr(self._backend, f"{role}_token_id") for role in roles}

    @property
    def added_tokens(self) -> frozenset[str]:
        """Texts that are always one token: special tokens and tags."""
        return frozenset(token.content for token in self._backend.added_tokens_decoder.values())

    def to_json(self) -> str:
        """Return the content of a tokenizer.json without padding and truncation."""
        return self._codec.to_str()

    def encode(self, text: str) -> list[int]:
        """Encode `text`; special tokens spelled in it are recognised, none are added."""
        return self._codec.encode(text, add_special_tokens=False).ids

    def encode_after(self, messages: Sequence[Message], text: str) -> list[int]:
        """Encode `text` as a continuation of a prompt.

        After a raw prompt its tokens are those of the whole text, as far as the prompt keeps its own. What
        continues rendered messages begins a turn, and is encoded by itself, as in `render_conversation`.
        """
        if is_raw(messages):
            before, whole = self.encode(messages[0].content), self.encode(messages[0].content + text)
            if whole[: len(before)] == before:
                return whole[len(before) :]
            return self.encode(text)
        mark = self._controls.mark_for([text])
        return self._controls.encode(self._controls.hide(text, mark), mark)

    def decode(self, token_ids: Sequence[int], *, keep_special: bool = False) -> str:
        """Decode `token_ids`; special tokens such as `<|im_end|>` are dropped unless `keep_special`."""
        return self._codec.decode(token_ids, skip_special_tokens=not keep_special)

    def stream_decoder(self) -> StreamDecoder:
        """Return a decoder that takes one token at a time."""
        return StreamDecoder(self.decode)

    def render_prompt(self, messages: Sequence[Message], *, thinking: bool = False) -> list[int]:
        """Render messages and the generation prompt as token ids.

        If the last message is the assistant's, it is the beginning of the completion. A single message of the
        role `text` is the raw prompt, preceded only by the tokenizer's BOS token, if it has one.

        Raises:
            DataError: there are no messages, one has an unknown role, or the raw prompt is empty.
            ModelError: the tokenizer has no template, the template rejects the messages, or `thinking` is
                requested and the template has no such switch.
        """
        if is_raw(messages):
            if not (token_ids := self._opened(self.encode(messages[0].content))):
                raise DataError("the prompt is empty; expected at least one character")
            return token_ids
        shielded, mark = self._shielded(messages)
        begun = ""
        if messages and messages[-1].role == "assistant":
            begun = shielded.pop().content
        text = self._template.render(shielded, thinking=thinking)
        return self._opened(self._controls.encode(text + begun, mark))

    def render_conversation(
        self,
        messages: Sequence[Message],
        *,
        thinking: bool = False,
        mask: Literal["last", "all"] = "last",
    ) -> Rendered:
        """Render a conversation that ends with the assistant as token ids and a loss mask.

        The row ends with the generation prompt, the verbatim completion and the end token.

        Args:
            messages: the conversation.
            thinking: as in `render_prompt`.
            mask: the loss covers the `last` assistant turn or `all` of them, end tokens included.

        Raises:
            DataError: as in `render_prompt`, or the last message is not the assistant's.
            ModelError: as in `render_prompt`, or `mask` is `all` and the template rewrites earlier turns.
        """
        if not messages or messages[-1].role != "assistant":
            last = f"ends with '{messages[-1].role}'" if messages else "is empty"
            raise DataError(
                f"a training conversation must end with an assistant message, but this one {last}"
            )
        last_turn = len(messages) - 1
        turns = [i for i, m in enumerate(messages) if m.role == "assistant"] if mask == "all" else [last_turn]
        shielded, marked = self._shielded(messages)
        token_ids: list[int] = []
        loss_mask: list[bool] = []
        rendered = ""
        for turn in turns:
            prompt, answer = self._template.render(shielded[:turn], thinking=thinking), shielded[turn].content
            if not prompt.startswith(rendered):
                raise ModelError(
                    f"the chat template of {self.path} renders earlier assistant turns differently from the "
                    "prompts that they answered, so they cannot be trained on in one row; "
                    'use mask = "last", with one row per turn'
                )
            context = self._controls.encode(prompt[len(rendered) :], marked)
            context = context if rendered else self._opened(context)
            completion = [*self._controls.encode(answer, marked), self._end_of_turn]
            token_ids += context + completion
            loss_mask += [False] * len(context) + [True] * len(completion)
            rendered = prompt + answer + self.decode([self._end_of_turn], keep_special=True)
        return Rendered(token_ids, loss_mask)

    def _shielded(self, messages: Sequence[Message]) -> tuple[list[Message], str]:
        """Escape the control tokens spelled in messages; also return the escape mark for `_controls`."""
        mark = self._controls.mark_for((m.content for m in messages), template=self.chat_template or "")
        return [Message(m.role, self._controls.hide(m.content, mark)) for m in messages], mark

    def _opened(self, token_ids: list[int]) -> list[int]:
        """Prepend the tokenizer's opening tokens, unless the template already wrote them."""
        opening = self.opening
        return token_ids if token_ids[: len(opening)] == opening else [*opening, *token_ids]

    @cached_property
    def _controls(self) -> ControlTokens:
        """The tokens that messages cannot produce: special tokens, end tokens, and lookalikes."""
        ends = _configured_eos(self.path)
        return ControlTokens(
            self._codec,
            {
                token.content: i
                for i, token in self._backend.added_tokens_decoder.items()
                if token.special or i in ends or looks_like_control(token.content)
            },
        )

    @cached_property
    def _end_of_turn(self) -> int:
        """The token that closes an assistant turn: the first special token after its content."""
        probe = "smidgen"
        turns = [Message("user", probe), Message("assistant", probe)]
        text = self._template.render(turns, thinking=False, add_generation_prompt=False)
        tail = text[text.rindex(probe) + len(probe) :]
        special = {i for i, token in self._backend.added_tokens_decoder.items() if token.special}
        end = next((i for i in self.encode(tail) if i in special), self._backend.eos_token_id)
        if end is None:
            raise ModelError(
                f"the chat template of {self.path} puts no special token after an assistant turn and the "
                "tokenizer has no eos_token, so completions would never end; "
                "set eos_token in tokenizer_config.json"
            )
        return end


def is_raw(messages: Sequence[Message]) -> bool:
    """Whether a prompt is a raw text, to which no chat template is applied."""
    return [message.role for message in messages] == [TEXT]


def load_tokenizer(path: Path) -> Tokenizer:
    """Load the tokenizer of the model folder `path`, without downloads and without running code from it.

    Raises:
        ModelError: the folder has no tokenizer, or it cannot be read.
    """
    if not any((path / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        raise ModelError(
            f"there is no tokenizer in {path}; "
            "expected tokenizer.json and tokenizer_config.json next to the weights"
        )
    try:
        backend = AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the Rust parser raises bare Exception
        raise ModelError(f"the tokenizer in {path} cannot be read: {error}") from None
    if not backend.is_fast:
        raise ModelError(
            f"the tokenizer in {path} has no tokenizer.json; convert it with transformers and save it there"
        )
    return Tokenizer(path, backend)


def plain(codec: Codec) -> Codec:
    """Disable truncation, padding and BPE dropout of a codec, whatever its file says.

    A tokenizer.json stores the truncation and padding settings at the time it was saved, and BPE dropout.
    """
    codec.no_truncation()
    codec.no_padding()
    codec.encode_special_tokens = False
    if getattr(codec.model, "dropout", None) is not None:
        codec.model.dropout = None
    return codec


def fit(rendered: Rendered, max_length: int) -> tuple[Rendered, int]:
    """Truncate a row to `max_length` tokens at the left of its prompt; the completion is never truncated.

    Args:
        rendered: a row; its completion is the last run of tokens with loss.
        max_length: maximum number of tokens to keep.

    Returns:
        The row and the number of tokens removed.

    Raises:
        DataError: the completion and the one token before it, which predicts its first token, do not fit.
    """
    cut = max(len(rendered.token_ids) - max_length, 0)
    if cut == 0:
        return rendered, 0
    start = len(rendered.loss_mask)
    while start and rendered.loss_mask[start - 1]:
        start -= 1
    answer = len(rendered.token_ids) - start
    if answer + 1 > max_length:
        raise DataError(
            f"a completion has {answer} tokens and max_length allows {max_length}, prompt included; "
            f"raise max_length to {answer + 1} or more, or remove the row"
        )
    return Rendered(rendered.token_ids[cut:], rendered.loss_mask[cut:]), cut


def _configured_eos(path: Path) -> set[int]:
    """Read `eos_token_id` from generation_config.json and config.json, a number or a list."""
    found: set[int] = set()
    for name in ("generation_config.json", "config.json"):
        file = path / name
        if not file.is_file():
            continue
        try:
            value = json.loads(file.read_text(encoding="utf-8")).get("eos_token_id")
        except (OSError, ValueError, AttributeError) as error:
            raise ModelError(f"{file} is not a readable JSON object: {error}") from None
        ids = value if isinstance(value, list) else [] if value is None else [value]
        if not all(type(i) is int for i in ids):
            raise ModelError(
                f"eos_token_id in {file} is {value!r}; expected a token id or a list of token ids"
            )
        found.update(ids)
    return found
