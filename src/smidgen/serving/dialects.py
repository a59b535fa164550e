"""How the two endpoints of generation write choices, and what chunks add to them."""

from typing import Any, Protocol

from smidgen.data.templates import Tokenizer
from smidgen.data.types import Completion
from smidgen.serving.answers import (
    ChatChoice,
    ChatChunkChoice,
    Delta,
    FinishReason,
    TextChoice,
    chat_logprobs,
    reason_of,
    text_logprobs,
)


class Dialect(Protocol):
    """How one endpoint writes its answers.

    Attributes:
        prefix: what ids begin with.
        name: the `object` of an answer.
        chunk_name: the `object` of a chunk.
    """

    prefix: str
    name: str
    chunk_name: str

    def choice(self, index: int, completion: Completion, logprobs: Any) -> Any:
        """Return a finished choice."""
        ...

    def opening(self, index: int) -> Any:
        """Return what the first chunk of a choice says, or None."""
        ...

    def piece(self, index: int, text: str) -> Any:
        """Return what a chunk with text says."""
        ...

    def closing(self, index: int, reason: FinishReason, logprobs: Any) -> Any:
        """Return what the last chunk of a choice says."""
        ...

    def logprobs(self, completion: Completion, tokenizer: Tokenizer) -> Any:
        """Return the log-probabilities of a completion."""
        ...


class ChatDialect:
    """Answers of `/v1/chat/completions`."""

    prefix, name, chunk_name = "chatcmpl-", "chat.completion", "chat.completion.chunk"

    def choice(self, index: int, completion: Completion, logprobs: Any) -> ChatChoice:
        """Return a finished choice."""
        return {
            "index": index,
            "message": {"role": "assistant", "content": completion.text, "refusal": None},
            "logprobs": logprobs,
            "finish_reason": reason_of(completion),
        }

    def opening(self, index: int) -> ChatChunkChoice:
        """Return what the first chunk of a choice says."""
        delta: Delta = {"role": "assistant", "content": "", "refusal": None}
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}

    def piece(self, index: int, text: str) -> ChatChunkChoice:
        """Return what a chunk with text says."""
        return {"index": index, "delta": {"content": text}, "logprobs": None, "finish_reason": None}

    def closing(self, index: int, reason: FinishReason, logprobs: Any) -> ChatChunkChoice:
        """Return what the last chunk of a choice says."""
        return {"index": index, "delta": {}, "logprobs": logprobs, "finish_reason": reason}

    def logprobs(self, completion: Completion, tokenizer: Tokenizer) -> Any:
        """Return the log-probabilities of a completion."""
        return chat_logprobs(completion, tokenizer)


class TextDialect:
    """Answers of `/v1/completions`."""

    prefix, name, chunk_name = "cmpl-", "text_completion", "text_completion"

    def choice(self, index: int, completion: Completion, logprobs: Any) -> TextChoice:
        """Return a finished choice."""
        reason = reason_of(completion)
        return {"index": index, "text": completion.text, "logprobs": logprobs, "finish_reason": reason}

    def opening(self, index: int) -> None:
        """Return nothing: a completion has no role."""

    def piece(self, index: int, text: str) -> TextChoice:
        """Return what a chunk with text says."""
        return {"index": index, "text": text, "logprobs": None, "finish_reason": None}

    def closing(self, index: int, reason: FinishReason, logprobs: Any) -> TextChoice:
        """Return what the last chunk of a choice says."""
        return {"index": index, "text": "", "logprobs": logprobs, "finish_reason": reason}

    def logprobs(self, completion: Completion, tokenizer: Tokenizer) -> Any:
        """Return the log-probabilities of a completion."""
        return text_logprobs(completion, tokenizer)
