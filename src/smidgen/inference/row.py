"""The state of one request being decoded: prompt, answer so far, and finish reason."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from smidgen.data.templates import Tokenizer
from smidgen.data.types import Completion, Passes, Request, Sample, Sampling, Timing, TopLogprobs
from smidgen.errors import SmidgenError
from smidgen.inference.constraints import Guide, Guides, check_constrained
from smidgen.inference.inbox import Submitted
from smidgen.inference.sampling import RowState, check_sampling
from smidgen.inference.stopping import Ending, GrowingText


@dataclass(eq=False)
class DecodeRow:
    """One request being decoded.

    Attributes:
        submitted: the request.
        prompt: token ids of the prompt.
        max_tokens: maximum tokens of the answer.
        state: sampling state.
        text: the answer as text, if it is needed during decoding (streaming, stop strings).
        ending: detects strings that end the answer and belong to it.
        guide: state of the constraint.
        token_ids, logprobs, top_logprobs: the answer so far.
        forced: tokens forced by the constraint, to be run and scored in the next pass.
        draft: tokens that a drafter expects after those, to be run and verified in the next pass.
        committed: with drafts, number of tokens that each pass gave, in order.
        drafted: number of tokens that were drafted.
        near_ties: number of tokens whose choice is open to rounding.
        started, first_token, last_token: times in seconds, from `time.perf_counter`.
        num_streamed: number of characters already streamed out.
        finish_reason: why it is finished, or None.
        error: why it failed, or None.
    """

    submitted: Submitted
    prompt: list[int]
    max_tokens: int
    state: RowState
    text: GrowingText | None
    ending: Ending | None
    guide: Guide | None
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    top_logprobs: list[TopLogprobs] = field(default_factory=list)
    forced: list[int] = field(default_factory=list)
    draft: list[int] = field(default_factory=list)
    committed: list[int] = field(default_factory=list)
    drafted: int = 0
    near_ties: int = 0
    started: float = 0.0
    first_token: float = 0.0
    last_token: float = 0.0
    num_streamed: int = 0
    finish_reason: str | None = None
    error: SmidgenError | None = None

    @property
    def request(self) -> Request:
        """The request."""
        return self.submitted.request

    @property
    def num_top(self) -> int:
        """Number of the most probable tokens whose log-probabilities are wanted at every place."""
        return self.request.top_logprobs if self.request.logprobs else 0

    @property
    def scores_forced(self) -> bool:
        """Whether the log-probabilities of forced tokens are wanted."""
        return self.request.logprobs and self.request.forced_logprobs

    @property
    def is_finished(self) -> bool:
        """Whether the row is finished or failed."""
        return self.finish_reason is not None or self.error is not None

    @property
    def next_tokens(self) -> list[int]:
        """The tokens of the next pass: the prompt or the last sampled token, the forced ones, the draft."""
        return (self.token_ids[-1:] or self.prompt) + self.forced + self.draft

    def plan_forced(self, most: int) -> None:
        """Set `forced` to at most `most` forced tokens."""
        if self.guide is not None:
            try:
                self.forced = self.guide.force(min(most, self.max_tokens - len(self.token_ids)))
            except SmidgenError as error:
                self.error = error

    def restrict(self) -> bool:
        """Update the mask of allowed tokens from the constraint; return False if that failed."""
        try:
            self.state.allowed = None if self.guide is None else self.guide.allowed()
        except SmidgenError as error:
            self.error = error
        return self.error is None

    def draftable(self) -> int:
        """Return how many tokens a draft may have: one less than could follow those that are forced."""
        if self.is_finished or (self.guide is not None and self.guide.is_complete):
            return 0
        return max(0, self.max_tokens - len(self.token_ids) - len(self.forced) - 1)

    def ahead(self) -> list[RowState]:
        """Return the states of the next token and of the one after each token of the draft.

        There are fewer where the draft leaves the constraint, and none if the constraint cannot be followed.
        """
        if not self.restrict():
            return []
        states, guide = [self.state], self.guide and self.guide.fork()
        for token in self.draft:
            allowed = None
            if guide is not None:
                try:
                    if (mask := states[-1].allowed) is not None and not mask[token]:
                        break
                    guide.take(token)
                    if guide.is_complete:
                        break
                    allowed = guide.allowed()
                except SmidgenError:
                    break  # it is an error only if the draft is right; then the row meets it itself
            states.append(states[-1].after(token, allowed))
        return states

    def take_piece(self) -> str:
        """Return the settled text that has not been streamed out yet."""
        assert self.text is not None
        begin, self.num_streamed = self.num_streamed, max(self.num_streamed, self.text.settled)
        return self.text.text[begin : self.num_streamed]

    def take_forced(self, logprobs: Sequence[float], now: float) -> None:
        """Append the forced tokens with their log-probabilities."""
        self._append(self.forced, logprobs, now)
        self.forced = []
        self._finish()

    def take(self, token_id: int, logprob: float, *, is_end: bool, now: float) -> None:
        """Append a sampled token and check whether it is the last.

        The forced tokens that complete an answer are appended with it, for no pass is needed unless their
        log-probabilities are wanted; they count as 0 then.
        """
        rest: list[int] = []
        if self.guide is not None and not is_end:
            try:
                self.guide.take(token_id)
                if not self.scores_forced:
                    rest = self.guide.end(self.max_tokens - len(self.token_ids) - 1)
            except SmidgenError as error:
                self.error = error
                return
        self._append([token_id, *rest], [logprob] + [0.0] * len(rest), now, is_end=is_end)
        self._finish(is_end=is_end)

    @property
    def timing(self) -> Timing:
        """Timing of the row."""
        return Timing(
            time_to_first_token=self.first_token - self.started,
            seconds=self.last_token - self.started,
            prompt_tokens=len(self.prompt),
            completion_tokens=len(self.token_ids),
        )

    @property
    def passes(self) -> Passes | None:
        """How the row was decoded, if with drafts."""
        return Passes(tuple(self.committed), self.drafted, self.near_ties) if self.committed else None

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


class RowBuilder:
    """Builds rows from requests to one model, and completions from finished rows."""

    def __init__(self, tokenizer: Tokenizer, context: int, *, thinking: bool):
        """Prepare for a model.

        Args:
            tokenizer: the model's tokenizer.
            context: maximum tokens of a row, answer included.
            thinking: passed to the chat template.
        """
        self.tokenizer = tokenizer
        self.context = context
        self._thinking = thinking
        self._endings: dict[tuple[tuple[str, ...], bool], Ending] = {}
        self._guides = Guides(tokenizer)

    def prompt(self, sample: Sample) -> list[int]:
        """Return the token ids of a sample's prompt."""
        return self.tokenizer.render_prompt(sample.messages, thinking=self._thinking)

    def build(self, submitted: Submitted) -> DecodeRow:
        """Build a row; it is already finished if its prompt leaves no room for an answer.

        Raises:
            ConfigError: a sampling setting is out of range, or a constraint cannot be enforced.
            DataError: there are no messages.
            ModelError: the chat template rejects the messages.
        """
        request = submitted.request
        check_sampling(request.sampling)
        guide = self._guide(request)
        prompt = self.prompt(request.sample)
        text = None
        if submitted.stream or request.sampling.stop:
            text = GrowingText(self.tokenizer.stream_decoder(), request.sampling.stop)
        max_tokens = min(request.sampling.max_tokens, self.context - len(prompt))
        state = RowState.begin(request.sample.id, request.sampling, prompt, scored=request.logprobs)
        row = DecodeRow(submitted, prompt, max_tokens, state, text, self._ending(request.sampling), guide)
        row.finish_reason = None if max_tokens > 0 else "context"
        return row

    def completion(self, row: DecodeRow) -> Completion:
        """Return the completion of a finished row."""
        assert row.finish_reason is not None
        token_ids = row.token_ids
        if not token_ids:
            return Completion("", finish_reason=row.finish_reason)
        if row.text is not None:
            text = row.text.finish()
        else:
            ended = token_ids[-1] in self.tokenizer.eos_token_ids
            text = self.tokenizer.decode(token_ids[:-1] if ended else token_ids)
        if row.ending is not None:
            text = row.ending.cut(text)
        logprobs = tuple(row.logprobs) if row.request.logprobs else ()
        tops = tuple(row.top_logprobs)
        return Completion(text, tuple(token_ids), logprobs, row.finish_reason, row.timing, row.passes, tops)

    def _guide(self, request: Request) -> Guide | None:
        """Return the guide of a request's constraint, if it has one."""
        check_constrained(request, thinking=self._thinking)
        return self._guides.begin(request.constraint) if request.constraint else None

    def _ending(self, sampling: Sampling) -> Ending | None:
        """Return the detector of the answer's end; shared by rows, since it caches which tokens matter."""
        watched = sampling.stop_after, sampling.stop_at_boxed
        if any(watched) and watched not in self._endings:
            ends, boxed = watched
            self._endings[watched] = Ending(self.tokenizer, ends, boxed=boxed, thinking=self._thinking)
        return self._endings.get(watched)
