"""The state of one request in llama.cpp: prompt, answer so far, and finish reason."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from smidgen.data.templates import Tokenizer
from smidgen.data.types import Completion, Request, Timing, TopLogprobs
from smidgen.errors import ConfigError
from smidgen.inference.constraints import check_constrained, grammar_of
from smidgen.inference.inbox import Submitted
from smidgen.inference.sampling import check_sampling
from smidgen.inference.stopping import Ending, GrowingText


@dataclass(eq=False)
class LlamaRow:
    """One request being decoded.

    llama.cpp returns no log-probability for a token that ends inside a character or belongs to a stop string;
    then the answer has no log-probabilities at all. In a stream it also omits the ids of the former, and what
    follows the last whole character.

    Attributes:
        submitted: the request.
        prompt: token ids of the prompt.
        max_tokens: maximum tokens of the answer.
        text, ending: detect stop conditions other than an end token.
        token_ids, logprobs, top_logprobs: the answer so far.
        hidden: number of its tokens without a log-probability.
        streamed: the text that came with the tokens of a stream.
        num_shown: number of tokens up to the last that came in a stream.
        is_torn: whether a stream has ended without its last tokens.
        num_streamed: number of characters already streamed out.
        finish_reason: why it is finished, or None.
        is_cancelled: whether the request was cancelled.
    """

    submitted: Submitted
    prompt: list[int]
    max_tokens: int
    text: GrowingText
    ending: Ending | None
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    top_logprobs: list[TopLogprobs] = field(default_factory=list)
    hidden: int = 0
    streamed: str = ""
    num_shown: int = 0
    is_torn: bool = False
    time_to_first_token: float | None = None
    seconds: float = 0.0
    num_streamed: int = 0
    finish_reason: str | None = None
    is_cancelled: bool = False

    @property
    def request(self) -> Request:
        """The request."""
        return self.submitted.request

    def take_piece(self) -> str:
        """Return the settled text that has not been streamed out yet."""
        begin, self.num_streamed = self.num_streamed, max(self.num_streamed, self.text.settled)
        return self.text.text[begin : self.num_streamed]

    def take(self, answer: dict[str, Any], ends: frozenset[int]) -> None:
        """Append an answer of llama.cpp, up to the request's own stop conditions."""
        times = answer["timings"]
        if self.time_to_first_token is None:
            self.time_to_first_token = times["prompt_ms"] / 1000
        self.seconds += (times["prompt_ms"] + times["predicted_ms"]) / 1000
        by_eos = answer["stop_type"] == "eos"
        token_ids = answer["tokens"]
        found = answer.get("completion_probabilities", ())
        self._take_logprobs(found)
        self.hidden += len(token_ids) - len(found)
        for place, token_id in enumerate(token_ids, start=1):
            self.token_ids.append(token_id)
            is_end = token_id in ends or (by_eos and place == len(token_ids))
            if not is_end:
                self.text.push(token_id)
            ended = self.ending is not None and self.ending.is_complete(self.token_ids)
            if is_end or ended or self.text.is_stopped:
                self.finish_reason = "stop"
                return
        if len(self.token_ids) >= self.max_tokens:
            self.finish_reason = "length"
        elif by_eos or not token_ids:
            self.finish_reason = "stop"

    def take_guided(
        self,
        token_ids: Sequence[int],
        logprobs: Sequence[float],
        times: Sequence[Mapping[str, float]],
        ends: frozenset[int],
        *,
        is_over: bool,
    ) -> None:
        """Take a whole answer whose constraint was followed outside of llama.cpp.

        Args:
            token_ids: the answer, with its end token if it has one.
            logprobs: log-probabilities of its tokens, if they are wanted.
            times: llama.cpp's timings of every request for a token of it.
            ends: end tokens.
            is_over: whether the answer is complete, rather than cut at the maximum length.
        """
        if times:
            self.time_to_first_token = times[0]["prompt_ms"] / 1000
        self.seconds = sum(each["prompt_ms"] + each["predicted_ms"] for each in times) / 1000
        self.token_ids = list(token_ids)
        self.logprobs = list(logprobs) if self.request.logprobs else []
        for token_id in token_ids:
            if token_id not in ends:
                self.text.push(token_id)
        self.finish_reason = "stop" if is_over else "length"

    def take_part(self, part: dict[str, Any], ends: frozenset[int]) -> None:
        """Append one part of a streamed answer: text, and the last of its tokens."""
        (choice,) = part["choices"]
        usage = part.get("usage")
        # llama.cpp does not treat every end token of smidgen as one, so it may continue after it.
        if self.token_ids and self.token_ids[-1] in ends and usage is None:
            self.finish_reason = "stop"
            return
        if self.time_to_first_token is None:
            self.time_to_first_token = self.seconds
        if not self.request.logprobs:
            self.token_ids += part["__verbose"]["tokens"]
        for entry in (choice["logprobs"] or {"content": ()})["content"]:
            self.token_ids.append(entry["id"])
            self._take_logprobs([entry])
        self.streamed += choice["text"]
        self.text.push_text(choice["text"])
        if usage is None:
            self.num_shown = part["__verbose"]["tokens_predicted"]
        else:
            self.hidden = usage["completion_tokens"] - len(self.token_ids)
            self.is_torn = usage["completion_tokens"] > self.num_shown
        ended = self.ending is not None and self.ending.is_in(self.text.text)
        if ended or self.text.is_stopped:
            self.finish_reason = "stop"
        else:
            self.finish_reason = choice["finish_reason"]

    def _take_logprobs(self, entries: Sequence[Mapping[str, Any]]) -> None:
        self.logprobs += [entry["logprob"] for entry in entries]
        if count := self.request.top_logprobs:
            self.top_logprobs += [
                tuple((top["id"], top["logprob"]) for top in entry["top_logprobs"][:count])
                for entry in entries
            ]

    def completion(self) -> Completion:
        """Return the completion of a finished row."""
        assert self.finish_reason is not None
        if self.finish_reason == "context":
            return Completion("", finish_reason="context")
        text = self.text.finish()
        if self.ending is not None:
            text = self.ending.cut(text)
        count = len(self.token_ids)
        logprobs = () if self.hidden else tuple(self.logprobs[:count])
        tops = () if self.hidden else tuple(self.top_logprobs[:count])
        token_ids = tuple(self.token_ids)
        if self.streamed and self.hidden:
            token_ids, count = (), count + self.hidden
        timing = Timing(self.time_to_first_token or 0.0, self.seconds, len(self.prompt), count)
        return Completion(text, token_ids, logprobs, self.finish_reason, timing, top_logprobs=tops)


def llama_row(submitted: Submitted, tokenizer: Tokenizer, context: int, *, thinking: bool) -> LlamaRow:
    """Build the row of a request; it is already finished if its prompt leaves no room for an answer.

    Raises:
        ConfigError: a sampling setting is out of range or not supported by llama.cpp, or a constraint cannot
            be enforced.
        DataError: there are no messages.
        ModelError: the chat template rejects the messages.
    """
    request = submitted.request
    sampling = request.sampling
    check_sampling(sampling)
    if sampling.frequency_penalty:
        raise ConfigError(
            "the engine llama does not support frequency_penalty, since llama.cpp also counts the tokens of "
            "the prompt; leave it out or use the engine mlx"
        )
    check_constrained(request, thinking=thinking)
    if request.constraint is not None:
        grammar_of(request.constraint)
    prompt = tokenizer.render_prompt(request.sample.messages, thinking=thinking)
    ends, boxed = sampling.stop_after, sampling.stop_at_boxed
    row = LlamaRow(
        submitted,
        prompt,
        min(sampling.max_tokens, context - len(prompt)),
        GrowingText(tokenizer.stream_decoder(), sampling.stop),
        Ending(tokenizer, ends, boxed=boxed, thinking=thinking) if ends or boxed else None,
    )
    row.finish_reason = None if row.max_tokens > 0 else "context"
    return row
