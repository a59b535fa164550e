"""Render messages as text with the Jinja chat template of a checkpoint.

Templates differ in the input they accept. Some have no system role or require user and assistant to alternate
(Gemma, Mistral), some expect the content of a message as a list of parts, and a template may silently drop
input in the wrong form. So several arrangements are tried, and a rendered prompt must contain its messages.
"""

import json
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

from jinja2 import TemplateError

from smidgen.data.types import Message
from smidgen.errors import DataError, ModelError

ROLES = ("system", "user", "assistant")

_REFUSALS = (TemplateError, TypeError, ValueError, ArithmeticError, LookupError)
_PROBE = "smidgen7probe"
_WORD = re.compile(r"(?<![/\w])\w+")  # excludes soft switches such as /no_think, which templates remove


class ChatTemplate:
    """The chat template of the transformers tokenizer `backend`, which was loaded from the folder `path`."""

    def __init__(self, path: Path, backend: Any):
        self._path = path
        self._backend = backend
        self._warned: set[str] = set()

    @property
    def text(self) -> str | None:
        """The Jinja source of the template, or None."""
        return self._backend.get_chat_template() if self._backend.chat_template else None

    @property
    def has_thinking_switch(self) -> bool:
        """Whether the template reads the variable `enable_thinking`."""
        return re.search(r"\benable_thinking\b", self.text or "") is not None

    def render(
        self, messages: Sequence[Message], *, thinking: bool, add_generation_prompt: bool = True
    ) -> str:
        """Render the messages in the first arrangement that the template accepts without losing content.

        Raises:
            DataError: there are no messages, or one has an unknown role.
            ModelError: there is no template, it rejects the messages or drops their content, or `thinking`
                is requested and it has no such switch.
        """
        self._check(messages, thinking)
        switches: dict[str, Any] = {"add_generation_prompt": add_generation_prompt}
        if self.has_thinking_switch:
            switches["enable_thinking"] = thinking
        refusal: Exception | None = None
        for warning, arranged in _arrangements(messages):
            try:
                text = self._apply(arranged, in_parts=bool(self._reads_parts), **switches)
            except _REFUSALS as error:
                refusal = refusal or error
                continue
            if self._reads_parts is not None and all(_holds(text, message) for message in arranged):
                self._warn_once(warning)
                return text
        if refusal is not None:
            raise ModelError(f"the chat template of {self._path} rejected the messages: {refusal}") from None
        raise self._content_lost()

    @cached_property
    def _reads_parts(self) -> bool | None:
        """Whether the template needs content as a list of parts; None if it renders neither form."""
        probe = [Message("user", _PROBE)]
        refused = False
        for in_parts in (False, True):
            try:
                text = self._apply(probe, in_parts=in_parts, add_generation_prompt=True)
            except _REFUSALS:
                refused = refused or not in_parts
                continue
            if _PROBE in text and "'type'" not in text:  # the list must not be printed as a Python literal
                return in_parts
        return False if refused else None  # the role may have been rejected; `render` reports why

    def _apply(self, messages: Sequence[Message], *, in_parts: bool, **switches: Any) -> str:
        turns = [
            {"role": m.role, "content": [{"type": "text", "text": m.content}] if in_parts else m.content}
            for m in messages
        ]
        return self._backend.apply_chat_template(turns, tokenize=False, **switches)

    def _check(self, messages: Sequence[Message], thinking: bool) -> None:
        if not messages:
            raise DataError("there are no messages to render; expected at least one")
        if not self._backend.chat_template:
            raise ModelError(
                f"the tokenizer of {self._path} has no chat template, so messages cannot be rendered; "
                "use an instruction-tuned checkpoint or add a chat_template.jinja to the folder"
            )
        if unknown := sorted({m.role for m in messages} - set(ROLES)):
            raise DataError(
                f"unknown role {', '.join(map(repr, unknown))}; expected one of {', '.join(ROLES)}"
            )
        if thinking and not self.has_thinking_switch:
            raise ModelError(
                f"thinking is enabled, but the chat template of {self._path} has no enable_thinking "
                "switch; disable thinking or use a checkpoint whose template has the switch"
            )

    def _content_lost(self) -> ModelError:
        return ModelError(
            f"the chat template of {self._path} renders prompts without the text of the messages; "
            "use a checkpoint with a text template, or replace its chat_template.jinja"
        )

    def _warn_once(self, warning: str) -> None:
        if warning and warning not in self._warned:
            self._warned.add(warning)
            warnings.warn(f"the chat template of {self._path} {warning}", stacklevel=2)


def _arrangements(messages: Sequence[Message]) -> Iterator[tuple[str, list[Message]]]:
    """Yield the messages unchanged, then each adaptation that templates may need, with its warning."""
    forms: tuple[tuple[str, Callable[[Message], str]], ...] = (
        (
            "requires user and assistant to alternate, so consecutive messages of one role are merged",
            _own_role,
        ),
        ("has no system role, so the system message opens the first user message", _user_for_system),
    )
    tried = list(messages)
    yield "", tried
    for warning, role_of in forms:
        arranged = [
            Message(role, "\n\n".join(turn.content for turn in turns if turn.content))
            for role, turns in groupby(messages, key=role_of)
        ]
        if arranged != tried:
            tried = arranged
            yield warning, arranged


def _own_role(message: Message) -> str:
    return message.role


def _user_for_system(message: Message) -> str:
    return "user" if message.role == "system" else message.role


def _holds(text: str, message: Message) -> bool:
    """Whether a rendered text contains a message, verbatim or at least each of its words.

    The thinking of an assistant message may be missing; most templates drop it.
    """
    content = message.content
    if message.role == "assistant":
        content = (
            re.split(r"<think>|</think>", content)[-1]
            if "</think>" in content
            else content.partition("<think>")[0]
        )
    content = content.strip()
    if content in text:
        return True
    return all(word in text or json.dumps(word)[1:-1] in text for word in _WORD.findall(content))
