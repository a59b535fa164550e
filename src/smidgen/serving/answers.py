"""Answers in OpenAI's protocol: completions, chunks of streams, and log-probabilities.

https://platform.openai.com/docs/api-reference/chat/object, …/chat/streaming and …/completions/object. The
types describe the answers in the OpenAPI page too.
"""

from collections.abc import Sequence
from itertools import accumulate
from typing import Literal, NamedTuple, NotRequired

from typing_extensions import TypedDict

from smidgen.data.stream_decoder import REPLACEMENT
from smidgen.data.templates import Tokenizer
from smidgen.data.types import Completion, TopLogprobs

FinishReason = Literal["stop", "length"]


class Usage(TypedDict):
    """Numbers of tokens."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class TopLogprob(TypedDict):
    """A token that could have been chosen; one that is part of a character has no bytes here."""

    token: str
    logprob: float
    bytes: list[int] | None


class TokenLogprob(TypedDict):
    """A token of an answer; tokens that end inside a character have no text, the last one has all of it."""

    token: str
    logprob: float
    bytes: list[int] | None
    top_logprobs: list[TopLogprob]


class ChatLogprobs(TypedDict):
    """Log-probabilities of the tokens of a chat's answer."""

    content: list[TokenLogprob]
    refusal: None


class TextLogprobs(TypedDict):
    """Log-probabilities of the tokens of a completion."""

    tokens: list[str]
    token_logprobs: list[float]
    text_offset: list[int]
    top_logprobs: list[dict[str, float]] | None


class AnswerMessage(TypedDict):
    """The model's message."""

    role: Literal["assistant"]
    content: str
    refusal: None


class ChatChoice(TypedDict):
    """One of the answers to a chat."""

    index: int
    message: AnswerMessage
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason


class TextChoice(TypedDict):
    """One of the completions of a text."""

    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: FinishReason | None


class Head(TypedDict):
    """What all answers and all chunks begin with."""

    id: str
    object: str
    created: int
    model: str
    system_fingerprint: str


class ChatAnswer(Head):
    """Answer of `/v1/chat/completions`."""

    choices: list[ChatChoice]
    usage: Usage


class TextAnswer(Head):
    """Answer of `/v1/completions`."""

    choices: list[TextChoice]
    usage: Usage


class Delta(TypedDict, total=False):
    """What a chunk adds to a message."""

    role: Literal["assistant"]
    content: str
    refusal: None


class ChatChunkChoice(TypedDict):
    """What a chunk adds to one of the answers."""

    index: int
    delta: Delta
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason | None


class ChatChunk(Head):
    """A chunk of the stream of a chat."""

    choices: list[ChatChunkChoice]
    usage: NotRequired[Usage | None]


class TextChunk(Head):
    """A chunk of the stream of a completion."""

    choices: list[TextChoice]
    usage: NotRequired[Usage | None]


def usage_of(completions: Sequence[Completion], num_prompts: int = 1) -> Usage:
    """Return the tokens of completions; a prompt with several choices is counted once.

    Args:
        completions: the completions, those of a prompt in a row.
        num_prompts: number of prompts, all with the same number of choices.
    """
    choices = len(completions) // num_prompts
    timings = [completion.timing for completion in completions]
    read = sum(timing.prompt_tokens for timing in timings[::choices] if timing is not None)
    written = sum(timing.completion_tokens for timing in timings if timing is not None)
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


def reason_of(completion: Completion) -> FinishReason:
    """Return the finish reason; the other ones never come from an engine of this process as an answer."""
    return "length" if completion.finish_reason == "length" else "stop"


class TokenText(NamedTuple):
    """A token of an answer: its text and log-probability, and the most probable tokens in its place."""

    text: str
    logprob: float
    top: TopLogprobs


def tokens_of(completion: Completion, tokenizer: Tokenizer) -> list[TokenText] | None:
    """Return every token of a completion's text; None if the engine has no log-probabilities of it.

    The texts together are the completion's. An end token and what follows a stop string are left out.
    """
    if len(completion.logprobs) != len(completion.token_ids) or not completion.token_ids:
        return None if completion.text else []
    decoder, found, length = tokenizer.stream_decoder(), list[TokenText](), 0
    tops = completion.top_logprobs or ((),) * len(completion.token_ids)
    for token_id, logprob, top in zip(completion.token_ids, completion.logprobs, tops, strict=True):
        if token_id in tokenizer.eos_token_ids or length >= len(completion.text) > 0:
            break
        piece = decoder.push(token_id)[: len(completion.text) - length]
        length += len(piece)
        found.append(TokenText(piece, logprob, top))
    if found and length < len(completion.text):  # it ends inside a character
        found[-1] = found[-1]._replace(text=completion.text[length:])
    return found


def chat_logprobs(completion: Completion, tokenizer: Tokenizer) -> ChatLogprobs | None:
    """Return the log-probabilities of a chat's answer, or None if the engine has none of it."""
    tokens = tokens_of(completion, tokenizer)
    if tokens is None:
        return None
    content: list[TokenLogprob] = [
        {
            "token": each.text,
            "logprob": each.logprob,
            "bytes": list(each.text.encode()),
            "top_logprobs": [
                _top_logprob(tokenizer.decode([token_id], keep_special=True), logprob)
                for token_id, logprob in each.top
            ],
        }
        for each in tokens
    ]
    return {"content": content, "refusal": None}


def _top_logprob(text: str, logprob: float) -> TopLogprob:
    is_part = REPLACEMENT in text
    return {"token": text, "logprob": logprob, "bytes": None if is_part else list(text.encode())}


def text_logprobs(completion: Completion, tokenizer: Tokenizer) -> TextLogprobs | None:
    """Return the log-probabilities of a completion, or None if the engine has none of it."""
    tokens = tokens_of(completion, tokenizer)
    if tokens is None:
        return None
    tops: list[dict[str, float]] = [
        # The best of those with the same text, such as parts of characters.
        {tokenizer.decode([token_id], keep_special=True): logprob for token_id, logprob in each.top[::-1]}
        for each in tokens
    ]
    return {
        "tokens": [each.text for each in tokens],
        "token_logprobs": [each.logprob for each in tokens],
        "text_offset": list(accumulate((len(each.text) for each in tokens), initial=0))[:-1],
        "top_logprobs": tops if any(tops) else None,
    }
