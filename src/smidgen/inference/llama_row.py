"""One request on its way through llama.cpp: what came back of it, and whether it is over."""

from dataclasses import dataclass, field
from typing import Any

from smidgen.data.types import Completion, Request, Timing
from smidgen.inference.stopping import Ending, GrowingText


@dataclass(eq=False)
class LlamaRow:
    """One request on its way.

    llama.cpp gives no probability of a token that ends within a character or belongs to a string that ended
    the answer; then none of the answer's is known. In a stream it does not even name the former.

    Attributes:
        prompt: its token ids.
        max_tokens: longest answer.
        text, ending: what ends it besides an end token.
        token_ids, logprobs: the answer so far.
        hidden: how many of its tokens have no probability.
        streamed: the text that came with the tokens of a stream.
        finish_reason: why it is over, or None.
    """

    request: Request
    prompt: list[int]
    max_tokens: int
    text: GrowingText
    ending: Ending | None
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    hidden: int = 0
    streamed: str = ""
    time_to_first_token: float | None = None
    seconds: float = 0.0
    finish_reason: str | None = None

    def take(self, answer: dict[str, Any], ends: frozenset[int]) -> None:
        """Take what llama.cpp answered, up to where the request says that it ends."""
        times = answer["timings"]
        if self.time_to_first_token is None:
            self.time_to_first_token = times["prompt_ms"] / 1000
        self.seconds += (times["prompt_ms"] + times["predicted_ms"]) / 1000
        by_eos = answer["stop_type"] == "eos"
        token_ids = answer["tokens"]
        found = [entry["logprob"] for entry in answer.get("completion_probabilities", ())]
        self.logprobs += found
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

    def take_part(self, part: dict[str, Any], ends: frozenset[int]) -> None:
        """Take one part of a streamed answer: text, and the last of the tokens that it is made of."""
        (choice,) = part["choices"]
        usage = part.get("usage")
        if (
            self.token_ids and self.token_ids[-1] in ends and usage is None
        ):  # it takes no such token for an end
            self.finish_reason = "stop"
            return
        if self.time_to_first_token is None:
            self.time_to_first_token = self.seconds
        for entry in (choice["logprobs"] or {"content": ()})["content"]:
            self.token_ids.append(entry["id"])
            self.logprobs.append(entry["logprob"])
        self.streamed += choice["text"]
        self.text.push_text(choice["text"])
        if usage is not None:
            self.hidden = usage["completion_tokens"] - len(self.token_ids)
        ended = self.ending is not None and self.ending.is_in(self.text.text)
        if ended or self.text.is_stopped:
            self.finish_reason = "stop"
        else:
            self.finish_reason = choice["finish_reason"]

    def completion(self) -> Completion:
        """The answer."""
        assert self.finish_reason is not None
        if self.finish_reason == "context":
            return Completion("", finish_reason="context")
        text = self.text.finish()
        if self.ending is not None:
            text = self.ending.cut(text)
        count = len(self.token_ids)
        logprobs = () if self.hidden else tuple(self.logprobs[:count])
        token_ids = tuple(self.token_ids)
        if self.streamed and self.hidden:
            token_ids, count = (), count + self.hidden
        timing = Timing(self.time_to_first_token or 0.0, self.seconds, len(self.prompt), count)
        return Completion(text, token_ids, logprobs, self.finish_reason, timing)
