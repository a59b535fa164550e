"""One request on its way: what was asked, what is answered so far, and whether that is all."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from smidgen.data.types import Request, Timing
from smidgen.inference.constraints import Guide
from smidgen.inference.sampling import RowState
from smidgen.inference.stopping import Ending, GrowingText


@dataclass(eq=False)
class Row:
    """One request on its way.

    Attributes:
        prompt: its token ids.
        max_tokens: longest answer.
        state: what drawing has to know.
        text: the answer as text, where it is watched while it grows.
        ending: watches for strings that end the answer.
        guide: what a constraint allows.
        token_ids, logprobs: the answer so far.
        ahead: tokens that the constraint leaves no choice about, to be run and scored by the next pass.
        finish_reason: why it is over, or None.
    """

    request: Request
    prompt: list[int]
    max_tokens: int
    state: RowState
    text: GrowingText | None
    ending: Ending | None
    guide: Guide | None
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    ahead: list[int] = field(default_factory=list)
    started: float = 0.0
    first_token: float = 0.0
    last_token: float = 0.0
    finish_reason: str | None = None

    @property
    def unrun(self) -> list[int]:
        """The tokens that the next pass runs: the prompt or the token drawn last, then those ahead."""
        return (self.token_ids[-1:] or self.prompt) + self.ahead

    def look_ahead(self, most: int) -> None:
        """Find out which tokens, at most so many, have to come next."""
        if self.guide is not None:
            self.ahead = self.guide.force(min(most, self.max_tokens - len(self.token_ids)))

    def take_ahead(self, logprobs: Sequence[float], now: float) -> None:
        """Take the tokens that had to come."""
        self._append(self.ahead, logprobs, now)
        self.ahead = []
        self._finish()

    def take(self, token_id: int, logprob: float, *, is_end: bool, now: float) -> None:
        """Take a token that was drawn and note whether it is the last."""
        if self.guide is not None and not is_end:
            self.guide.take(token_id)
        self._append([token_id], [logprob], now, is_end=is_end)
        self._finish(is_end=is_end)

    @property
    def timing(self) -> Timing:
        """How long it took."""
        return Timing(
            time_to_first_token=self.first_token - self.started,
            seconds=self.last_token - self.started,
            prompt_tokens=len(self.prompt),
            completion_tokens=len(self.token_ids),
        )

    def _append(
        self, token_ids: Sequence[int], logprobs: Sequence[float], now: float, *, is_end: bool = False
    ) -> None:
        if not self.token_ids:
            self.first_token = now
        self.last_token = now
        self.token_ids += token_ids
        self.logprobs += logprobs
        for token_id in token_ids:
            self.state.record(token_id)
            if self.text is not None and not is_end:
                self.text.push(token_id)

    def _finish(self, *, is_end: bool = False) -> None:
        ended = self.ending is not None and self.ending.is_complete(self.token_ids)
        complete = self.guide is not None and self.guide.is_complete
        if is_end or ended or complete or (self.text is not None and self.text.is_stopped):
            self.finish_reason = "stop"
        elif len(self.token_ids) == self.max_tokens:
            self.finish_reason = "length"
